"""base_t2v: the first stage, plain text-to-video UNet, DPM-Solver++ and DDIM (golden README section 7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from golden_folder import block_sizes, deviation, load, read, settings
from torch import Tensor

from st2v_stream.networks.ar_step import ChunkConditions, extend
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import DdimSampler, DpmSolverSampler, Sampler, first_chunk_settings
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig

pytestmark = pytest.mark.golden
UNET_TOLERANCE, DPM_TOLERANCE, DDIM_TOLERANCE = 1e-4, 1e-2, 3e-3


class Recorded:
    def __init__(self) -> None:
        self.io, self.config = read("base_t2v.io"), settings("base_t2v.io")
        sizes = block_sizes(self.config["unet"]) | {"num_frames": self.config["num_frames"]}
        config = StreamingUNetConfig(**sizes, image_tokens=0, num_control_frames=0)
        self.unet = load(StreamingUNet(config), "base_t2v.weights", "unet.")

    @torch.no_grad()
    def run(self, sampler: Sampler, guidance: Guidance) -> Tensor:
        """Latents after each step."""
        history: list[Tensor] = []
        step = sampler.step
        sampler.step = lambda *arguments: history.append(step(*arguments)) or history[-1]  # type: ignore[method-assign]
        conditions = ChunkConditions(torch.cat([self.io["in.text_neg"], self.io["in.text_pos"]]))
        extend(self.unet, None, conditions, sampler, guidance, self.io["in.init_noise"], self.step_noise)
        return torch.stack(history)

    def step_noise(self, k: int) -> Tensor:
        return rearrange(self.io["in.ddim_eta1_step_noise"][k], "(b f) c h w -> b c f h w", b=1)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


@torch.no_grad()
def test_unet(recorded: Recorded) -> None:
    io = recorded.io
    taps: dict[str, Any] = {}
    modules = {
        "unet_transformer_in": recorded.unet.transformer_in,
        "unet_down0_tempattn0": recorded.unet.down_blocks[0].temp_attentions[0],
        "unet_mid_block": recorded.unet.mid_block,
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: taps.update({name: output}))
    out = recorded.unet(io["in.init_noise"], torch.tensor([500]), io["in.text_pos"])
    assert deviation(out, io["out.unet_forward_t500"]) < UNET_TOLERANCE
    for name, value in taps.items():
        frames = value[0] if isinstance(value, tuple) else value
        assert deviation(frames[[0, -1]], io[f"tap.{name}"]) < 1e-3 * io[f"tap.{name}"].std().item()


def test_dpm_solver(recorded: Recorded) -> None:
    io, config = recorded.io, recorded.config
    ours = first_chunk_settings(config["scheduler_ddim"])
    effective = DpmSolverSampler(ours, config["steps"])._scheduler.config
    differing = {k: v for k, v in config["scheduler_dpm_effective"].items() if k in effective and effective[k] != v}
    assert differing == {}
    sampler = DpmSolverSampler(ours, config["steps"])
    assert torch.equal(sampler.timesteps, io["mid.dpm_timesteps"])
    # sigma/alpha of the first level is about 14.6 in float32
    torch.testing.assert_close(sampler._scheduler.sigmas, io["mid.dpm_sigmas"], rtol=1e-5, atol=1e-6)
    latents = recorded.run(sampler, Guidance(9.0))
    assert deviation(latents, io["out.dpm_g9_latents_per_step"]) < DPM_TOLERANCE


@pytest.mark.parametrize(("eta", "scale", "name"), [(0.0, 9.0, "eta0_g9"), (1.0, 7.5, "eta1_g7p5")])
def test_ddim(recorded: Recorded, eta: float, scale: float, name: str) -> None:
    io, config = recorded.io, recorded.config
    sampler = DdimSampler(config["scheduler_ddim"], config["steps"], eta)
    assert torch.equal(sampler.timesteps, io["mid.ddim_timesteps"])
    torch.testing.assert_close(sampler._scheduler.alphas_cumprod, io["schedule.alphas_cumprod"], rtol=0, atol=1e-6)
    assert deviation(recorded.run(sampler, Guidance(scale)), io[f"out.ddim_{name}_latents_per_step"]) < DDIM_TOLERANCE
