"""Every chunk says what it was made with."""

from __future__ import annotations

import asyncio
from pathlib import Path

from st2v_stream.store.determinism import break_warning, determinism_class, without_breaks_from
from st2v_stream.types import CreateVideo
from videos.living import living, small_card, until, until_chunk


def test_every_chunk_of_a_film_names_its_determinism_class(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(CreateVideo("a film", num_frames=24))
            await until(live, view.id, "completed")
            chunks = await live._store.chunks(view.id)
            assert [chunk.made_with for chunk in chunks] == [determinism_class(small_card())] * 2

    asyncio.run(main())


def test_a_film_that_goes_on_in_another_class_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.01), model="testcard") as live:
            view = await live.create(CreateVideo("a film", num_frames=80))
            await until_chunk(live, view.id, 1)
        elsewhere = small_card()
        elsewhere.made_with = {"machine": "another", "dtype": "float16"}  # type: ignore[attr-defined]
        async with living(tmp_path, elsewhere) as live:
            resumed = await until(live, view.id, "completed")
            rows = await live._store.chunks(view.id)
            begins = next(row.index for row in rows if row.made_with == determinism_class(elsewhere))
            (warning,) = resumed.warnings
            assert warning.startswith(f"From chunk {begins} ({view.spec.start_of(begins) / 8:g} s) on it is made with machine")
            assert "another instead of" in warning
            assert "dtype" not in warning, "nothing is known of it before"
            await live.continue_(view.id, 8)
            assert (await until(live, view.id, "completed")).warnings == (warning,), "the same class goes on"
            redone, kept = await live.redo(view.id, begins)
            assert (redone.warnings, kept.warnings) == ((), (warning,))
            again = await until(live, view.id, "completed")
            assert again.warnings == (warning,), "it is made there again"

    asyncio.run(main())


def test_a_break_is_said_in_words() -> None:
    then = {"torch": "2.12", "threads": 1, "encoder": {"av": "15.0", "crf": 20}}
    now = {"torch": "2.13", "threads": 1, "encoder": {"av": "15.1", "crf": 20}, "gpu": "a new one"}
    said = break_warning(12, 13.0, then, now)
    expected = "From chunk 12 (13 s) on it is made with encoder av 15.1 instead of 15.0, torch 2.13 instead of 2.12: "
    assert said == expected + "pictures may differ from those of an unbroken run."
    assert break_warning(12, 13.0, then, {**then, "gpu": "a new one"}) is None
    assert without_breaks_from(["words", said], 12) == ("words",)
    assert without_breaks_from(["words", said], 13) == ("words", said)
