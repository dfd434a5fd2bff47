"""Configuration: flags, then `ST2V_*` environment, then `st2v.toml`, then the defaults here."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from st2v_stream.direction import PRESETS
from st2v_stream.errors import InvalidRequest

_EXPECTED = {"port": "a whole number from 0 to 65535", "data_dir": "a path", "allowed_hosts": "a list of host names"}


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


def read_config(flags: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ, toml: Path = Path("st2v.toml")) -> Config:
    """Merge the three sources; a flag that is None was not given. Raises `InvalidRequest` naming the source."""
    merged: dict[str, Any] = {}
    for field in fields(Config):
        for source, values in (("flag", flags), ("environment", _environment(environ)), (str(toml), _toml(toml))):
            value = values.get(field.name)
            if value is not None:
                merged[field.name] = _convert(field.name, value, source)
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
    unknown = set(values) - {field.name for field in fields(Config)}
    if unknown:
        raise InvalidRequest(
            f"{path} has unknown keys", expected=", ".join(f.name for f in fields(Config)), received=sorted(unknown)
        )
    return values


def _convert(name: str, value: Any, source: str) -> Any:
    try:
        if name in ("port", "max_num_frames", "max_prompt_chars", "max_running", "max_viewers"):
            number = int(value)
            if number < (0 if name == "port" else 1):
                raise ValueError
            return number
        if name == "preset" and value not in PRESETS:
            raise InvalidRequest(f"preset from {source} is unknown", expected="one of " + ", ".join(PRESETS), received=value)
        if name == "data_dir":
            return Path(value)
        if name == "allowed_hosts":
            return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else tuple(value)
        return str(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"{name} from {source} is not usable",
            expected=_EXPECTED.get(name, "a whole number, 1 or more"),
            received=value,
            param=name,
        ) from error
