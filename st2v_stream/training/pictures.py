"""What every stage leaves for the eye: losses.png and a contact sheet, pictures.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.export import EXAMPLE_PROMPTS
from st2v_stream.training.parts import Parts
from st2v_stream.training.preview import Previewer, PreviewSettings, to_latents, to_pixels
from st2v_stream.training.recipe import DistilRecipe
from st2v_stream.training.sheets import contact_sheet
from st2v_stream.worlds import storybook
from st2v_stream.worlds.judge import SIZE, WINDOW, Judge

PREVIEW_SEED = 1
IMAGES_PER_ROW = 12


def draw_autoencoders(versions: dict[str, FrameAutoencoder], folder: Path, *, seed: int, size: int, films: int = 6) -> None:
    """Rendered films above what each autoencoder makes of them."""
    rng = randomness.numpy_rng(seed, "vae pictures")
    truth = np.stack([storybook.clip(storybook.sample_spec(rng, "any"), range(12), size) for _ in range(films)])
    rows = [truth, *(to_pixels(vae, to_latents(vae, truth)) for vae in versions.values())]
    together = [film for group in zip(*rows, strict=True) for film in group]
    contact_sheet(together, ["truth", *versions] * films, folder / "pictures.png")


def draw_images(parts: Parts, vae: FrameAutoencoder, folder: Path, *, seed: int, images: int = 48) -> None:
    """First pictures of drawn captions."""
    rng = randomness.numpy_rng(seed, "pictures")
    captions = [storybook.sample_spec(rng, "any").caption for _ in range(images)]
    made = Previewer(parts, vae, captions, PreviewSettings(), seed=PREVIEW_SEED).images()
    starts = range(0, images, IMAGES_PER_ROW)
    rows = [np.concatenate(made[start : start + IMAGES_PER_ROW]) for start in starts]
    titles = [" | ".join(" ".join(text.split()[1:3]) for text in captions[start : start + IMAGES_PER_ROW]) for start in starts]
    contact_sheet(rows, titles, folder / "pictures.png")


def draw_films(parts: Parts, vae: FrameAutoencoder, folder: Path, settings: PreviewSettings, chunks: int) -> None:
    """The example prompts, a picture set in motion and continued."""
    prompts = list(EXAMPLE_PROMPTS)
    films = Previewer(parts, vae, prompts, settings, seed=PREVIEW_SEED).films(chunks)
    contact_sheet(list(films), prompts, folder / "pictures.png", columns=14)


def draw_verdicts(judge: Judge, folder: Path, *, seed: int, films: int = 12) -> None:
    """Rendered films, each titled with what the judge reads in it."""
    rng = randomness.numpy_rng(seed, "judge pictures")
    clips = [storybook.clip(storybook.sample_spec(rng, "any"), range(WINDOW), SIZE) for _ in range(films)]
    verdicts = [judge.read(clip) for clip in clips]
    titles = [f"{verdict.colour} {verdict.subject} {verdict.motion}, {verdict.scene}" for verdict in verdicts]
    contact_sheet(clips, titles, folder / "pictures.png")


def distilled_settings(recipe: DistilRecipe) -> PreviewSettings:
    """As the live preset of distilled weights: the fewest steps, one pass."""
    steps, one_pass = min(count for count, _ in recipe.steps), Guidance(1.0)
    return PreviewSettings(steps=steps, guidance=one_pass, picture_steps=recipe.image_steps, picture_guidance=one_pass)
