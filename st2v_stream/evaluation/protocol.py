"""What is filmed and how it is measured: a file of prompts, or the paper's protocol with 50 prompts of our own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from st2v_stream.config import Config
from st2v_stream.errors import InvalidRequest

PAPER_FRAMES = 240
_PROMPTS = Path(__file__).with_name("prompts.txt")
_MOST_CHARS = Config().max_prompt_chars


@dataclass(frozen=True, slots=True)
class Protocol:
    """name: as the command line and the reports call it. num_frames: per film, made or looked at.

    resizes_all: every measure sees 720x720 frames. shares_first_chunk: models that are compared start from the first chunk
    of the first one, where they can.
    """

    name: str
    num_frames: int | None
    resizes_all: bool
    shares_first_chunk: bool


PLAIN = Protocol("plain", None, resizes_all=False, shares_first_chunk=False)
PAPER = Protocol("paper", PAPER_FRAMES, resizes_all=True, shares_first_chunk=True)
PROTOCOLS = {protocol.name: protocol for protocol in (PLAIN, PAPER)}


def paper_prompts() -> tuple[str, ...]:
    """Our 50 prompts of the same composition as the paper's test set."""
    return read_prompts(_PROMPTS)


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt per line; empty lines and lines that begin with # are skipped.

    Raises `InvalidRequest` naming the file and the line: not UTF-8, too long, unprintable, twice, or no prompt at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        received = error.strerror or str(error)
        raise InvalidRequest(
            f"{path} cannot be read", expected="a file of prompts", received=received, param="prompts"
        ) from error
    prompts: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        prompt = _decoded(line, path, number).strip()
        if prompt and not prompt.startswith("#"):
            _check(prompt, path, number, prompts)
            prompts[prompt] = number
    if not prompts:
        raise InvalidRequest(f"{path} holds no prompt", expected="one prompt per line", received="none", param="prompts")
    return tuple(prompts)


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _fault(path, number, "UTF-8 text", f"byte {line[error.start]:#04x}") from error


def _check(prompt: str, path: Path, number: int, before: dict[str, int]) -> None:
    if not prompt.isprintable():
        raise _fault(path, number, "printable text", prompt)
    if len(prompt) > _MOST_CHARS:
        raise _fault(path, number, f"at most {_MOST_CHARS} characters", f"{len(prompt)} characters")
    if prompt in before:  # the same film twice would count as two
        raise _fault(path, number, "every prompt once", f"the prompt of line {before[prompt]} again")


def _fault(path: Path, number: int, expected: str, received: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path}, line {number}, is not a usable prompt", expected=expected, received=received, param="prompts"
    )


def pair_with_videos(prompts: Iterable[str], videos: int, path: Path) -> tuple[str, ...]:
    """The prompts of films that exist: one per video, in their order. Raises `InvalidRequest` if the numbers differ."""
    paired = tuple(prompts)
    if len(paired) != videos:
        expected = f"{videos}, one per video in their order"
        raise InvalidRequest(f"{path} has another number of prompts", expected=expected, received=len(paired), param="prompts")
    return paired
