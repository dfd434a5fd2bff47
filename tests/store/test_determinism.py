from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream import __version__
from st2v_stream.chunk import StreamSpec
from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.determinism import determinism_class, differences
from store.films import new_view, records_after
from store.test_store import opened


def test_it_says_what_can_change_a_bit_and_is_the_same_in_another_process() -> None:
    code = """if True:
        import json, sys
        from st2v_stream.generators.testcard import TestCard
        from st2v_stream.store.determinism import determinism_class
        print(json.dumps(determinism_class(TestCard(64, 48, steps=1))))
        assert "torch" not in sys.modules"""
    told = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
        for _ in range(2)
    ]
    assert told[0] == told[1]
    assert told[0]["st2v_stream"] == __version__
    assert told[0]["encoder"]["crf"] == 20
    assert {"model", "model_version", "numpy", "machine"} <= set(told[0])
    assert "threads" not in told[0], "what has no torch depends on no torch"


@pytest.mark.slow
def test_threads_and_what_the_generator_says_are_part_of_it() -> None:
    torch = pytest.importorskip("torch")
    card, threads = TestCard(64, 48, steps=1), torch.get_num_threads()
    before = determinism_class(card)
    assert before["torch"] == torch.__version__
    try:
        torch.set_num_threads(threads + 1)
        assert differences(before, determinism_class(card)) == {"threads": (threads, threads + 1)}
    finally:
        torch.set_num_threads(threads)
    card.made_with = {"weights_sha256": "ab", "dtype": "float16"}  # type: ignore[attr-defined]
    assert differences(before, determinism_class(card)) == {"dtype": (None, "float16"), "weights_sha256": (None, "ab")}


def test_sizes_are_part_of_it_through_the_encoder() -> None:
    small, large = determinism_class(TestCard(64, 48, steps=1)), determinism_class(TestCard(256, 256, steps=1))
    assert list(differences(small, large)) == ["encoder"]
    assert isinstance(TestCard(64, 48).spec, StreamSpec)


def test_every_chunk_says_its_class_and_a_class_is_stored_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {})
            classes = [{"threads": 1}, {"threads": 1}, {"threads": 2}, None]
            for record, made_with in zip(islice(records_after(), 4), classes, strict=True):
                await store.commit("video_a", 0, replace(record, made_with=made_with))
            assert [chunk.made_with for chunk in await store.chunks("video_a")] == classes
            assert [chunk.made_with for chunk in await store.chunks("video_a", 1, 2)] == classes[1:3]
            rows = await store._database.run(lambda connection: connection.execute("SELECT count(*) FROM config").fetchone()[0])
            assert rows == 3, "the film's own and two classes"

    asyncio.run(main())
    lines = (tmp_path / "videos" / "video_a.jsonl").read_text().splitlines()
    assert json.loads(json.loads(lines[-2])["chunk"]["made_with"]) == {"threads": 2}
