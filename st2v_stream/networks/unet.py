"""The video UNet of StreamingT2V: ModelScope's text-to-video UNet with CAM mergers and APM (`base_model.*`).

Paper sec. 4; published file `unet_3d_condition.py` of branch StreamingModelscope. Without image tokens and without CAM
features it is the plain text-to-video UNet of stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from st2v_stream.networks.apm import add_apm
from st2v_stream.networks.cam import AdditionMerger, CamFeatures, CamMerger, CamMergerSettings, padded_with_mask
from st2v_stream.networks.video_blocks import (
    MidBlock,
    UpBlock,
    VideoBlock,
    VideoBlocksConfig,
    VideoEncoder,
    zero_init,
)

Conditioning = Literal["attention", "addition", "concatenation", "none"]
"""How the tail reaches the UNet: CAM, or what the paper's ablation compares it with (networks/cam.py)."""


@dataclass(frozen=True)
class StreamingUNetConfig(VideoBlocksConfig):
    """The main UNet; the defaults are the published one (1,480 M parameters)."""

    out_channels: int = 4
    prediction_type: Literal["epsilon", "v", "flow"] = "epsilon"
    text_tokens: int = 77
    image_tokens: int = 16  # APM; 0: built without it
    apm_alpha_init: float = 0.0
    num_control_frames: int = 8  # CAM; 0: built without it
    conditioning: Conditioning = "attention"
    cam_head_dim: int = 64
    cam_on_mid_block: bool = True
    cam_frame_positions: bool = False
    cam_key_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction_type not in ("epsilon", "v", "flow"):
            raise ValueError(f"prediction_type: expected epsilon, v or flow, received {self.prediction_type!r}")
        if self.conditioning not in get_args(Conditioning):
            raise ValueError(f"conditioning: expected one of {get_args(Conditioning)}, received {self.conditioning!r}")

    @property
    def merges_features(self) -> bool:
        """Whether features of a control branch enter the skip features."""
        return self.num_control_frames > 0 and self.conditioning in ("attention", "addition")

    @property
    def concatenates_latents(self) -> bool:
        """Whether the tail's latents and their mask are further input channels."""
        return self.num_control_frames > 0 and self.conditioning == "concatenation"


class StreamingUNet(VideoEncoder[StreamingUNetConfig]):
    """Predicts noise, v or flow (`config.prediction_type`) of a window of frames."""

    config_class = StreamingUNetConfig

    def __init__(self, config: StreamingUNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(range(len(widths))))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, kernel_size=3, padding=1)
        if config.image_tokens:
            self._add_apm()
        if config.merges_features:
            self._add_mergers()
        if config.concatenates_latents:
            self.conv_in = nn.Conv2d(2 * config.in_channels + 1, widths[0], kernel_size=3, padding=1)

    def _add_apm(self) -> None:
        config = self.config
        blocks = [block for block in self.modules() if isinstance(block, VideoBlock) and hasattr(block, "attentions")]
        for attention in (attention for block in blocks for attention in block.attentions):
            cross_attention = attention.transformer_blocks[0].attn2  # type: ignore[index, union-attr]
            width, alpha = config.cross_attention_dim, config.apm_alpha_init
            add_apm(cross_attention, config.text_tokens, config.image_tokens, width, alpha)  # type: ignore[arg-type]

    def _add_mergers(self) -> None:
        config = self.config
        # one name for both kinds: the published checkpoint's
        self.cross_attention_merger_down_blocks = nn.ModuleList(self._merger(width) for width in config.skip_channels)
        if config.cam_on_mid_block:
            self.cross_attention_merger_mid_block = self._merger(config.block_out_channels[-1])

    def _merger(self, width: int) -> CamMerger | AdditionMerger:
        config = self.config
        if config.conditioning == "addition":
            return AdditionMerger(width)
        settings = CamMergerSettings(
            head_dim=config.cam_head_dim,
            norm_num_groups=config.norm_num_groups,
            num_frames=config.num_frames,
            num_control_frames=config.num_control_frames,
            frame_positions=config.cam_frame_positions,
            key_norm=config.cam_key_norm,
        )
        return CamMerger(width, settings)

    def init_weights(self) -> None:
        """Start for training from scratch: every residual part and every merger is the identity, the output is 0."""
        zero_init(self)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(cast(Tensor, self.conv_out.bias))
        for module in self.modules():
            if isinstance(module, CamMerger | AdditionMerger):
                module.init_weights()
        if self.config.concatenates_latents:
            nn.init.zeros_(self.conv_in.weight[:, self.config.in_channels :])

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        cam: CamFeatures | None = None,
    ) -> Tensor:
        """Noisy latents (B, C, F, h, w) -> prediction of the same shape.

        timesteps: (B,) or a scalar, 0..1000, fractions allowed. text: (B, text tokens, D). image: (B, image tokens, D)
        of the anchor, None = APM off. cam: the control branch's features, None = CAM is skipped (a first chunk).
        """
        num_frames = sample.shape[2]
        timesteps = torch.as_tensor(timesteps, device=sample.device).expand(sample.shape[0])
        context = text if image is None else torch.cat([text, image], dim=1)
        emb = self.embed_time(timesteps, num_frames)
        if self.config.concatenates_latents:
            sample = torch.cat([sample, self._further_channels(sample, cam)], dim=1)
        merged = cam if self.config.merges_features else None
        hidden, skips = self.encode(self.embed_sample(sample), emb, context, num_frames)
        if merged is not None:  # after the whole encoder ran: what enters the mid block has not seen CAM
            skips = self._merge_skips(skips, merged, num_frames)
        hidden = self.mid_block(hidden, emb, context, num_frames)
        if merged is not None and merged.mid is not None and self.config.cam_on_mid_block:
            hidden = self.cross_attention_merger_mid_block(hidden, merged.mid, num_frames)
        for block in self.up_blocks:
            hidden = block(hidden, emb, context, num_frames, skips)
        hidden = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return rearrange(hidden, "(b f) c h w -> b c f h w", f=num_frames)

    def _merge_skips(self, skips: list[Tensor], cam: CamFeatures, num_frames: int) -> list[Tensor]:
        mergers = self.cross_attention_merger_down_blocks
        return [merger(skip, control, num_frames) for merger, skip, control in zip(mergers, skips, cam.skips, strict=True)]

    def _further_channels(self, sample: Tensor, cam: CamFeatures | None) -> Tensor:
        """The tail's latents and their mask, (B, C + 1, F, h, w); without a tail all zeros."""
        if cam is None or cam.latents is None:
            return torch.zeros_like(torch.cat([sample, sample[:, :1]], dim=1))
        return padded_with_mask(cam.latents, sample.shape[2])
