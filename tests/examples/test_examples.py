"""Every program in examples/ is run, on few frames; the gradio page in tests/browser/test_gradio.py."""

from __future__ import annotations

import asyncio
import base64
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from server.running import TOKEN
from test_client import served

from st2v_stream.client import Client

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_say_how_they_are_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text[: text.index("import")]


@pytest.mark.slow
def test_the_script_makes_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "boat.mp4"
    arguments = ["a yellow ball rolls right over the sea", "--num-frames", "24", "--enhance", "storybook", "-o", str(output)]
    monkeypatch.setattr(sys, "argv", ["film.py", *arguments])
    runpy.run_path(str(EXAMPLES / "film.py"), run_name="__main__")
    assert len(pictures(output)) == 24
    with av.open(str(output)) as film:
        assert film.metadata["title"] == arguments[0]
    assert "frames 16 to 23" in capsys.readouterr().out


def test_the_client_reacts_to_events(tmp_path: Path) -> None:
    asyncio.run(react_to_events(tmp_path))


async def react_to_events(tmp_path: Path) -> None:
    output = tmp_path / "fish.mp4"
    async with served(tmp_path / "data") as url:
        link, options = f"{url}/#token={TOKEN}", ("--num-frames", "80", "--boat-at", "2")
        command = (str(EXAMPLES / "react_to_events.py"), "--server", link, *options, "-o", str(output))
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        program = await asyncio.create_subprocess_exec(sys.executable, *command, **pipes)
        said, complaint = await program.communicate()
        assert program.returncode == 0, complaint.decode()
        (film,) = [film async for film in Client(url, TOKEN).films()]
        (cue,) = await Client(url, TOKEN).cues(film["id"])
    assert len(pictures(output)) == 80
    lines = said.decode().splitlines()
    assert f"a boat from chunk {cue['from_index']} on" in lines
    assert "preview up to 10.0 s" in lines
    assert lines[-1] == str(output)


@pytest.mark.slow
def test_the_notebook_shows_a_film_that_grows(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install st2v_stream[examples]")
    client = pytest.importorskip("nbclient", reason="pip install st2v_stream[examples]")
    pytest.importorskip("ipykernel", reason="pip install st2v_stream[examples]")
    shown: list[bytes] = []

    class Watching(client.NotebookClient):  # type: ignore[name-defined, misc]
        def process_message(self, message: dict[str, Any], *args: Any) -> Any:
            if message["msg_type"] == "update_display_data":
                shown.append(base64.b64decode(message["content"]["data"]["image/png"]))
            return super().process_message(message, *args)

    notebook = nbformat.read(EXAMPLES / "growing_film.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    (settings,) = [cell for cell in notebook.cells if "num_frames = 120" in cell.source]
    settings.source = settings.source.replace("num_frames = 120", "num_frames = 24")
    place = {"metadata": {"path": str(tmp_path)}}
    Watching(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    film = pictures(tmp_path / "film.mp4")
    assert len(shown) == len(film) == 24
    for picture, frame in zip(shown, film):
        seen = Image.open(io.BytesIO(picture)).resize((frame.shape[1], frame.shape[0]))
        assert np.abs(np.asarray(seen, np.float32) - frame).mean() < 6
    assert "film.mp4" in notebook.cells[-1].outputs[0].data["text/html"]
