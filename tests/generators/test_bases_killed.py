"""kill -9 of a process whose film a base model began, while a later chunk is made; the next process ends the same film.

Run as a program, `python test_bases_killed.py HOME DATA BASE START` makes that film and says which chunks are acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import living

from st2v_stream.checkpoints.models import folder_entry
from st2v_stream.types import CreateVideo, Generator, LogEntry, ModelEntry, Reference

CHUNKS = 4
TESTS = Path(__file__).resolve().parent.parent


def wanted(start: str) -> CreateVideo:
    rng = np.random.default_rng(0)
    references = {
        "text": None,
        "image": Reference(rng.integers(0, 256, (1, 90, 120, 3), np.uint8)),
        "clip": Reference(rng.integers(0, 256, (20, 64, 64, 3), np.uint8)),
    }
    settings = {"preset": "default", "guidance_scale": 2.0, "num_inference_steps": 2, "seed": 5}
    return CreateVideo("a red boat", num_frames=16 + 8 * (CHUNKS - 1), reference=references[start], **settings)  # type: ignore[arg-type]


def entry(home: Path, base: str) -> ModelEntry:
    return folder_entry(home / "streaming-t2v", device="cpu", base_model=base)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "start"),
    [
        ("ModelscopeT2V", "clip"),
        pytest.param("AnimateDiff", "text", marks=pytest.mark.long),
        pytest.param("SVD", "image", marks=pytest.mark.long),
    ],
)
def test_a_killed_film_goes_on_as_if_nothing_had_been(
    base: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import small_bases

    folders = {"ModelscopeT2V": small_bases.write_modelscope, "AnimateDiff": small_bases.write_animatediff}
    for write in (small_bases.write_streaming_model, folders.get(base, small_bases.write_svd)):
        write(tmp_path)
    monkeypatch.setattr(living, "PATIENCE_S", 120)
    kill_after_two_chunks(tmp_path, base, start)
    generator = entry(tmp_path, base).load()
    assert asyncio.run(finished(tmp_path / "data", generator)) == list(unbroken(generator, wanted(start)))


def kill_after_two_chunks(home: Path, base: str, start: str) -> None:
    # As many threads as here: other ones may round otherwise (store/determinism).
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, __file__, str(home), str(home / "data"), base, start]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert next((line for line in process.stdout if line == "segment 1\n"), None)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


async def finished(data_dir: Path, generator: Generator) -> list[str]:
    """sha256 of the frames of every chunk, once the film is whole."""
    async with living.living(data_dir, models={"small": living.entry_of(generator)}) as live:
        (view,), _ = await live.list()
        assert 2 <= view.chunks < CHUNKS
        entries = await living.entries_to_the_end(live, view.id)
        assert [one.index for one in entries if one.segment] == list(range(CHUNKS))
        return await living.frame_hashes(live, view.id)


def unbroken(generator: Generator, request: CreateVideo) -> Iterator[str]:
    """The same film made in one go, without any of the flow."""
    direction = generator.card.direction(
        request.prompt, preset="default", guidance_scale=2.0, num_inference_steps=2, seed=request.seed or 0
    )
    frames, memory = generator.begin(direction, request.reference, lambda k, n: None)
    yield hashlib.sha256(frames.tobytes()).hexdigest()
    for _ in range(CHUNKS - 1):
        frames, memory = generator.generate(direction, memory, lambda k, n: None)
        yield hashlib.sha256(frames.tobytes()).hexdigest()


async def make_and_tell(home: Path, data_dir: Path, base: str, start: str) -> None:
    async with living.living(data_dir, models={"small": entry(home, base)}) as live:
        view = await live.create(wanted(start))
        async with aclosing(live.follow(view.id)) as news:
            async for one in news:
                if isinstance(one, LogEntry):
                    print(one.kind, one.index, flush=True)


if __name__ == "__main__":
    asyncio.run(make_and_tell(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]))
