"""The published first chunks on tiny random weights: what is asked for, what comes out, what a picture and a clip do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AnimateDiffPipeline
from einops import rearrange
from PIL import Image
from small_bases import write_animatediff, write_modelscope, write_sdxl, write_streaming_model, write_svd

from generators.test_streamingt2v import film, nothing, pixels, through_disk
from st2v_stream.checkpoints.bases import base_named, find_base
from st2v_stream.checkpoints.first_chunk import load_first_chunk
from st2v_stream.checkpoints.load import load_generator
from st2v_stream.chunk import Frames, StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.errors import CheckpointError, InvalidRequest, Stopped
from st2v_stream.generators.firstchunk.animatediff import NEGATIVE_PROMPT, AnimateDiffFirstChunk, animatediff_scheduler
from st2v_stream.generators.firstchunk.picture_start import PictureStart, strengths
from st2v_stream.generators.firstchunk.svd import Canvas
from st2v_stream.generators.firstchunk.text_to_video import to_film_size
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.media.image import fit_image
from st2v_stream.networks.sampling import first_chunk_settings, make_sampler, noise_at
from st2v_stream.types import Reference

pytestmark = pytest.mark.slow

DIRECTION = Direction((("a red boat", 1.0),), guidance_scale=2.0, num_inference_steps=2, preset="default", seed=5)
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (90, 120, 3), np.uint8)
CLIP = RNG.integers(0, 256, (20, 64, 64, 3), np.uint8)
PUBLISHED_DDIM = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SPEC = StreamSpec(256, 256, 8, 16, 8)
ALL = ("ModelscopeT2V", "AnimateDiff", "SVD")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every folder side by side, as `st2v pull` puts them."""
    home = tmp_path_factory.mktemp("checkpoints")
    for write in (write_streaming_model, write_modelscope, write_animatediff, write_svd, write_sdxl):
        write(home)
    return home


@pytest.fixture(scope="module")
def generators(home: Path) -> dict[str, StreamingT2V]:
    """Loaded when first asked for."""

    class Loaded(dict[str, StreamingT2V]):
        def __missing__(self, name: str) -> StreamingT2V:
            self[name] = load_generator(home / "streaming-t2v", "cpu", base_model=name)
            return self[name]

    return Loaded()


def begun(generator: StreamingT2V, reference: Reference | None = None, **changes: object) -> Frames:
    return generator.begin(replace(DIRECTION, **changes), reference, nothing)[0]  # type: ignore[arg-type]


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize("start", ["text", "image", "clip"])
@pytest.mark.parametrize("base", ALL)
def test_films_stream_out_and_resumed_equals_uninterrupted(generators: dict[str, StreamingT2V], base: str, start: str) -> None:
    generator = generators[base]
    reference = {"text": None, "image": Reference(PICTURE[None]), "clip": Reference(CLIP)}[start]
    frames, memory = generator.begin(DIRECTION, reference, nothing)
    assert (frames.shape, frames.dtype) == ((16, 64, 64, 3), np.uint8)
    if start == "image":
        assert np.array_equal(frames[0], fit_image(PICTURE[None], 64, 64)[0])
        assert np.array_equal(memory.parts["anchor"], frames[0])
        assert not np.array_equal(frames[1], frames[0])
    if start == "clip":
        assert np.array_equal(frames, CLIP[-16:])
        assert np.array_equal(memory.parts["anchor"], CLIP[0])
        assert np.array_equal(memory.parts["tail"], CLIP[-8:])
    further = film(generator, Timeline(DIRECTION), 2, memory=memory)
    resumed = film(generator, Timeline(DIRECTION), 1, memory=through_disk(further[0].memory))
    assert [chunk.frames.shape for chunk in further] == [(8, 64, 64, 3)] * 2
    assert np.array_equal(further[1].frames, resumed[0].frames)
    assert pixels(further).std() > 1
    if start == "text":  # a restart before the first chunk was acknowledged
        assert np.array_equal(generator.begin(DIRECTION, reference, nothing)[0], frames)


@pytest.mark.parametrize("start", ["text", "image"])
@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff", "SVD"])
def test_films_of_another_shape(home: Path, base: str, start: str) -> None:
    generator = load_generator(home / "streaming-t2v", "cpu", base_model=base, width=128, height=64)
    frames, memory = generator.begin(DIRECTION, None if start == "text" else Reference(PICTURE[None]), nothing)
    assert frames.shape == (16, 64, 128, 3)
    assert generator.generate(DIRECTION, memory, nothing)[0].shape == (8, 64, 128, 3)
    if start == "image":
        assert np.array_equal(frames[0], fit_image(PICTURE[None], 128, 64)[0])


@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff"])
def test_half_precision_differs_by_rounding(generators: dict[str, StreamingT2V], home: Path, base: str) -> None:
    """As on a GPU; on a CPU halves are slow, SVD's decoder takes minutes."""
    folders = find_base(base_named(base), home / "streaming-t2v")
    made = load_first_chunk(base_named(base), folders, generators[base].card, torch.device("cpu"), torch.float16)
    maker = generators[base]._first_chunk
    halves, floats = made(DIRECTION, nothing, PICTURE), maker(DIRECTION, nothing, PICTURE)  # type: ignore[call-arg]
    assert halves.dtype == torch.float32
    assert not torch.equal(halves, floats)
    assert (halves - floats).abs().mean() < 0.002  # seen: 0.0006


@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff"])
def test_each_field_of_the_direction_counts(generators: dict[str, StreamingT2V], base: str) -> None:
    generator = generators[base]
    before = begun(generator)
    for change in (
        {"seed": 6},
        {"prompts": (("a blue cat", 1.0),)},
        {"guidance_scale": 3.0},
        {"num_inference_steps": 3},
        {"negative_prompt": "sea"},
        {"first_chunk_num_inference_steps": 3},
        {"preset": "published"},
    ):
        assert not np.array_equal(before, begun(generator, **change)), change


@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff"])
def test_the_published_first_chunk_does_not_hear_the_negative_prompt(generators: dict[str, StreamingT2V], base: str) -> None:
    published = [begun(generators[base], preset="published", negative_prompt=text) for text in ("", "sea")]
    assert np.array_equal(*published)
    spoken = begun(generators[base], negative_prompt=NEGATIVE_PROMPT)
    assert np.array_equal(begun(generators[base]), spoken) == (base == "AnimateDiff")


@pytest.mark.parametrize("start", ["text", "image"])
@pytest.mark.parametrize("base", ALL)
def test_stopping_between_two_steps(generators: dict[str, StreamingT2V], base: str, start: str) -> None:
    steps, calls = (4 if base == "SVD" and start == "text" else 2), list[tuple[int, int]]()

    def stop_at_the_last_step(k: int, n: int) -> None:
        calls.append((k, n))
        if k == steps - 1:
            raise Stopped("asked to stop")

    reference = None if start == "text" else Reference(PICTURE[None])
    with pytest.raises(Stopped):
        generators[base].begin(DIRECTION, reference, stop_at_the_last_step)
    assert calls == [(k, steps) for k in range(steps)]


# ---------------------------------------------------------------- as published


def test_published_timesteps() -> None:
    modelscope = make_sampler(first_chunk_settings(PUBLISHED_DDIM), 50).timesteps
    assert [*modelscope[:2].tolist(), *modelscope[-2:].tolist()] == [999, 979, 40, 20]
    settings = animatediff_scheduler({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False})
    assert settings["set_alpha_to_one"] is False
    assert "skip_prk_steps" not in settings
    animatediff = make_sampler(settings, 25, eta=0.0)
    assert [*animatediff.timesteps[:2].tolist(), *animatediff.timesteps[-2:].tolist()] == [999, 957, 42, 0]
    assert not animatediff.uses_noise


def test_animatediff_is_diffusers_pipeline_to_the_bit(generators: dict[str, StreamingT2V]) -> None:
    maker = generators["AnimateDiff"]._first_chunk
    assert isinstance(maker, AnimateDiffFirstChunk)
    parts = maker._parts
    from diffusers import DDIMScheduler

    pipeline = AnimateDiffPipeline(
        vae=parts.vae,
        text_encoder=parts.text.model,  # type: ignore[attr-defined]
        tokenizer=parts.text.tokenizer,  # type: ignore[attr-defined]
        unet=parts.unet,
        motion_adapter=None,
        scheduler=DDIMScheduler.from_config(dict(parts.scheduler)),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()
    pictures = pipeline(
        "a red boat",
        negative_prompt="bad quality, worse quality",
        num_frames=16,
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(5),
    ).frames[0]
    assert pictures[0].size == (96, 96)
    expected = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
    expected = F.interpolate(rearrange(expected, "f h w c -> f c h w").float(), size=64) / 255
    made = maker(replace(DIRECTION, preset="published"), nothing)
    assert torch.equal(made, expected)


def test_svd_is_diffusers_pipeline_to_the_bit(generators: dict[str, StreamingT2V]) -> None:
    """With the published preparation written out once more: scaled by its height, cut, black bars, and back."""
    maker = generators["SVD"]._first_chunk
    image = Image.fromarray(PICTURE).resize((96, 72)).crop((12, 0, 84, 72))
    canvas = Image.new("RGB", (128, 72), (0, 0, 0))
    canvas.paste(image, (28, 0))
    pictures = maker._video(  # type: ignore[attr-defined]
        canvas, height=72, width=128, num_inference_steps=2, decode_chunk_size=8, generator=torch.Generator().manual_seed(5)
    ).frames[0]
    assert len(pictures) == 18
    expected = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures[:16]])
    expected = rearrange(expected, "f h w c -> f c h w").float()[..., 28:-28]
    made = maker(replace(DIRECTION, preset="published"), nothing, PICTURE)  # type: ignore[call-arg]
    assert torch.equal(made, F.interpolate(expected, size=64) / 255)


def test_a_smaller_film_is_antialiased_except_as_published() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0  # every other column: at half the size there is nothing but grey
    half = StreamSpec(32, 32, 8, 16, 8)
    assert to_film_size(stripes, half, published=True).min() == 1
    smooth = to_film_size(stripes, half, published=False)
    assert (smooth[..., 4:-4, 4:-4] - 0.5).abs().max() < 0.05


# ---------------------------------------------------------------- pictures


def test_the_published_canvas() -> None:
    assert Canvas.of(768, SPEC) == Canvas(1024, 576, 224, 0, 576, 576)
    wide = Canvas.of(768, replace(SPEC, width=512))
    assert (wide.film_width, wide.film_height, wide.left, wide.top) == (1024, 512, 0, 32)


def test_a_narrow_picture_leaves_bars_only_as_published() -> None:
    canvas, narrow = Canvas.of(768, SPEC), Image.new("RGB", (100, 400), (200, 0, 0))
    for published, share in ((True, 144 / 576), (False, 1.0)):
        placed = np.asarray(canvas.with_picture(narrow, published=published))
        assert placed.shape == (576, 1024, 3)
        assert (placed[:, :224] == 0).all()
        assert (placed[:, 224:800, 0] > 0).mean() == pytest.approx(share)


def test_frames_leave_the_picture_one_after_the_other() -> None:
    sampler = make_sampler(first_chunk_settings(PUBLISHED_DDIM), 10)
    picture, noise = torch.full((1, 4, 1, 2, 2), 3.0), noise_at(0, 0, "init", (1, 4, 16, 2, 2))
    start = PictureStart(sampler, PUBLISHED_DDIM, picture, noise)
    latents = start.begin()
    alpha = 0.0046601  # at t = 999
    torch.testing.assert_close(latents, alpha**0.5 * picture + (1 - alpha) ** 0.5 * noise, rtol=0, atol=1e-5)
    held_steps = torch.zeros(16)
    for k in range(10):
        latents = start.step(k, torch.zeros_like(noise), torch.full_like(noise, 1e3), None)
        held_steps += (latents[0, 0, :, 0, 0].abs() < 10).float()  # what the sampler says is far away
    assert held_steps[0] == 9  # of nine steps after which another one follows
    assert (held_steps[1:].diff() <= 0).all()
    assert held_steps[1] >= 4
    assert held_steps[-1] == 0


def test_strengths_rise_from_frame_to_frame() -> None:
    ramp = strengths(16)
    assert (ramp[0], ramp[-1]) == (0, 1)
    assert 0.5 < ramp[1] < 0.55
    assert (ramp.diff() > 0).all()


@pytest.mark.parametrize("base", ["ModelscopeT2V", "AnimateDiff"])
def test_the_picture_shapes_the_frames_after_it_the_nearer_the_more(generators: dict[str, StreamingT2V], base: str) -> None:
    """Two pictures, the same noise: random networks keep what they start from, so frames differ by how long they were held."""
    dark, light = (np.full((64, 64, 3), grey, np.uint8) for grey in (30, 225))
    films = [
        begun(generators[base], Reference(grey[None]), num_inference_steps=8, guidance_scale=1.0) for grey in (dark, light)
    ]
    distance = np.abs(films[1].astype(float) - films[0]).mean(axis=(1, 2, 3))
    assert distance[0] == 195
    assert distance[1] > distance[15]
    assert not np.array_equal(films[0][15], films[1][15])


# ---------------------------------------------------------------- what is not there


def test_without_its_base_a_model_continues_clips_and_says_what_it_lacks(tmp_path: Path) -> None:
    generator = load_generator(write_streaming_model(tmp_path), "cpu")
    for reference in (None, Reference(PICTURE[None])):
        with pytest.raises(CheckpointError, match=r"needs a base model.*ModelscopeT2V.*text-to-video-ms-1.7b.*no such folder"):
            generator.begin(DIRECTION, reference, nothing)
    frames, memory = generator.begin(DIRECTION, Reference(CLIP), nothing)
    assert np.array_equal(frames, CLIP[-16:])
    assert generator.generate(DIRECTION, memory, nothing)[0].shape == (8, 64, 64, 3)


def test_svd_without_sdxl_starts_from_pictures_only(tmp_path: Path) -> None:
    folder = write_streaming_model(tmp_path)
    write_svd(tmp_path)
    generator = load_generator(folder, "cpu", base_model="svd")
    assert generator.card.presets == {}
    with pytest.raises(InvalidRequest, match="expected an input image, or the SDXL folder"):
        generator.begin(DIRECTION, None, nothing)
    assert generator.begin(DIRECTION, Reference(PICTURE[None]), nothing)[0].shape == (16, 64, 64, 3)
