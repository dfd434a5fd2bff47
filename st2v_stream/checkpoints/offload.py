"""`--offload-models`: weights are on the GPU only while their stage runs, else in the computer's memory.

    every chunk       text > anchor > denoising (UNet and CAM, needed in turn at every step) > VAE
    first chunk       text > UNet > VAE of the base; SVD and SDXL move their own parts, as diffusers does

accelerate's hooks do the moving. What leaves is decided here: accelerate's own chain (each part pushes out the one before it)
fits a line, and a chunk is none: CLIP and resampler take turns for the two anchors, the VAE comes before the UNet when a
picture is given and after it, and after the last part the first one comes again.
"""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import cpu_offload_with_hook  # type: ignore[import-untyped]
from accelerate.hooks import UserCpuOffloadHook  # type: ignore[import-untyped]
from torch import nn

from st2v_stream.generators.conditioning import AnchorEncoder, ClipText, LatentAnchor, OpenClipAnchor, TextEncoder
from st2v_stream.generators.firstchunk.svd import SvdFirstChunk
from st2v_stream.generators.firstchunk.text_to_video import TextToVideoParts
from st2v_stream.generators.streamingt2v import Networks, WindowMaker
from st2v_stream.types import ModelCard


class Stages:
    """Which networks belong together, and whose turn it is: those of one stage at a time are on `device`.

    Used by one thread, as generators are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = _with_index(device)
        self._hooks: dict[str, list[UserCpuOffloadHook]] = {}
        self._here: str | None = None

    def add(self, stage: str, network: nn.Module) -> Any:
        """Move the network out until it is needed; returns what to use instead of it."""
        _, hook = cpu_offload_with_hook(network, self.device)
        self._hooks.setdefault(stage, []).append(hook)
        return Visiting(network, functools.partial(self._arrive, stage, hook), self.device)

    def add_pipeline(self, stage: str, pipeline: Any) -> Any:
        """The same for a pipeline of diffusers, which moves its own parts in and out again."""
        pipeline.enable_model_cpu_offload(device=self.device)
        return Visiting(pipeline, functools.partial(self.enter, stage), self.device)

    def enter(self, stage: str) -> None:
        """The networks of the stage that was here leave, unless it is this one."""
        if stage == self._here:
            return
        if self._here is not None:
            with _real_tensors():
                for hook in self._hooks.get(self._here, ()):
                    hook.offload()
            _give_back_memory(self.device)
        self._here = stage

    def _arrive(self, stage: str, hook: UserCpuOffloadHook) -> None:
        self.enter(stage)
        with _real_tensors():
            hook.hook.pre_forward(hook.model)


class Visiting:
    """Stands for a network or a pipeline: calling it, or one of its methods, brings it to the device first.

    `device` is where it computes, also while its weights are elsewhere: inputs are put there.
    """

    def __init__(self, guest: Any, arrive: Callable[[], None], device: torch.device) -> None:
        self._guest, self._arrive, self.device = guest, arrive, device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._arrive()
        return self._guest(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._guest, name)
        if not inspect.ismethod(value):
            return value

        @functools.wraps(value)
        def there(*args: Any, **kwargs: Any) -> Any:
            self._arrive()
            return value(*args, **kwargs)

        return there


def offload_networks(networks: Networks, stages: Stages) -> Networks:
    """The same networks, moved stage by stage."""
    vae = stages.add("vae", networks.vae)
    return replace(
        networks,
        unet=stages.add("denoising", networks.unet),
        cam=stages.add("denoising", networks.cam),
        vae=vae,
        anchor=_anchor(networks.anchor, vae, stages),
        text=_text(networks.text, stages, "text"),
    )


def offload_first_chunk(maker: WindowMaker, card: ModelCard, stages: Stages) -> WindowMaker:
    """The same first-chunk maker, which was loaded on the CPU, moved stage by stage; a maker without weights as it is."""
    if isinstance(maker, SvdFirstChunk):
        video = stages.add_pipeline("svd", maker._video)
        return SvdFirstChunk(card, video, None if maker._image is None else stages.add_pipeline("sdxl", maker._image))
    parts = getattr(maker, "_parts", None)
    if not isinstance(parts, TextToVideoParts):
        return maker
    moved = replace(
        parts,
        unet=stages.add("first chunk's UNet", parts.unet),
        vae=stages.add("first chunk's VAE", parts.vae),
        text=_text(parts.text, stages, "first chunk's text"),
    )
    return type(maker)(card, moved)  # type: ignore[call-arg]


def _anchor(anchor: AnchorEncoder, vae: Any, stages: Stages) -> AnchorEncoder:
    if isinstance(anchor, OpenClipAnchor):
        return OpenClipAnchor(stages.add("anchor", anchor.encoder), stages.add("anchor", anchor.resampler))
    if isinstance(anchor, LatentAnchor):
        return LatentAnchor(stages.add("anchor", anchor.encoder), vae)
    raise TypeError(f"an anchor encoder of this kind cannot be moved: {type(anchor).__name__}")


def _text(text: TextEncoder, stages: Stages, stage: str) -> TextEncoder:
    if not isinstance(text, ClipText):
        raise TypeError(f"a text encoder of this kind cannot be moved: {type(text).__name__}")
    return ClipText(text.tokenizer, stages.add(stage, text.model), text.max_tokens)


def _with_index(device: torch.device) -> torch.device:
    """cuda -> cuda:0: accelerate compares devices, and weights always know which GPU they are on."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _real_tensors() -> Any:
    """Weights that are moved inside inference mode could not be moved outside of it again."""
    return torch.inference_mode(False)


def _give_back_memory(device: torch.device) -> None:
    """Torch keeps freed memory in pieces of the sizes that were freed; the next stage needs other sizes."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
