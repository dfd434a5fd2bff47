"""base_t2v once more (golden README section 7): diffusers' own UNet in our loop gives the recorded first-stage latents."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel
from golden_folder import deviation, load, read, settings

from st2v_stream.generators.firstchunk.text_to_video import TextToVideoParts
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import denoise, first_chunk_settings, make_sampler

pytestmark = pytest.mark.golden
TOLERANCE = 1e-2
"""As for our own UNet: sigma / alpha of the first level is 14.6."""


def no_noise(k: int) -> Any:
    raise AssertionError("DPM-Solver++ draws none")


@torch.no_grad()
def test_the_recorded_first_stage() -> None:
    io, config = read("base_t2v.io"), settings("base_t2v.io")
    known = inspect.signature(UNet3DConditionModel.__init__).parameters
    sizes = {name: value for name, value in config["unet"].items() if name in known}
    unet = load(UNet3DConditionModel(**sizes), "base_t2v.weights", "unet.")
    parts = TextToVideoParts(unet, None, None, first_chunk_settings(config["scheduler_ddim"]))  # type: ignore[arg-type]
    guidance = Guidance(9.0)
    predict = parts.predictor(torch.cat([io["in.text_neg"], io["in.text_pos"]]), guidance, config["num_frames"])
    sampler = make_sampler(parts.scheduler, config["steps"])
    latents = denoise(predict, sampler, io["in.init_noise"], no_noise, guidance)
    assert deviation(latents, io["out.dpm_g9_latents_per_step"][-1]) < TOLERANCE
