"""Films sampled from the weights in training, for contact sheets and scores. The product samples in `generators/`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

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
    """How to sample."""

    steps: int = 8
    guidance: Guidance = field(default_factory=lambda: Guidance(2.0, GUIDANCE_RESCALE))
    use_cam: bool = True
    use_anchor: bool = True


class Previewer:
    """Samples one film per caption, all in one batch."""

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
        return to_pixels(self.vae, self._denoise(1, 0))

    @torch.no_grad()
    def films(self, chunks: int = 1, first: Tensor | None = None) -> np.ndarray:
        """`(B, 16 + 8 (chunks - 1), H, W, 3)` uint8. `first`: latents of a given first chunk instead of a sampled one."""
        latents = self._denoise(WINDOW_FRAMES, 0) if first is None else first
        pieces = [to_pixels(self.vae, latents)]
        anchor = self._image_tokens(latents[:, :, 0])
        for chunk in range(1, chunks):
            tail = self._remembered(latents[:, :, -TAIL_FRAMES:])
            latents = self._denoise(WINDOW_FRAMES, chunk, tail, anchor)
            pieces.append(to_pixels(self.vae, latents[:, :, TAIL_FRAMES:]))
        return np.concatenate(pieces, axis=1)

    def _remembered(self, latents: Tensor) -> Tensor:
        frames = through_memory(self.vae, latents.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def _image_tokens(self, first_frame: Tensor) -> Tensor:
        return self.parts.image_encoder(through_memory(self.vae, first_frame))

    def _denoise(self, frames: int, chunk: int, tail: Tensor | None = None, anchor: Tensor | None = None) -> Tensor:
        guidance = self.settings.guidance
        rng = randomness.torch_rng(self.seed, "preview", chunk)
        noise = torch.randn((len(self.text), LATENT_CHANNELS, frames, LATENT_SIDE, LATENT_SIDE), generator=rng)
        text = pair(self.no_text, self.text, guidance)
        image = None
        if anchor is not None and self.settings.use_anchor:
            image = pair(self.parts.image_encoder.null_tokens(len(anchor)), anchor, guidance)
        cam = None
        if tail is not None and self.settings.use_cam:
            cam = self.parts.cam.clean_features(pair(tail, tail, guidance), text)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            rows = torch.cat([latents] * guidance.passes)
            return self.parts.unet(rows, timestep.to(self.device), text, image, cam)

        sampler = make_sampler(scheduler_settings(), self.settings.steps)
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
