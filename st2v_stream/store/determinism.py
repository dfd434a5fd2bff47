"""The determinism class of a chunk: what has to be equal for the same arguments to give the same bits.

Measured: the same convolution gives other bits with two threads than with one, and x264 other bytes; so threads, versions,
device and settings are written down with every chunk (`ChunkRow.made_with`, one row in the database for all chunks of a
class). Within a class frames are compared by their sha256 before the encoder; across classes nothing is promised.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from st2v_stream import __version__
from st2v_stream.media.segment import EncodeSpec
from st2v_stream.types import Generator


def determinism_class(generator: Generator) -> dict[str, Any]:
    """Plain values. What the generator itself knows (weights_sha256, device, dtype) it says in an attribute `made_with`."""
    return {
        "model": generator.card.name,
        "model_version": generator.card.version,
        "st2v_stream": __version__,
        "machine": platform.machine(),
        "numpy": _version("numpy"),
        **_of_torch(),
        **getattr(generator, "made_with", {}),
        "encoder": {**asdict(EncodeSpec.for_stream(generator.spec)), "av": _version("av")},
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By name what is not the same in both, None for what is missing in one."""
    names = sorted({*one, *other})
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def break_warning(index: int, start_s: float, made_with: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A sentence for a film that goes on at chunk `index` in another class than it was made with so far; None in the same.

    What is known of one of them only (a newer st2v writes down more; a torch that nothing needed yet) counts as the same.
    """
    known = {name: pair for name, pair in differences(_flat(made_with), _flat(now)).items() if None not in pair}
    if not known:
        return None
    said = ", ".join(f"{name} {pair[1]} instead of {pair[0]}" for name, pair in known.items())
    return f"From chunk {index} ({start_s:g} s) on it is made with {said}: pictures may differ from those of an unbroken run."


def without_breaks_from(warnings: Iterable[str], index: int) -> tuple[str, ...]:
    """The warnings that still hold once the chunks from `index` on are made anew."""
    found = ((_BREAK.match(warning), warning) for warning in warnings)
    return tuple(warning for match, warning in found if match is None or int(match[1]) < index)


_BREAK = re.compile(r"From chunk ([0-9]+) \([0-9.e+]+ s\) on it is made with ")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What lies in a mapping under `outer inner`."""
    flat = dict[str, Any]()
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name} ") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _of_torch() -> dict[str, Any]:
    """Of the torch that is loaded: a model that needs none is made without, and this does not load it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_initialized():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
