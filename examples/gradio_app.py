"""Films in a gradio page, played while they are made: pip install ".[examples]"; python examples/gradio_app.py
The buttons are those of the published demo: a fast preview; and the same film sharp, or made and sharpened at once."""

from contextlib import aclosing
from tempfile import NamedTemporaryFile, TemporaryDirectory

import gradio as gr

from st2v_stream import Timeline, encode_clip, enhance_chunks, load_enhancer, load_generator, stream_chunks

generator, enhancer, folder = load_generator("storybook"), load_enhancer("storybook"), TemporaryDirectory()


def film(prompt, seconds, seed, made=()):
    direction = generator.card.direction(prompt, preset="live", seed=seed)
    left = seconds * generator.spec.fps - sum(len(chunk.frames) for chunk in made)
    return stream_chunks(generator, Timeline(direction), num_frames=left, memory=made[-1].memory if made else None)


async def again(made, *asked):
    for chunk in made:
        yield chunk
    async with aclosing(film(*asked, made)) as rest:  # of a preview that was stopped, or is slower
        async for chunk in rest:
            yield chunk


def clip(chunk):
    with NamedTemporaryFile(suffix=".mp4", dir=folder.name, delete=False) as file:
        file.write(encode_clip(chunk, generator.spec))
    return file.name


async def preview(prompt, seconds, seed):
    made = []  # kept for the page: it can be enhanced
    async with aclosing(film(prompt, seconds, seed)) as chunks:
        async for chunk in chunks:
            made.append(chunk)
            yield clip(chunk), made


async def enhance(made, *asked):
    async with aclosing(again(made, *asked)) as chunks, aclosing(enhance_chunks(enhancer, chunks)) as sharp:
        async for each in sharp:
            yield clip(each.chunk)


with gr.Blocks(title="st2v_stream", analytics_enabled=False) as app:
    with gr.Row():
        asked = [gr.Dropdown(list(generator.card.example_prompts), label="Prompt", allow_custom_value=True)]
        asked += [gr.Slider(2, 120, 15, step=1, label="Seconds"), gr.Number(33, label="Seed", precision=0)]
    with gr.Row():
        buttons = [gr.Button(label) for label in ("Long video preview", "Enhance", "Stop")]
    with gr.Row():
        players, made = [gr.Video(label=name, streaming=True, autoplay=True) for name in ("Preview", "Enhanced")], gr.State([])
    runs = [buttons[0].click(preview, asked, [players[0], made]), buttons[1].click(enhance, [made, *asked], players[1])]
    buttons[2].click(None, cancels=runs)
    gr.on([field.change for field in asked], lambda: [], None, made)
app.launch()
