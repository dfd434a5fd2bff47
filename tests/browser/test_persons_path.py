"""One person's way through every verb of the page, by clicks and keys: what is said beforehand is what happens.

`python -m tests.browser.test_persons_path` walks it with the built-in model and keeps the pictures in docs/screenshots/.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from st2v_stream.checkpoints.models import known_models
from tests.browser.conftest import FLAGS, OpenPage, find_chromium
from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

FPS, FIRST, FURTHER = 8, 16, 8
FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
PATIENCE_S = 120.0

FILM = "a red boat drifts left over the sea"
NIGHT = "a red boat drifts left in the night sky"
ROCKET = "a purple rocket flies up in the night sky"
SNOW = "a red boat drifts left over the snow field"


def start_of(chunk: int) -> int:
    """First frame of a chunk, counted from 0."""
    return 0 if chunk == 0 else FIRST + (chunk - 1) * FURTHER


def moment(chunk: int) -> str:
    """When it begins, as the page says it."""
    seconds = start_of(chunk) // FPS
    return f"{seconds // 60}:{seconds % 60:02}"


@dataclass
class Person:
    """Somebody at the page, and what there is to look at."""

    watched: Watched
    model: str
    keep: Callable[[Page, str], None] = lambda page, name: None
    films: dict[str, str] = field(default_factory=dict)
    """Ids by what they are called here."""

    @property
    def page(self) -> Page:
        return self.watched.page

    def ask(self, method: str, path: str) -> Any:
        return self.watched.served.call(method, path)

    def cues(self) -> list[dict[str, Any]]:
        cues: list[dict[str, Any]] = self.ask("GET", f"v1/videos/{self.watched.video_id}/cues")["data"]
        return cues

    def until_frames(self, count: int) -> None:
        self.watched.until(f"Number(document.getElementById('strip').ariaValueMax) + 1 >= {count}", PATIENCE_S)

    def until_said(self, selector: str, words: str) -> str:
        self.watched.until_text(selector, words, PATIENCE_S)
        return self.watched.text(selector)

    def go_to_chunk(self, chunk: int) -> None:
        """By keys: to the beginning, then chunk by chunk."""
        self.page.keyboard.press("ArrowRight")  # looking closely pauses
        self.page.keyboard.press("Home")
        for step in range(chunk + 1):
            if step > 0:
                self.page.keyboard.press("Shift+ArrowRight")
            self.watched.until(f"document.getElementById('strip').ariaValueNow === '{start_of(step)}'", PATIENCE_S)

    def stop(self) -> dict[str, Any]:
        self.page.keyboard.press("s")
        self.until_said("#stop", "Continue")
        video: dict[str, Any] = self.watched.video
        return video

    # ------------------------------------------------------------ the way

    def walk(self) -> None:
        """Every verb once, in an order in which a person might."""
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.create()
        self.plan_a_change_and_take_it_back()
        self.continue_without_end()
        self.change_the_prompt_and_plan_another()
        self.continue_by_so_much()
        self.branch_here()
        self.redo_while_somebody_watches()
        self.rename()
        self.download_and_save()
        self.delete_and_have_back()
        self.take_in()

    def create(self) -> None:
        self.watched.make(FILM, seconds="60", model=self.model)
        self.until_said("#caption", FILM)
        self.until_frames(start_of(3))
        assert "making chunk" in self.watched.text("#key-making")
        self.films["first"] = self.watched.video_id

    def plan_a_change_and_take_it_back(self) -> None:
        """In a film that stands still: by its yellow mark on the strip."""
        stopped = self.stop()
        assert stopped["ended_by"] == "stopped"
        chunk = stopped["chunks"] + 5
        self.page.keyboard.press("p")
        self.page.fill("#verb-prompt", NIGHT)
        self.page.select_option("#verb-when", "5")
        self.page.select_option("#verb-transition", "2")
        self.page.select_option("#verb-go-on", "not")
        said = self.watched.text("#verb-what")
        assert said.startswith(f"From {moment(chunk)}, chunk {chunk + 1}, the film follows the new prompt"), said
        assert "it counts when it goes on" in said
        self.page.click("#verb-do")
        self.until_said("#note", f"“{NIGHT}” from {moment(chunk)} on (chunk {chunk + 1})")
        assert [cue["from_index"] for cue in self.cues()] == [chunk]
        self.watched.until("document.querySelector('.cell[data-cue]')?.dataset.state === 'planned'")
        self.page.click(".cell[data-cue]")
        words = self.until_said("#planned", "Planned changes")
        assert f"From {moment(chunk)}, chunk {chunk + 1}: “{NIGHT}”, over 2 chunks." in words, words
        assert f"Without it the film goes on there with “{FILM}”." in words
        self.keep(self.page, "path-take-back")
        self.page.click("#planned .danger")
        self.until_said("#note", f"Taken back: nothing changes at {moment(chunk)}.")
        self.watched.until("!document.getElementById('planned').open && !document.querySelector('.cell[data-cue]')")
        assert self.cues() == []

    def continue_without_end(self) -> None:
        stopped = self.watched.video
        self.page.select_option("#continue-by", "")
        self.page.keyboard.press("c")
        self.until_frames(stopped["frames"] + FURTHER)
        self.until_said("#planned-end", "endless")
        assert self.watched.video["num_frames"] is None

    def change_the_prompt_and_plan_another(self) -> None:
        """While it grows: what the sheet says when one clicks is what happens, unless that chunk was begun in that moment."""
        self.page.keyboard.press("l")
        told, chunk, note = self.new_prompt(NIGHT, later="0")
        begun = f"the cue takes effect from chunk {chunk} ({start_of(chunk) // FPS} s) on, not from chunk {told}"
        assert chunk == told or begun in note, f"begun while it was on its way: then it says so: {note}"
        self.films["chunk of the cue"] = str(chunk)
        self.until_frames(start_of(chunk + 1))
        self.page.keyboard.press("l")
        self.until_said("#caption", NIGHT)
        self.stop()
        told, planned, _ = self.new_prompt(SNOW, later="30")
        assert planned == told, "nothing is being made"
        self.page.keyboard.press("p")
        self.page.click("#verb-planned button")
        words = self.until_said("#planned", f"From {moment(planned)}, chunk {planned + 1}: “{SNOW}”.")
        assert f"Without it the film goes on there with “{NIGHT}”." in words
        self.page.click("#planned .danger")
        self.until_said("#note", f"Taken back: nothing changes at {moment(planned)}.")
        self.watched.until("!document.getElementById('planned').open")
        assert [cue["from_index"] for cue in self.cues()] == [chunk]

    def new_prompt(self, prompt: str, later: str) -> tuple[int, int, str]:
        """The chunk that the sheet named when it was sent, the one that the server took, and what was said then."""
        listen = """document.querySelector('#verb form').addEventListener('submit', () => {
          window.promised = document.getElementById('verb-what').innerText;
        }, { capture: true, once: true })"""
        self.page.click("#cue")
        self.page.fill("#verb-prompt", prompt)
        self.page.select_option("#verb-when", later)
        if self.page.is_visible("#verb-go-on"):
            self.page.select_option("#verb-go-on", "not")
        self.watched.ask(listen)
        self.page.click("#verb-do")
        note = self.until_said("#note", f"“{prompt}” from ")
        promised = self.watched.ask("window.promised")
        assert "the first chunk that is not begun by then" in promised
        chunk = next(cue["from_index"] for cue in self.cues() if cue["prompt"] == prompt)
        assert f"from {moment(chunk)} on (chunk {chunk + 1})" in note
        return int(re.findall(r"chunk (\d+)", promised)[0]) - 1, chunk, note

    def continue_by_so_much(self) -> None:
        stopped = self.stop()
        before = self.hashes(stopped["id"])
        assert len(before) == stopped["chunks"]
        self.page.select_option("#continue-by", "20")
        self.page.click("#stop")
        self.until_frames(stopped["frames"] + FURTHER)
        assert self.watched.video["num_frames"] == stopped["frames"] + 20 * FPS
        self.stop()
        assert self.hashes(stopped["id"])[: len(before)] == before, "everything made is kept"

    def branch_here(self) -> None:
        first = self.watched.video
        self.go_to_chunk(3)
        self.page.keyboard.press("b")
        said = self.until_said("#verb-what", "from chunk 4 on its own")
        assert said.startswith(f"A new film: up to {moment(3)} it is this one"), said
        assert "kept up to here" in self.watched.text("#fork-words")
        self.page.fill("#verb-prompt", ROCKET)
        self.page.select_option("#verb-length", "20")
        self.watched.until("document.getElementById('video').readyState >= 2")
        self.keep(self.page, "path-branch")
        self.page.click("#verb-do")
        self.watched.until(f"!location.hash.includes('{first['id']}')")
        self.films["branch"] = self.watched.video_id
        self.until_frames(start_of(5))
        branch = self.watched.video
        assert (branch["parent_id"], branch["fork_index"]) == (first["id"], 3)
        assert (branch["prompt"], branch["title"], branch["first_prompt"]) == (ROCKET, ROCKET, FILM)
        assert self.hashes(branch["id"])[:3] == self.hashes(first["id"])[:3], "shared, not copied"
        self.stop()
        self.page.click("#note .link")  # back to that film
        self.watched.until(f"location.hash.includes('{first['id']}')")

    def hashes(self, video_id: str) -> list[str]:
        return [chunk["hash"] for chunk in self.ask("GET", f"v1/videos/{video_id}/chunks")["data"]]

    def redo_while_somebody_watches(self) -> None:
        before = self.watched.video
        watcher = self.guest(before["id"])
        self.until_frames(start_of(3))
        self.go_to_chunk(2)
        self.page.keyboard.press("r")
        said = self.until_said("#verb-what", "made anew with another seed")
        assert f"Chunks 3 to {before['chunks']} are made anew" in said, said
        assert f"from {moment(2)} on; whoever watches sees it" in said
        self.page.click("#verb-do")
        self.until_said("#note", f"Being made anew from {moment(2)} on. The film as it was is kept.")
        watcher.until_text("#note", f"{moment(2)} to {moment(before['chunks'])} is being made anew", PATIENCE_S)
        self.until_frames(start_of(4))
        watcher.until(f"Number(document.getElementById('strip').ariaValueMax) + 1 >= {start_of(4)}", PATIENCE_S)
        self.keep(self.page, "path-redo")
        watcher.page.close()
        self.stop()
        kept = next(
            film
            for film in self.ask("GET", "v1/videos")["data"]
            if film["parent_id"] == before["id"] and film["fork_index"] == 2
        )
        assert (kept["frames"], kept["ended_by"]) == (before["frames"], before["ended_by"])
        self.films["kept"] = kept["id"]

    def guest(self, video_id: str) -> Watched:
        """Another page of the same browser, on the same film."""
        other = Watched(self.page.context.new_page(), self.watched.served)
        other.open(f"/video/{video_id}")
        other.until("Number(document.getElementById('strip').ariaValueMax) > 0", PATIENCE_S)
        return other

    def rename(self) -> None:
        item = self.page.locator(f"#films li:has(a[href$='{self.films['branch']}'])")
        item.hover()
        item.locator(".rename").click()
        self.page.fill("#title", "The rocket")
        self.page.keyboard.press("Enter")
        self.watched.until("[...document.querySelectorAll('#films .title')].some((title) => title.innerText === 'The rocket')")

    def download_and_save(self) -> None:
        frames = self.watched.video["frames"]
        with self.page.expect_download() as downloading:
            self.page.click("#download")
        with av.open(str(downloading.value.path())) as film:
            assert sum(1 for _ in film.decode(video=0)) == frames
        self.page.click("#share")
        for button, suffix in (("#save-screenplay", ".screenplay.json"), ("#save-bundle", ".st2v")):
            with self.page.expect_download() as saving:
                self.page.click(button)
            name = saving.value.suggested_filename
            assert name.endswith(suffix), name
            self.films[suffix] = str(Path(tempfile.mkdtemp()) / name)
            saving.value.save_as(self.films[suffix])
        self.page.click("#sharing-close")

    def delete_and_have_back(self) -> None:
        item = self.page.locator(f"#films li:has(a[href$='{self.films['branch']}'])")
        item.hover()
        item.locator(".delete").click()
        self.until_said("#note", "“The rocket” is deleted. Its space is freed in a day.")
        self.watched.until("document.getElementById('deleted').checkVisibility()")
        self.page.click("#deleted-toggle")
        self.until_said("#deleted", "The rocket")
        self.keep(self.page, "path-deleted")
        self.page.click("#deleted ul button")
        self.until_said("#note", "The film is back, as it was.")
        assert self.ask("GET", f"v1/videos/{self.films['branch']}")["title"] == "The rocket"

    def take_in(self) -> None:
        """A film saved whole is dropped on the page again; then it is made again after its screenplay."""
        with zipfile.ZipFile(self.films[".st2v"]) as bundle:
            assert {"manifest.json", "film.jsonl"} <= set(bundle.namelist())
        here = self.watched.video
        self.page.set_input_files("#screenplay-file", self.films[".st2v"])
        self.until_said("#note", "is here, all of it")
        carried = self.watched.video
        assert carried["id"] != here["id"]
        assert self.hashes(carried["id"]) == self.hashes(here["id"])
        self.page.set_input_files("#screenplay-file", self.films[".screenplay.json"])
        self.until_said("#screenplay", NIGHT)
        self.keep(self.page, "path-screenplay")
        self.page.click("#screenplay-make")
        self.watched.until(f"!location.hash.includes('{carried['id']}')")
        self.until_frames(FIRST)
        chunk = int(self.films["chunk of the cue"])
        cue = self.cues()[0]
        assert (cue["from_index"], cue["prompt"]) == (chunk, NIGHT)
        self.stop()


def test_a_person_walks_through_every_verb(open_page: OpenPage) -> None:
    Person(open_page(), "testcard").walk()


def keep(page: Page, name: str) -> None:
    """A picture for the documentation."""
    page.wait_for_timeout(700)  # until what fades in is there
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(FOLDER / f"{name}.jpg", quality=82, optimize=True)
    print(name, (FOLDER / f"{name}.jpg").stat().st_size // 1024, "kB")


def main(model: str = "storybook") -> None:
    """Walk, and keep the pictures."""
    assert model in ("drawn", *known_models())
    served = Served(Path(tempfile.mkdtemp()), [model, "testcard"])
    served.start()
    try:
        with sync_playwright() as playwright:
            chromium, size = find_chromium(), {"width": 1280, "height": 800}
            settings: dict[str, Any] = {"viewport": size, "color_scheme": "dark", "args": FLAGS, "headless": True}
            context = playwright.chromium.launch_persistent_context(tempfile.mkdtemp(), executable_path=chromium, **settings)
            watched = Watched(context.new_page(), served)
            watched.open()
            Person(watched, model, keep).walk()
            context.close()
    finally:
        served.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
