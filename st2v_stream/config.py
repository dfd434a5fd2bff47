"""Configuration: flags, then `ST2V_*` environment, then `st2v.toml`, then the defaults here."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from st2v_stream.direction import PRESETS
from st2v_stream.errors import InvalidRequest

_EXPECTED = {
    "port": "a whole number from 0 to 65535",
    "data_dir": "a path",
    "grace_s": "a whole number of seconds, 0 or more",
    "allowed_hosts": "a list of host names",
    "ice_servers": "a list of stun:host:port, turn:host:port or turns:host:port",
    "ice_networks": "a list of networks, such as 192.168.1.0/24",
    "ice_addresses": "a list of this machine's IP addresses",
}
POLICIES = ("all", "watched", "idle", "none")
_WHOLE_NUMBERS = ("port", "max_num_frames", "max_prompt_chars", "max_running", "max_viewers", "max_webrtc_viewers", "grace_s")
_MAY_BE_0 = ("port", "grace_s")
_LISTS = ("allowed_hosts", "ice_servers", "ice_networks", "ice_addresses")
_ICE_SERVER = re.compile(r"(?:stun|turns?):(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:\?transport=(?:udp|tcp))?")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a server can be told. Names are those of the flags, of `ST2V_<NAME>` and of the keys in st2v.toml."""

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "storybook"
    data_dir: Path = Path("data")
    device: str = "auto"
    preset: str = "live"
    token: str | None = None
    """Owner token; None: read or made in DATA/token."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names (without port) accepted besides localhost, 127.0.0.1, [::1] and `host`."""
    max_num_frames: int = 100_000
    max_prompt_chars: int = 2_000
    max_running: int = 4
    """Videos generated side by side (they take turns chunk by chunk); more wait in state queued."""
    max_viewers: int = 500
    when_unwatched: str = "run"
    grace_s: int = 24 * 3600
    """A deleted film can be had back for so long; less when the disk is full."""
    enhancer: str = "auto"
    """What makes films sharp: auto = what comes with the model, none, passthrough, lanczos, or a folder."""
    enhance: str = "watched"
    """When, for films that do not say so themselves: all, watched, idle or none."""
    max_webrtc_viewers: int = 32
    """Of `max_viewers`, those who may watch by WebRTC: each has sockets of its own."""
    ice_servers: tuple[str, ...] = ()
    """STUN and TURN servers that WebRTC uses (at most one of each); none unless given."""
    ice_username: str | None = None
    ice_credential: str | None = field(default=None, repr=False)
    """For the TURN server; viewers are told both."""
    ice_networks: tuple[str, ...] = ()
    """Networks in which a WebRTC viewer's own word for its address is believed, besides public addresses."""
    ice_addresses: tuple[str, ...] = ()
    """Addresses of this machine offered to WebRTC viewers; none given = all but loopback."""


def read_config(flags: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ, toml: Path = Path("st2v.toml")) -> Config:
    """Merge the three sources; a flag that is None was not given. Raises `InvalidRequest` naming the source."""
    merged: dict[str, Any] = {}
    for known in fields(Config):
        for source, values in (("flag", flags), ("environment", _environment(environ)), (str(toml), _toml(toml))):
            value = values.get(known.name)
            if value is not None:
                merged[known.name] = _convert(known.name, value, source)
                break
    return Config(**merged)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name[5:].lower(): value for name, value in environ.items() if name.startswith("ST2V_")}


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML", expected="key = value lines", received=str(error)) from error
    unknown = set(values) - {known.name for known in fields(Config)}
    if unknown:
        raise InvalidRequest(
            f"{path} has unknown keys", expected=", ".join(f.name for f in fields(Config)), received=sorted(unknown)
        )
    return values


def _convert(name: str, value: Any, source: str) -> Any:
    try:
        if name in _WHOLE_NUMBERS:
            number = int(value)
            if number < (0 if name in _MAY_BE_0 else 1):
                raise ValueError
            return number
        if name == "preset" and value not in PRESETS:
            raise InvalidRequest(f"preset from {source} is unknown", expected="one of " + ", ".join(PRESETS), received=value)
        if name == "enhance" and value not in POLICIES:
            raise InvalidRequest(f"enhance from {source} is unknown", expected="one of " + ", ".join(POLICIES), received=value)
        if name == "data_dir":
            return Path(value)
        if name in _LISTS:
            parts = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(map(str, value))
            _CHECKS.get(name, tuple)(parts)
            return parts
        return str(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"{name} from {source} is not usable",
            expected=_EXPECTED.get(name, "a whole number, 1 or more"),
            received=value,
            param=name,
        ) from error


def _check_ice_servers(servers: tuple[str, ...]) -> None:
    if not all(_ICE_SERVER.fullmatch(server) for server in servers):
        raise ValueError


_CHECKS: dict[str, Callable[[tuple[str, ...]], object]] = {
    "ice_servers": _check_ice_servers,
    "ice_networks": lambda networks: [ip_network(network) for network in networks],
    "ice_addresses": lambda addresses: [ip_address(address) for address in addresses],
}
