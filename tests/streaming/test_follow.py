from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from st2v_stream.streaming.follow import RECENT, Bell, follow
from st2v_stream.types import LogEntry, Progress

PAGE = 7


class Shelf:
    """A log in memory that hands out pages, as the store does."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.reads = 0

    def grow(self, bell: Bell, kind: str = "segment") -> None:
        entry = LogEntry(len(self.entries) + 1, "segment", len(self.entries))
        self.entries.append(entry)
        bell.announce([entry])

    async def read(self, seq: int) -> Sequence[LogEntry]:
        self.reads += 1
        await asyncio.sleep(0)
        return [entry for entry in self.entries if entry.seq > seq][:PAGE]


async def read_seqs(shelf: Shelf, bell: Bell, seq: int, last: int) -> list[int]:
    seqs = list[int]()
    async with aclosing(follow(shelf.read, bell, seq)) as entries:
        async for entry in entries:
            if isinstance(entry, LogEntry):
                seqs.append(entry.seq)
                if entry.seq == last:
                    break
    return seqs


def test_a_hundred_followers_and_a_late_one_get_every_entry_once_in_order() -> None:
    async def main() -> None:
        shelf, bell, last = Shelf(), Bell(), 300
        early = [asyncio.create_task(read_seqs(shelf, bell, 0, last)) for _ in range(100)]
        late: list[asyncio.Task[list[int]]] = []
        for number in range(last):
            shelf.grow(bell)
            if number % 3 == 0:
                bell.announce_progress(Progress(number, 0, 3))
                await asyncio.sleep(0)
            if number == 200:
                late = [asyncio.create_task(read_seqs(shelf, bell, seq, last)) for seq in (0, 150, 200)]
        assert all(seqs == list(range(1, last + 1)) for seqs in await asyncio.gather(*early))
        assert await asyncio.gather(*late) == [list(range(seq + 1, last + 1)) for seq in (0, 150, 200)]
        assert bell.listeners == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_at_the_live_edge_the_store_is_not_asked_and_far_behind_it_is() -> None:
    async def main() -> None:
        shelf, bell = Shelf(), Bell()
        for _ in range(2 * RECENT):
            shelf.grow(bell)
        await read_seqs(shelf, bell, 2 * RECENT - 5, 2 * RECENT)
        assert shelf.reads == 0
        await read_seqs(shelf, bell, 0, 2 * RECENT)
        assert shelf.reads > 0

    asyncio.run(main())


def test_entries_announced_out_of_order_are_not_lost() -> None:
    async def main() -> None:
        shelf, bell = Shelf(), Bell()
        shelf.entries = [LogEntry(seq, "segment", seq) for seq in (1, 2, 3)]
        for seq in (1, 3, 2):
            bell.announce([shelf.entries[seq - 1]])
        assert await read_seqs(shelf, bell, 0, 3) == [1, 2, 3]

    asyncio.run(main())


def test_only_the_newest_progress_is_told_and_each_once() -> None:
    async def main() -> list[int]:
        shelf, bell = Shelf(), Bell()
        steps = list[int]()
        async with aclosing(follow(shelf.read, bell)) as entries:
            for step in range(5):
                bell.announce_progress(Progress(0, step, 9))
            for later in (7, 8):
                news = await anext(entries)
                assert isinstance(news, Progress)
                steps.append(news.step)
                bell.announce_progress(Progress(0, later, 9))
        return steps

    assert asyncio.run(main()) == [4, 7]


def test_notices_come_without_a_seq_of_their_own_and_closing_ends() -> None:
    async def main() -> list[LogEntry | Progress]:
        shelf, bell = Shelf(), Bell()
        shelf.grow(bell)
        got = list[LogEntry | Progress]()
        async with aclosing(follow(shelf.read, bell)) as entries:
            got.append(await anext(entries))
            bell.announce_notice(LogEntry(1, "state", 1))
            got.append(await anext(entries))
            shelf.grow(bell)
            got.append(await anext(entries))
            bell.close()
            got += [entry async for entry in entries]
        return got

    got = [(entry.seq, entry.kind) for entry in asyncio.run(main()) if isinstance(entry, LogEntry)]
    assert got == [(1, "segment"), (1, "state"), (2, "segment")]


def test_the_bell_knows_whether_anybody_listens() -> None:
    async def main() -> None:
        shelf, bell = Shelf(), Bell()
        shelf.grow(bell)
        watched = asyncio.create_task(bell.watched())
        await asyncio.sleep(0)
        assert not watched.done()
        async with aclosing(follow(shelf.read, bell)) as entries:
            await anext(entries)
            await watched
            assert bell.unwatched_for_s == 0
        assert bell.unwatched_for_s > 0

    asyncio.run(main())


def test_what_was_reset_is_not_handed_out_from_memory() -> None:
    async def main() -> None:
        shelf, bell = Shelf(), Bell()
        for _ in range(3):
            shelf.grow(bell)
        kept = shelf.entries[:1]
        reset = LogEntry(4, "reset", 1)
        shelf.entries = [*kept, reset]  # the store has forgotten the chunks from 1 on
        bell.announce([reset])
        assert await read_seqs(shelf, bell, 0, 4) == [1, 4]
        assert bell.recent_after(3) == [reset]

    asyncio.run(main())
