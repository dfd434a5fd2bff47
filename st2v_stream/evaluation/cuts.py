"""SCuts: hard cuts that a film should not have, as PySceneDetect's AdaptiveDetector finds them (paper section 5.1).

Default settings, as in the paper: a frame is a cut where its HSV change is at least 15 and at least 3 times the mean of the
two frames on either side, and the last cut (or the film's beginning) lies at least 15 frames back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from st2v_stream.chunk import Frames


def scene_cuts(frames: Iterable[Frames], fps: float) -> list[int]:
    """Numbers of the frames that begin a new scene; frames are `(H, W, 3)` uint8 RGB, all of one size."""
    cuts = RunningCuts(fps)
    for frame in frames:
        cuts.push(frame)
    return cuts.found


class RunningCuts:
    """The same for frames that come one by one; keeps one frame."""

    def __init__(self, fps: float) -> None:
        self.found: list[int] = []
        self._fps = float(fps)
        self._frames = 0
        self._detector = AdaptiveDetector()

    def push(self, frame: Frames) -> None:
        """The next frame (H, W, 3) RGB. A cut is found two frames after it happened."""
        bgr = np.ascontiguousarray(frame[..., ::-1])
        self.found += [cut.frame_num for cut in self._detector.process_frame(FrameTimecode(self._frames, self._fps), bgr)]
        self._frames += 1
