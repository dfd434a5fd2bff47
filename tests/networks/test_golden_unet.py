"""cam_apm_unet: the published UNet with CAM and APM, outputs and what lies on the way (golden README section 1)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from golden_folder import deviation, read, recorded_networks, settings
from torch import Tensor, nn

from st2v_stream.networks.cam import CamFeatures, ControlBranch
from st2v_stream.networks.unet import StreamingUNet

pytestmark = pytest.mark.golden
OUTPUT_TOLERANCE = 3e-4
TAP_TOLERANCE = 1e-3  # relative to the tap's standard deviation


class Recorded:
    """The recording, and our networks run on it with the same modules tapped."""

    def __init__(self) -> None:
        self.io = read("cam_apm_unet.io")
        self.config = settings("cam_apm_unet.io")
        self.unet, self.branch = recorded_networks()

    def cam(self, t: int) -> CamFeatures:
        control = self.io["in.sample"][:, :, : self.config["num_control_input_frames"]]
        condition = self.branch.embed_condition(self.io["in.control_frames"])
        return self.branch(control, self.timesteps(t), self.io["in.text"], condition)

    def timesteps(self, t: int) -> Tensor:
        return self.io["in.timesteps"][t].expand(self.io["in.sample"].shape[0])

    def run(self, t: int, *, cam: bool, apm: bool) -> Tensor:
        image = self.io["in.image_tokens"] if apm else None
        features = self.cam(t) if cam else None
        return self.unet(self.io["in.sample"], self.timesteps(t), self.io["in.text"], image, features)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


@pytest.mark.parametrize(
    ("name", "t", "cam", "apm"),
    [
        ("full_t0", 0, True, True),
        ("full_t1", 1, True, True),
        ("cam_off_t0", 0, False, True),
        ("apm_off_t0", 0, True, False),
        ("cam_apm_off_t0", 0, False, False),
    ],
)
@torch.no_grad()
def test_output(recorded: Recorded, name: str, t: int, cam: bool, apm: bool) -> None:
    assert deviation(recorded.run(t, cam=cam, apm=apm), recorded.io[f"out.{name}"]) < OUTPUT_TOLERANCE


def tapped_modules(unet: StreamingUNet, branch: ControlBranch) -> dict[str, nn.Module]:
    down, attention = unet.down_blocks[0], unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    taps = {
        "base_conv_in": unet.conv_in,
        "base_transformer_in": unet.transformer_in,
        "base_time_embedding": unet.time_embedding,
        "base_down0_tempconv0": down.temp_convs[0],
        "base_down0_attn0": down.attentions[0],
        "base_down0_tempattn0": down.temp_attentions[0],
        "base_mid_block": unet.mid_block,
        "cam_merged_mid": unet.cross_attention_merger_mid_block,
        "apm_conv_out": attention.conv,
        "apm_layernorm_out": attention.conv_ln,
        "ctrl_cond_embedding": branch.controlnet_cond_embedding,
        "ctrl_transformer_in": branch.transformer_in,
        "ctrl_mid_residual": branch.mid_block,
    }
    taps |= {f"base_up_block_{index}": block for index, block in enumerate(unet.up_blocks)}
    mergers = unet.cross_attention_merger_down_blocks
    return taps | {f"cam_merged_skip_{index}": merger for index, merger in enumerate(mergers)}


def keep_output(store: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        store[name] = output[0] if isinstance(output, tuple) else output

    return hook


@torch.no_grad()
def run_tapped(recorded: Recorded) -> dict[str, Tensor]:
    """What our modules give in the full_t0 run, by tap name."""
    taps: dict[str, Tensor] = {}
    modules = tapped_modules(recorded.unet, recorded.branch)
    handles = [module.register_forward_hook(keep_output(taps, name)) for name, module in modules.items()]
    to_k = recorded.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k
    handles.append(to_k.register_forward_hook(lambda module, inputs, output: taps.update(apm_mixed_context=inputs[0])))
    features = recorded.cam(0)
    recorded.run(0, cam=True, apm=True)
    for handle in handles:
        handle.remove()
    taps |= {f"ctrl_down_residual_{index}": value for index, value in enumerate(features.skips)}
    return taps | {"ctrl_merged_input": features.skips[0]}


def kept_frames(tap: Tensor, expected: Tensor, batch: int, rule: str) -> Tensor:
    """Batch element 0, and of its frames those that the recording keeps (`tap_frames` in its config)."""
    frames = tap.shape[0] // batch
    keep = {int(count): [int(i) for i in indices.split(",")] for indices, count in re.findall(r"\[([\d,]+)\] of (\d+)", rule)}
    return tap[keep.get(frames, [0])].reshape(expected.shape)


def test_every_tap(recorded: Recorded) -> None:
    ours = run_tapped(recorded)
    batch, rule = recorded.io["in.sample"].shape[0], recorded.config["tap_frames"]
    for name, expected in recorded.io.items():
        if name.startswith("tap."):
            received = kept_frames(ours[name.removeprefix("tap.")], expected, batch, rule)
            assert deviation(received, expected) < TAP_TOLERANCE * expected.std().item(), name
