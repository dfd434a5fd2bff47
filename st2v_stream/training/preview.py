"""Films sampled from the weights in training, for contact sheets and scores. The product samples in `generators/`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from st2v_stream.networks.cam import CamFeatures
from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.sampling import denoise, make_sampler
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.noise import GUIDANCE_RESCALE, scheduler_settings
from st2v_stream.training.parts import LATENT_CHANNELS, LATENT_SIDE, TAIL_FRAMES, WINDOW_FRAMES, Parts
from st2v_stream.training.pool import through_memory
from st2v_stream.training.text import new_tokenizer, tokenize
from st2v_stream.training.vae import to_network


@dataclass(frozen=True)
class PreviewSettings:
    """How to sample: windows, and the first picture."""

    steps: int = 8
    guidance: Guidance = field(default_factory=lambda: Guidance(1.5, GUIDANCE_RESCALE))
    picture_steps: int = 8
    picture_guidance: Guidance = field(default_factory=lambda: Guidance(2.0, GUIDANCE_RESCALE))
    use_cam: bool = True
    use_anchor: bool = True


@dataclass(frozen=True)
class _Conditions:
    """Rows as guidance wants them; image and cam None: off."""

    text: Tensor
    image: Tensor | None = None
    cam: CamFeatures | None = None


class Previewer:
    """Samples one film per caption, all in one batch, as `generators.streamingt2v` makes one: a picture, then windows."""

    def __init__(
        self, parts: Parts, vae: FrameAutoencoder, captions: list[str], settings: PreviewSettings, *, seed: int
    ) -> None:
        self.parts = parts
        self.vae = vae
        self.settings = settings
        self.seed = seed
        self.device = next(parts.parameters()).device
        tokenizer = new_tokenizer()
        with torch.no_grad():
            self.text = parts.encode_text(tokenize(tokenizer, captions).to(self.device))  # (B, 12, 64)
            self.no_text = parts.encode_text(tokenize(tokenizer, [""] * len(captions)).to(self.device))

    @torch.no_grad()
    def images(self) -> np.ndarray:
        """`(B, 1, H, W, 3)` uint8."""
        return to_pixels(self.vae, self._picture())

    @torch.no_grad()
    def films(self, chunks: int = 1) -> np.ndarray:
        """`(B, 16 + 8 (chunks - 1), H, W, 3)` uint8: the picture, held still for a tail, set in motion and continued."""
        made = self._remembered(self._picture())
        anchor = self.parts.image_encoder(made[:, :, 0])
        pieces = [to_pixels(self.vae, made)]
        made = made.expand(-1, -1, TAIL_FRAMES, -1, -1)
        first_chunk = [TAIL_FRAMES, WINDOW_FRAMES - TAIL_FRAMES - 1]  # beside the picture, which is frame 0
        for number, count in enumerate([*first_chunk, *[TAIL_FRAMES] * (chunks - 1)]):
            new = self._window(number, made, anchor)[:, :, TAIL_FRAMES : TAIL_FRAMES + count]
            pieces.append(to_pixels(self.vae, new))
            made = torch.cat([made, self._remembered(new)], dim=2)[:, :, -TAIL_FRAMES:]
        return np.concatenate(pieces, axis=1)

    def _remembered(self, latents: Tensor) -> Tensor:
        frames = through_memory(self.vae, latents.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def _picture(self) -> Tensor:
        """`(B, 12, 1, h, w)`."""
        guidance = self.settings.picture_guidance
        text = pair(self.no_text, self.text, guidance)
        return self._denoise("picture", 1, guidance, self.settings.picture_steps, _Conditions(text))

    def _window(self, number: int, tail: Tensor, anchor: Tensor) -> Tensor:
        """`(B, 12, 16, h, w)`, whose first 8 frames are the tail's moments."""
        guidance = self.settings.guidance
        text = pair(self.no_text, self.text, guidance)
        image = pair(self.parts.image_encoder.null_tokens(len(anchor)), anchor, guidance) if self.settings.use_anchor else None
        cam = self.parts.cam.clean_features(pair(tail, tail, guidance), text) if self.settings.use_cam else None
        conditions = _Conditions(text, image, cam)
        return self._denoise(f"window {number}", WINDOW_FRAMES, guidance, self.settings.steps, conditions)

    def _denoise(self, purpose: str, frames: int, guidance: Guidance, steps: int, conditions: _Conditions) -> Tensor:
        rng = randomness.torch_rng(self.seed, f"preview {purpose}")
        noise = torch.randn((len(self.text), LATENT_CHANNELS, frames, LATENT_SIDE, LATENT_SIDE), generator=rng)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            rows = torch.cat([latents] * guidance.passes)
            return self.parts.unet(rows, timestep.to(self.device), conditions.text, conditions.image, conditions.cam)

        sampler = make_sampler(scheduler_settings(), steps)
        return denoise(predict, sampler, noise.to(self.device), lambda _: noise, guidance)


@torch.no_grad()
def to_pixels(vae: FrameAutoencoder, latents: Tensor) -> np.ndarray:
    """`(B, 12, F, h, w)` to `(B, F, H, W, 3)` uint8."""
    frames = vae.decode(latents.transpose(1, 2).flatten(0, 1)).clamp(-1, 1)
    pixels = ((frames + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return pixels.unflatten(0, (len(latents), -1)).cpu().numpy()


@torch.no_grad()
def to_latents(vae: FrameAutoencoder, films: np.ndarray) -> Tensor:
    """`(B, F, H, W, 3)` uint8 to `(B, 12, F, h, w)`."""
    flat = vae.encode(to_network(films.reshape(-1, *films.shape[2:])))
    return flat.unflatten(0, films.shape[:2]).transpose(1, 2)
