"""HLS: what players are told while a film grows, is cut back, sharpened and ended; and ffmpeg, which reads it."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import pytest
from server.running import BEARER, TOKEN, in_loop, running
from server.standin import SPEC, Standin, sha
from starlette.testclient import TestClient

from delivery.numbered import Numbered, link
from st2v_stream.config import Config
from st2v_stream.delivery.film import following
from st2v_stream.delivery.hls import Listing, Moved, Playlist, Playlists
from st2v_stream.errors import NotFound, NotReady
from st2v_stream.generators.testcard import TestCard, read_frame_number
from st2v_stream.server.app import create_app
from st2v_stream.types import BranchVideo, Changes, CreateVideo, LogEntry, ModelEntry, Rendition, SegmentRef
from st2v_stream.videos.live import Live

Following = tuple[Standin, Playlists]


def uris(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def payloads(director: Standin, text: str) -> list[str]:
    """What the listed segments are, as the stand-in wrote it: `video/index/rendition/revision`."""
    names = [re.fullmatch(r"segments/([0-9a-f]{64})\.m4s", uri) for uri in uris(text)]
    return [director.blobs[name[1]].decode().partition(";")[0] for name in names if name]


async def newest(playlists: Playlists, video_id: str, rendition: Rendition = "preview") -> str:
    """The playlist at the address that it is at now."""
    moved = await playlists.media(video_id, rendition, None, "event")
    assert isinstance(moved, Moved)
    edit, kind = re.fullmatch(r"\w+\.m3u8\?edit=(\d+)(?:&type=(vod))?", moved.uri).groups()  # type: ignore[union-attr]
    text = await playlists.media(video_id, rendition, int(edit), kind or "event")
    assert isinstance(text, Playlist)
    return text.text


def follow(**settings: Any) -> Following:
    director = Standin()
    return director, Playlists(director, asyncio.Event(), **settings)


# ---------------------------------------------------------------- one film, as it grows


@in_loop
async def test_a_playlist_only_grows_until_the_film_ends() -> None:
    director, playlists = follow()
    video = director.add(1)
    before = ""
    for index in range(1, 6):
        playlist = await playlists.media(video, "preview", 0, "event")
        assert isinstance(playlist, Playlist)
        text = playlist.text
        assert text.startswith(before)
        assert len(uris(text)) == index
        assert "#EXT-X-ENDLIST" not in text
        before = text
        director.segment(video, index)
    director.state(video, state="completed", ended_by="length")
    ended = await playlists.media(video, "preview", 0, "event")
    assert isinstance(ended, Playlist)
    whole = ended.text
    assert whole.startswith(before)
    assert "#EXT-X-PLAYLIST-TYPE:EVENT" in whole
    assert whole.endswith("#EXT-X-ENDLIST\n")
    vod = await newest(playlists, video)
    assert "#EXT-X-PLAYLIST-TYPE:VOD" in vod
    assert uris(vod) == uris(whole)


@in_loop
async def test_a_film_that_goes_on_after_its_end_is_an_event_again() -> None:
    director, playlists = follow()
    video = director.add(2, ended=True)
    assert "type=vod" in (await playlists.master(video)).text
    director.state(video, state="running", ended_by=None)
    director.segment(video, 2)
    assert "type=vod" not in (await playlists.master(video)).text
    assert await playlists.media(video, "preview", 0, "vod") == Moved("preview.m3u8?edit=0")
    text = await newest(playlists, video)
    assert len(uris(text)) == 3
    assert "#EXT-X-ENDLIST" not in text


@in_loop
async def test_a_film_that_is_cut_back_moves_and_goes_on_at_the_same_place() -> None:
    director, playlists = follow()
    video = director.add(4)
    assert len(uris(await newest(playlists, video))) == 4
    cut = director.reset(video, 2).seq
    director.segment(video, 2, revision=1)
    assert await playlists.media(video, "preview", 0, "event") == Moved(f"preview.m3u8?edit={cut}")
    text = await newest(playlists, video)
    assert payloads(director, text) == [f"{video}/0/preview/0", f"{video}/1/preview/0", f"{video}/2/preview/1"]
    (discontinuity,) = re.findall(r"#EXT-X-DISCONTINUITY\n#EXTINF:1.00000,\nsegments/(\w+)\.m4s", text)
    assert director.blobs[discontinuity].decode().startswith(f"{video}/2/preview/1")
    fresh = Playlists(director, asyncio.Event())
    assert await newest(fresh, video) == text, "who reads the whole log later sees the same"


@in_loop
async def test_another_making_of_a_listed_chunk_moves_the_playlist_too() -> None:
    director, playlists = follow()
    video = director.add(2)
    seq = director.segment(video, 0, revision=1).seq
    assert f"edit={seq}" in (await playlists.master(video)).text
    assert payloads(director, await newest(playlists, video)) == [f"{video}/0/preview/1", f"{video}/1/preview/0"]


@in_loop
async def test_the_enhanced_rendition_lags_and_ends_when_it_is_whole() -> None:
    director, playlists = follow()
    video = director.add(3)
    assert uris((await playlists.master(video)).text) == ["preview.m3u8?edit=0"]
    with pytest.raises(NotFound, match="as enhanced"):
        await playlists.media(video, "enhanced", 0, "event")
    director.segment(video, 1, rendition="enhanced")
    assert uris((await playlists.master(video)).text) == ["preview.m3u8?edit=0"], "its beginning is missing"
    director.segment(video, 0, rendition="enhanced")
    assert uris((await playlists.master(video)).text) == ["preview.m3u8?edit=0", "enhanced.m3u8?edit=0"]
    director.state(video, state="completed", ended_by="length")
    assert uris((await playlists.master(video)).text) == ["preview.m3u8?edit=0&type=vod"], "variants of a VOD are equally long"
    assert "#EXT-X-ENDLIST" not in await newest(playlists, video, "enhanced")
    director.segment(video, 2, rendition="enhanced")
    assert uris((await playlists.master(video)).text) == ["enhanced.m3u8?edit=0&type=vod", "preview.m3u8?edit=0&type=vod"]
    assert "#EXT-X-ENDLIST" in await newest(playlists, video, "enhanced")


@in_loop
async def test_the_first_chunk_is_waited_for() -> None:
    director, playlists = follow()
    video = director.add()
    waiting = asyncio.create_task(playlists.master(video))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    director.segment(video, 0)
    assert uris((await waiting).text) == ["preview.m3u8?edit=0"]


@in_loop
async def test_nobody_waits_without_end() -> None:
    director, playlists = follow(first_chunk_s=0.02)
    with pytest.raises(NotReady, match="no picture of this film yet"):
        await playlists.master(director.add())
    with pytest.raises(NotFound, match="nothing of this video"):
        await playlists.master(director.add(ended=True))
    with pytest.raises(NotFound, match="no such video"):
        await playlists.master("nonsense")


@in_loop
async def test_a_film_deleted_while_it_is_waited_for_is_not_found() -> None:
    director, playlists = follow()
    video = director.add()
    waiting = asyncio.create_task(playlists.master(video))
    await asyncio.sleep(0.02)
    await director.delete(video)
    with pytest.raises(NotFound):
        await waiting


@in_loop
async def test_who_asked_counts_as_a_viewer_for_a_while_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from st2v_stream.delivery import hls

    monkeypatch.setattr(hls, "STAYS_S", 0.0)
    monkeypatch.setattr(hls, "target_duration_s", lambda spec: 0.1)
    director, playlists = follow()
    video = director.add(1)
    for _ in range(3):
        await playlists.master(video)
    assert director.followers == 1
    async with asyncio.timeout(5):
        while director.followers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    director.segment(video, 1)
    assert len(uris(await newest(playlists, video))) == 2, "and comes back without a gap"
    assert director.followers == 1


@in_loop
async def test_hashes_of_every_rendition_belong_to_the_video_and_to_no_other() -> None:
    director, playlists = follow()
    mine, other = director.add(1), director.add(1)
    director.segment(mine, 0, rendition="enhanced")
    for payload in (f"{mine}/0/preview/0;", f"{mine}/0/enhanced/0;"):
        await playlists.require(mine, sha(payload.encode().ljust(100, b".")))
    with pytest.raises(NotFound, match="no such segment"):
        await playlists.require(mine, sha(f"{other}/0/preview/0;".encode().ljust(100, b".")))
    playlists.forget(mine)


@in_loop
async def test_a_server_that_drains_says_so_and_keeps_nobody() -> None:
    director, stop = Standin(), asyncio.Event()
    playlists = Playlists(director, stop)
    waiting = asyncio.create_task(playlists.master(director.add()))
    await asyncio.sleep(0.02)
    stop.set()
    with pytest.raises(NotReady, match="about to end"):
        await waiting
    assert director.followers == 0


@in_loop
async def test_a_film_that_is_redone_and_its_branch(tmp_path: Path) -> None:
    maker = TestCard(steps=1)
    config = Config(data_dir=tmp_path, model=maker.card.name)
    async with Live.open(config, {maker.card.name: ModelEntry(maker.card, lambda: maker)}) as director:

        async def ended(video_id: str, seq: int = 0) -> str:
            async with following(director, video_id, seq) as items:
                async for item in items:
                    if isinstance(item, LogEntry) and item.view is not None and item.view.ended_by == "length":
                        return video_id
            raise AssertionError("the log has ended")

        playlists = Playlists(director, asyncio.Event())
        video = await ended((await director.create(CreateVideo("numbers", num_frames=48))).id)
        before = uris(await newest(playlists, video))
        branch = (await director.branch(video, BranchVideo(3, Changes(prompt="others")))).id
        child = uris(await newest(playlists, await ended(branch)))
        assert [old == new for old, new in zip(before, child)] == [True, True, True, False, False]
        redone, kept = await director.redo(video, 2)
        assert uris(await newest(playlists, kept.id)) == before
        text = await newest(playlists, await ended(video, redone.seq))
        assert [old == new for old, new in zip(before, uris(text))] == [True, True, False, False, False]
        assert text.count("#EXT-X-DISCONTINUITY") == 1
        assert text == await newest(Playlists(director, asyncio.Event()), video)


# ---------------------------------------------------------------- delta updates


class Hand:
    """A listing that is filled by hand, at times that the test says."""

    def __init__(self) -> None:
        self.listing = Listing()
        self.now_s = 100.0
        self.seq = 0
        self.makings = 0

    def segment(self, index: int) -> None:
        self.makings += 1
        place = (SPEC.start_of(index), SPEC.frames_of(index))
        self._take("segment", index, segment=SegmentRef(f"{self.makings:064x}", 10, "i", "avc1", index, *place, 256, 192))

    def reset(self, index: int) -> None:
        self._take("reset", index)

    def _take(self, kind: Any, index: int, **content: Any) -> None:
        self.seq += 1
        self.listing.take(LogEntry(self.seq, kind, index, **content), self.now_s)

    @property
    def chunks(self) -> int:
        return len(self.listing.listed("preview"))

    def text(self, *, delta: bool = False) -> str:
        return self.listing.playlist("preview", SPEC, "event", delta_s=self.now_s if delta else None).text


def skipped_in(text: str) -> int:
    return sum(int(number) for number in re.findall(r"#EXT-X-SKIP:SKIPPED-SEGMENTS=(\d+)", text))


def test_a_delta_update_leaves_out_what_has_long_been_known() -> None:
    film = Hand()
    for index in range(60):
        film.segment(index)
        film.now_s += 1.0
    delta = film.text(delta=True)
    assert skipped_in(delta) == 60 - 12, "six target durations of 2 s stay, in chunks of 1 s"
    assert len(delta) < 1600 < len(film.text())
    assert uris(film.text())[48:] == uris(delta)


def test_a_film_that_grows_at_once_is_told_whole() -> None:
    film = Hand()
    for index in range(60):
        film.segment(index)
    film.now_s += 11.9
    assert film.text(delta=True) == film.text(), "a player may hold a list that is some seconds old"
    film.now_s += 0.2
    assert skipped_in(film.text(delta=True)) == 48


def test_no_discontinuity_is_skipped() -> None:
    film = Hand()
    for index in range(40):
        film.segment(index)
    film.reset(30)
    for index in range(30, 60):
        film.segment(index)
    film.now_s += 60
    assert film.text(delta=True) == film.text()
    film.reset(20)
    for index in range(20, 32):
        film.segment(index)
    assert skipped_in(film.text(delta=True)) == 20, "and one that is not part of the film any more forbids nothing"


def test_who_has_a_list_that_is_half_a_skip_boundary_old_gets_all_that_is_new() -> None:
    assert sum(deltas_that_were_right(random.Random(seed)) for seed in range(10)) > 200


def deltas_that_were_right(draw: random.Random) -> int:
    """Ask now and then for what is new, however fast the film grows, and whatever is made anew of it in the meantime."""
    film, deltas = Hand(), 0
    film.segment(0)
    known, known_s = uris(film.text()), film.now_s
    for _ in range(200):
        film.now_s += draw.choice((0.0, 0.1, 1.0, 3.0))
        for _ in range(draw.choice((0, 1, 1, 5, 40))):
            film.segment(film.chunks)
        if draw.random() < 0.02:
            film.reset(draw.randrange(film.chunks))
            film.segment(film.chunks)
        elif draw.random() < 0.01:
            film.segment(draw.randrange(film.chunks))
        if draw.random() < 0.7:
            delta = film.text(delta=film.now_s - known_s <= 6.0)
            deltas += bool(skipped_in(delta))
            known, known_s = known[: skipped_in(delta)] + uris(delta), film.now_s
            assert known == uris(film.text())
    return deltas


def test_entries_taken_twice_change_nothing() -> None:
    listing = Listing()
    segment = SegmentRef("h", 10, "i", "avc1.42C00B", 0, 0, 16, 256, 192)
    for _ in range(2):
        listing.take(LogEntry(1, "segment", 0, segment=segment), 0.0)
    assert (len(listing.listed("preview")), listing.edit) == (1, 0)


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def client(tmp_path: Path) -> Any:
    director = Standin()
    with TestClient(create_app(Config(data_dir=tmp_path, token=TOKEN), director), base_url="http://127.0.0.1:8000") as client:
        client.headers.update(BEARER)
        yield client, director


def test_relative_addresses_inherit_the_grant(client: tuple[TestClient, Standin]) -> None:
    http, director = client
    video = director.add(2)
    link = http.post(f"/v1/videos/{video}/links", json={}).json()
    del http.headers["authorization"]
    master = http.get(link["playlist_url"])
    assert master.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    media = http.get(link["url"] + "/" + uris(master.text)[0])
    assert media.status_code == 200
    assert "//" not in media.text
    (init,) = re.findall(r'URI="([^"]+)"', media.text)
    for address in [init, *uris(media.text)]:
        assert http.get(f"{link['url']}/{address}").status_code == 200


def test_a_playlist_is_asked_for_again_and_not_sent_again(client: tuple[TestClient, Standin]) -> None:
    http, director = client
    video = director.add(2)
    url = f"/v1/videos/{video}/preview.m3u8"
    bare = http.get(url, follow_redirects=False)
    assert (bare.status_code, bare.headers["location"]) == (307, "preview.m3u8?edit=0")
    first = http.get(url + "?edit=0")
    assert first.headers["cache-control"] == "private, no-cache"
    again = {"If-None-Match": first.headers["etag"]}
    assert http.get(url + "?edit=0", headers=again).status_code == 304
    director.segment(video, 2)
    assert http.get(url + "?edit=0", headers=again).status_code == 200
    assert http.get(url + "?edit=-1").json()["error"]["param"] == "edit"
    assert http.get(url + "?type=live").json()["error"]["param"] == "type"
    assert http.get(url + "?_HLS_skip=NO").json()["error"]["param"] == "_HLS_skip"


def test_a_delta_update_over_http(client: tuple[TestClient, Standin], monkeypatch: pytest.MonkeyPatch) -> None:
    http, director = client
    video = director.add(40)
    url = f"/v1/videos/{video}/preview.m3u8?edit=0"
    whole = http.get(url)
    assert "CAN-SKIP-UNTIL=12" in whole.text
    assert http.get(url + "&_HLS_skip=YES").text == whole.text, "nobody can have known it for 12 s"
    monkeypatch.setattr("st2v_stream.delivery.hls.skip_until_s", lambda spec: 0.0)
    delta = http.get(url + "&_HLS_skip=YES")
    assert skipped_in(delta.text) == 40
    assert http.get(url).text == whole.text
    assert delta.headers["etag"] != whole.headers["etag"]
    assert http.get(url + "&_HLS_skip=v2", headers={"If-None-Match": delta.headers["etag"]}).status_code == 304
    cut = director.reset(video, 2).seq
    moved = http.get(url + "&_HLS_skip=YES", follow_redirects=False)
    assert moved.headers["location"] == f"preview.m3u8?edit={cut}&_HLS_skip=YES"


def test_a_long_playlist_is_compressed_for_who_can_read_it_and_segments_never_are(client: tuple[TestClient, Standin]) -> None:
    http, director = client
    video = director.add(100)
    url = f"/v1/videos/{video}/preview.m3u8?edit=0"
    plain = http.get(url, headers={"Accept-Encoding": "identity"})
    refused = http.get(url, headers={"Accept-Encoding": "br, gzip;q=0"})
    packed = http.get(url, headers={"Accept-Encoding": "gzip, deflate"})
    assert [answer.headers.get("content-encoding") for answer in (plain, refused, packed)] == [None, None, "gzip"]
    assert plain.text == refused.text == packed.text
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.headers["etag"].startswith('W/"')
    again = {"Accept-Encoding": "gzip", "If-None-Match": packed.headers["etag"]}
    assert http.get(url, headers=again).status_code == 304
    segment = http.get(f"/v1/videos/{video}/{uris(plain.text)[0]}", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in segment.headers


def test_a_deleted_video_has_no_playlist(client: tuple[TestClient, Standin]) -> None:
    http, director = client
    video = director.add(2)
    assert http.get(f"/v1/videos/{video}/index.m3u8").status_code == 200
    assert http.delete(f"/v1/videos/{video}").status_code == 200
    assert http.get(f"/v1/videos/{video}/index.m3u8").status_code == 404


# ---------------------------------------------------------------- ffmpeg

MOOV_AGAIN = "Found duplicated MOOV Atom. Skipped it\n"
"""ffmpeg says so of every growing fMP4 playlist: it reads the init segment again whenever it has read the playlist again."""


def numbers_in(url: str, *, grows: bool = False, **options: str) -> list[int]:
    """Decode it as a player does (blocking); the number of every frame in order. Any warning of ffmpeg is an error."""
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=False) as said, av.open(url, options=options) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    finally:
        av.logging.set_level(None)
    assert [message for _, _, message in said if not (grows and message == MOOV_AGAIN)] == []
    return [read_frame_number(frame) for frame in frames]


@in_loop
async def test_ffmpeg_reads_every_frame_of_a_whole_film(tmp_path: Path) -> None:
    director = Numbered()
    video = director.add(6, ended=True)
    async with running(director, tmp_path) as server:
        assert await asyncio.to_thread(numbers_in, link(server.port, video)) == list(range(56))


@pytest.mark.slow
@in_loop
async def test_ffmpeg_follows_a_film_that_grows_and_is_cut_back(tmp_path: Path) -> None:
    director = Numbered()
    video = director.add(3)
    async with running(director, tmp_path) as server:
        url = link(server.port, video)
        reading = asyncio.create_task(asyncio.to_thread(numbers_in, url, grows=True, live_start_index="0"))
        director.segment(video, 3)
        await asyncio.sleep(3.0)  # it asks once per target duration (2 s), half of that while nothing is new
        director.reset(video, 3)
        director.segment(video, 3, revision=1)
        director.segment(video, 4, revision=1)
        director.state(video, state="completed", ended_by="length")
        seen = await reading
    assert seen == [*range(40), *range(1040, 1048)], "what was seen stays, what is new follows at its time"


def indexes_listed(director: Standin, text: str) -> list[int]:
    """Chunk indexes of the listed segments."""
    places = {e.segment.hash: e.index for shelf in director.shelves.values() for e in shelf.log if e.segment is not None}
    return [places[uri.removeprefix("segments/").removesuffix(".m4s")] for uri in uris(text)]


def frames_counted(url: str) -> set[int]:
    """Frames of every video stream as ffprobe counts them (blocking); any word of it is an error."""
    command = ["ffprobe", "-v", "warning", "-count_frames", "-select_streams", "v", "-show_entries", "stream=nb_read_frames"]
    done = subprocess.run([*command, "-of", "csv=p=0", url], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return {int(line) for line in done.stdout.split() if line}


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe on this machine")
@in_loop
async def test_ffprobe_counts_the_frames_of_both_renditions_without_a_warning(tmp_path: Path) -> None:
    director = Numbered()
    video = director.add(3)
    for index in range(3):
        director.segment(video, index, rendition="enhanced")
    director.state(video, state="completed", ended_by="length")
    async with running(director, tmp_path) as server:
        for what in ("index.m3u8", "preview.m3u8", "enhanced.m3u8", "content", "content?rendition=enhanced"):
            assert await asyncio.to_thread(frames_counted, link(server.port, video, what)) == {32}, what


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe on this machine")
@in_loop
async def test_a_film_that_is_sharp_in_part_is_read_whole_or_sharp_and_never_mixed(tmp_path: Path) -> None:
    director = Numbered()
    video = director.add(5)
    for index in (0, 1, 3):  # the enhancer is on its way, and was asked for a part further on
        director.segment(video, index, rendition="enhanced", revision=1)
    director.state(video, state="stopped", ended_by="stopped")
    previews, sharp = list(range(48)), list(range(1000, 1024))
    film = {"index.m3u8": previews, "preview.m3u8": previews}
    film |= {"content": previews, "content?rendition=preview": previews, "content?rendition=enhanced": sharp}
    open_end = await newest(Playlists(director, asyncio.Event()), video, "enhanced")
    assert indexes_listed(director, open_end) == [0, 1]
    assert "ENDLIST" not in open_end, "more of it may be made sharp at any time"
    async with running(director, tmp_path) as server:
        for what, numbers in film.items():
            url = link(server.port, video, what)
            assert await asyncio.to_thread(frames_counted, url) == {len(numbers)}, what
            assert await asyncio.to_thread(numbers_in, url) == numbers, what
