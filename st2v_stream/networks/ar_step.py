"""One autoregressive extension as a pure function over the networks (paper sec. 4; published pipeline
`pipeline_text_to_video_w_controlnet_synth.py`), and the same without memory for the first chunk.

A window of 16 frames is denoised from pure noise. Its first 8 frames are the moments of the control frames again and are
thrown away; the last 8 are new.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from st2v_stream.networks.cam import CamFeatures, ControlBranch
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import Predict, Sampler, StepNoise, denoise
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.types import OnStep


@dataclass(frozen=True)
class ChunkConditions:
    """All that is constant over the steps of a chunk; rows are [unconditional, conditional], or one without guidance.

    text: (rows, text tokens, D). image: (rows, image tokens, D) or None (APM off). One of the next two is set when CAM
    runs: `condition_embedding` (rows*8, C, h, w), of the pixels, for the published branch; `cam`, whole features, for
    a branch that looks at clean latents. Both None: CAM is skipped.
    """

    text: Tensor
    image: Tensor | None = None
    condition_embedding: Tensor | None = None
    cam: CamFeatures | None = None


def chunk_conditions(
    branch: ControlBranch,
    text: Tensor,
    image: Tensor | None,
    *,
    control_frames: Tensor | None = None,
    control_latents: Tensor | None = None,
) -> ChunkConditions:
    """What the branch can compute once per chunk.

    control_frames: (1, 8, 3, H, W) in [-1, 1], for `cam_features="noisy"`. control_latents: (1, C, 8, h, w) normalised,
    for `"clean"`. Every row (unconditional too) gets the same control frames.
    """
    rows = text.shape[0]
    if branch.config.cam_features == "clean":
        if control_latents is None:
            raise ValueError("a branch with clean features: expected control_latents, received None")
        return ChunkConditions(text, image, cam=branch.clean_features(_repeat(control_latents, rows), text))
    if control_frames is None:
        raise ValueError("a branch with noisy features: expected control_frames, received None")
    embedding = branch.embed_condition(control_frames)  # once, not per row: (8, C, h, w)
    return ChunkConditions(text, image, condition_embedding=_repeat(embedding, rows))


def _repeat(rows: Tensor, times: int) -> Tensor:
    return torch.cat([rows] * times)


def predictor(unet: StreamingUNet, branch: ControlBranch | None, conditions: ChunkConditions) -> Predict:
    """One network evaluation of all rows: control branch (if it looks at noisy latents), then UNet."""
    rows = conditions.text.shape[0]

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        sample = _repeat(latents, rows)
        timesteps = timestep.to(sample.device).expand(rows)
        cam = conditions.cam
        if conditions.condition_embedding is not None and branch is not None:
            control = sample[:, :, : unet.config.num_control_frames]  # the frames that overlap the control frames
            cam = branch(control, timesteps, conditions.text, conditions.condition_embedding)
        return unet(sample, timesteps, conditions.text, conditions.image, cam)

    return predict


def extend(
    unet: StreamingUNet,
    branch: ControlBranch | None,
    conditions: ChunkConditions,
    sampler: Sampler,
    guidance: Guidance,
    init_noise: Tensor,
    step_noise: StepNoise,
    on_step: OnStep = lambda k, n: None,
) -> Tensor:
    """Latents (1, C, 16, h, w) of the next window; with `branch` None and bare conditions, of a first chunk.

    The draws come from outside, so the same arguments give the same latents.
    """
    return denoise(predictor(unet, branch, conditions), sampler, init_noise, step_noise, guidance, on_step)
