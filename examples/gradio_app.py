"""Films in a gradio page, played while they are made: pip install "st2v_stream[examples]"; python examples/gradio_app.py
The buttons are those of the published demo: a fast preview; and the same film sharp, or made and sharpened at once."""

from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import gradio as gr

from st2v_stream import Timeline, encode_clip, enhance_chunks, load_enhancer, load_generator, stream_chunks

generator, enhancer, folder = load_generator("storybook"), load_enhancer("storybook"), TemporaryDirectory()


def film(prompt, seconds, seed):
    direction = generator.card.direction(prompt, preset="live", seed=seed)
    return stream_chunks(generator, Timeline(direction), num_frames=seconds * generator.spec.fps)


async def again(made):
    for chunk in made:
        yield chunk


def clip(chunk):
    path = Path(folder.name, f"{uuid4()}.mp4")
    path.write_bytes(encode_clip(chunk, generator.spec))
    return path


async def preview(prompt, seconds, seed):
    made = []  # kept for the page: it can be enhanced
    async with aclosing(film(prompt, seconds, seed)) as chunks:
        async for chunk in chunks:
            made.append(chunk)
            yield clip(chunk), made


async def enhance(prompt, seconds, seed, made):
    preview = again(made) if made else film(prompt, seconds, seed)
    async with aclosing(preview), aclosing(enhance_chunks(enhancer, preview)) as sharp:
        async for each in sharp:
            yield clip(each.chunk)


with gr.Blocks(title="st2v_stream", analytics_enabled=False) as app:
    made, prompts = gr.State([]), list(generator.card.example_prompts)
    with gr.Row():
        asked = [gr.Dropdown(prompts, label="Prompt", allow_custom_value=True), gr.Slider(2, 120, 15, step=1, label="Seconds")]
        asked.append(gr.Number(33, label="Seed", precision=0))
    with gr.Row():
        buttons = [gr.Button(label) for label in ("Long video preview", "Enhance", "Stop")]
    with gr.Row():
        players = [gr.Video(label=label, streaming=True, autoplay=True) for label in ("Preview", "Enhanced")]
    runs = [buttons[0].click(preview, asked, [players[0], made]), buttons[1].click(enhance, [*asked, made], players[1])]
    buttons[2].click(None, cancels=runs)
    gr.on([field.change for field in asked], lambda: [], None, made)
app.launch()
