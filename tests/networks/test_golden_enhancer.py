"""enhancer: the Video-to-Video UNet, its schedule, and the whole published pass (golden README sections 3 and 4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_folder import GOLDEN, deviation, load, part, read, settings
from torch import Tensor, nn

from st2v_stream.checkpoints.key_maps import latent_diffusion_vae, place
from st2v_stream.networks.blending import Windows, cut_together, denoise_joined
from st2v_stream.networks.enhancer_film import GrowingBlend, GrowingFilm
from st2v_stream.networks.enhancer_sampling import (
    VideoToVideoSampler,
    WholeFilmSampler,
    predict_clean,
    trailing_times,
    video_to_video_sigmas,
)
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.folder import load_weights
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

pytestmark = pytest.mark.golden
UNET_TOLERANCE, LATENTS_TOLERANCE, VIDEO_TOLERANCE = 1e-4, 2e-3, 5e-4
BLENDING_CASES = sorted(settings("randomized_blending"))


def recorded_unet() -> EnhancerUNet:
    sizes = settings("enhancer.io")["unet"]
    config = EnhancerUNetConfig(
        in_channels=sizes["in_dim"],
        out_channels=sizes["out_dim"],
        dim=sizes["dim"],
        dim_mult=tuple(sizes["dim_mult"]),
        num_res_blocks=sizes["num_res_blocks"],
        attn_scales=tuple(sizes["attn_scales"]),
        num_heads=sizes["num_heads"],
        head_dim=sizes["head_dim"],
        context_dim=sizes["context_dim"],
    )
    return load(EnhancerUNet(config), "enhancer.weights", "generator.")


def recorded_vae() -> FrameAutoencoder:
    sizes = settings("enhancer.io")["autoencoder"]
    widths = tuple(sizes["ch"] * factor for factor in sizes["ch_mult"])
    vae = FrameAutoencoder(
        FrameAutoencoderConfig(
            block_out_channels=widths, layers_per_block=sizes["num_res_blocks"], scaling_factor=sizes["scale_factor"]
        )
    )
    theirs = {f"first_stage_model.{name}": value for name, value in part(read("enhancer.weights"), "autoencoder.").items()}
    shapes = {name: value.shape for name, value in vae.state_dict().items()}
    placed = place(theirs, latent_diffusion_vae(len(widths))).placed
    load_weights(vae, {each.ours: theirs[each.published].reshape(shapes[each.ours]) for each in placed})
    return vae.eval()


# ---------------------------------------------------------------- the UNet


def test_every_published_name_and_shape_at_the_published_size() -> None:
    official = json.loads((GOLDEN / "official_key_shapes.json").read_text())["video_to_video_unet"]
    with torch.device("meta"):
        unet = EnhancerUNet(EnhancerUNetConfig())
    assert {name: list(value.shape) for name, value in unet.state_dict().items()} == official
    load_weights(unet, {name: torch.empty(shape, device="meta") for name, shape in official.items()})


TAPS: dict[str, Callable[[EnhancerUNet], nn.Module]] = {
    "time_embed": lambda unet: unet.time_embed,
    "input0_conv": lambda unet: unet.input_blocks[0][0],  # type: ignore[index]
    "input0_temporal": lambda unet: unet.input_blocks[0][1],  # type: ignore[index]
    "input1_resblock": lambda unet: unet.input_blocks[1][0],  # type: ignore[index]
    "input1_spatial": lambda unet: unet.input_blocks[1][1],  # type: ignore[index]
    "input1_temporal": lambda unet: unet.input_blocks[1][2],  # type: ignore[index]
    "downsample0": lambda unet: unet.input_blocks[2],
    "middle": lambda unet: unet.middle_block,
    "out_norm": lambda unet: unet.out[0],
}


@torch.no_grad()
def test_unet_and_what_lies_on_the_way() -> None:
    unet, io, tapped = recorded_unet(), read("enhancer.io"), {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            tapped[name] = out[0] if isinstance(out, tuple) else out

        return hook

    for name, find in TAPS.items():
        find(unet).register_forward_hook(keep(name))
    assert deviation(unet(io["in.x"], io["in.t"], io["in.y"]), io["out.unet"]) < UNET_TOLERANCE
    frames = io["in.x"].shape[2]
    for name, value in tapped.items():
        expected = io[f"tap.{name}"]
        if name == "time_embed":
            received = value
        elif name.endswith("temporal"):  # element 0, first and last frame, (1, C, 2, h, w)
            received = value[[0, frames - 1]].transpose(0, 1)[None]
        else:
            received = value[[0, -1]]
        assert deviation(received, expected) < UNET_TOLERANCE * max(1.0, expected.std().item()), name


@pytest.mark.parametrize("size", [(12, 8), (10, 6), (9, 8)])
def test_sizes_that_do_not_come_back_are_refused(size: tuple[int, int]) -> None:
    unet = EnhancerUNet(
        EnhancerUNetConfig(dim=32, dim_mult=(1, 1, 2), num_res_blocks=1, num_heads=1, head_dim=32, context_dim=8)
    )
    with pytest.raises(ValueError, match=r"a height 2 above a multiple of 4 and a width that is one, received"):
        unet(torch.zeros(1, 4, 2, *size), torch.tensor(3), torch.zeros(1, 5, 8))


# ---------------------------------------------------------------- schedule and solver


def test_noise_schedule() -> None:
    recorded, sigmas = part(read("randomized_blending"), "schedule."), video_to_video_sigmas()
    assert deviation(sigmas, recorded["sigmas"]) < 1e-6
    used = torch.sqrt(1 - sigmas**2)[:600]  # behind, the difference of two nearly equal numbers
    assert deviation(used, recorded["alphas"][:600]) < 1e-6
    assert sigmas[-1] == 1


@pytest.mark.parametrize("case", BLENDING_CASES)
def test_time_grid(case: str) -> None:
    config, io = settings("randomized_blending")[case], part(read("randomized_blending"), f"{case}.")
    sampler = VideoToVideoSampler(config["steps_argument"], config["total_noise_levels"])
    assert sampler.steps == config["model_evaluations_steps"]
    assert torch.equal(sampler.timesteps, io["mid.t_per_step"])
    assert deviation(torch.tensor(sampler.levels), io["mid.sigmas"]) < 1e-5
    assert deviation(sampler.noised(io["in.video_latents"], io["in.noise"]), io["in.noised_latents"]) < 1e-6


def test_six_steps_are_seven() -> None:
    """float32 rounding of the published time grid."""
    assert [len(trailing_times(steps)) for steps in (6, 8, 30)] == [7, 8, 30]


# ---------------------------------------------------------------- the whole pass


class Pass:
    """The recorded film with recorded draws, through our networks."""

    def __init__(self) -> None:
        self.io, self.config = part(read("enhancer.io"), "e2e."), settings("enhancer.io")
        self.unet = recorded_unet()
        self.sampler = VideoToVideoSampler(self.config["steps_argument"], self.config["total_noise_levels"])
        self.text = torch.cat([self.io["in.y_neg"], self.io["in.y_pos"]])
        self.guidance = Guidance(self.config["guide_scale"], self.config["guide_rescale"])
        self.windows = Windows(self.config["frames"], self.config["chunk_size"], self.config["overlap_size"])
        self.joined: dict[int, Tensor] = {}

    def start(self) -> Tensor:
        return self.io["mid.noised_latents"] * self.sampler.levels[0]

    def clean(self, k: int, latents: Tensor) -> Tensor:
        return predict_clean(self.unet, self.sampler, k, latents.contiguous(), self.text, self.guidance)

    def step_noise(self, k: int) -> Tensor | None:
        drawn = self.io["draw.brownian_noise"]
        return drawn[k] if k < len(drawn) else None

    # what a growing film needs besides

    @property
    def steps(self) -> int:
        return self.sampler.steps

    def predict(self, start: int, k: int, latents: Tensor) -> Tensor:
        return self.clean(k, latents)

    def advance(self, start: int, k: int, clean: Tensor, latents: Tensor, before: Tensor | None) -> Tensor:
        whole = self.step_noise(k)
        noise = None if whole is None else whole[:, :, start : start + latents.shape[2]]
        return self.sampler.advance(k, clean, latents, before, noise)

    def cut(self, start: int, k: int) -> int:
        return int(self.io["draw.cut_indices"][k, self.windows.starts.index(start) - 1])


@torch.no_grad()
def test_encoding() -> None:
    recorded, vae = Pass(), recorded_vae()
    mean, std = vae.posterior(recorded.io["in.video"])
    assert deviation(mean, recorded.io["mid.posterior_mean"]) < 1e-5
    assert deviation(std, recorded.io["mid.posterior_std"]) < 1e-5
    clean = vae.encode(recorded.io["in.video"], recorded.io["draw.posterior_noise"]).transpose(0, 1)[None]
    noised = recorded.sampler.noised(clean, recorded.io["draw.diffusion_noise"])
    assert deviation(noised, recorded.io["mid.noised_latents"]) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_whole_pass() -> None:
    """Once window by window over the whole film, as published, and once grown frame by frame: the same, to the bit."""
    recorded, windows = Pass(), Pass().windows

    def join(k: int, parts: Any) -> Tensor:
        recorded.joined[k] = cut_together(parts, windows, recorded.io["draw.cut_indices"][k].tolist())
        return recorded.joined[k]

    latents = denoise_joined(
        recorded.clean,
        WholeFilmSampler(recorded.sampler),
        recorded.start(),
        windows,
        join,
        recorded.step_noise,  # type: ignore[arg-type]
    )
    kept = torch.stack([recorded.joined[k] for k in (0, 1, 2, recorded.steps - 1)])
    assert deviation(kept, recorded.io["mid.x0_steps_first3_last"]) < LATENTS_TOLERANCE
    assert deviation(latents, recorded.io["out.latents"]) < LATENTS_TOLERANCE
    video = recorded_vae().decode(latents[0].transpose(0, 1), frames_at_once=1)[::3]
    assert deviation(video.transpose(0, 1)[None], recorded.io["out.video"]) < VIDEO_TOLERANCE

    blend = GrowingBlend(recorded, size=windows.size, overlap=windows.overlap, together=len(windows.starts))
    film, finished = GrowingFilm(), []
    for frame in recorded.start().split(1, dim=2):
        film, more = blend.add(film, frame, lambda k, n: None)
        finished += [] if more is None else [more]
    rest = blend.finish(film, lambda k, n: None)
    assert rest is not None
    assert torch.equal(torch.cat([*finished, rest], dim=2), latents)
