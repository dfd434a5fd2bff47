"""Windows to a film and back: exact on numbered frames, for both forms of randomized blending."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from st2v_stream.networks.blending import (
    Windows,
    average_together,
    cut_together,
    denoise_apart,
    denoise_joined,
    draw_cuts_as_coded,
    draw_cuts_as_in_paper,
)
from st2v_stream.networks.sampling import ContinuousSampler

WINDOWS = Windows(num_frames=14, size=6, overlap=2)


def numbered(windows: Windows) -> list[Tensor]:
    """Window w's frames are 100 w + their number in the film."""
    frames = torch.arange(windows.num_frames, dtype=torch.float32).view(1, 1, -1, 1, 1)
    return [100 * number + part for number, part in enumerate(windows.split(frames))]


def test_windows_cover_the_film() -> None:
    assert list(WINDOWS.starts) == [0, 4, 8]
    assert list(Windows(32, 16, 0).starts) == [0, 16]
    assert list(Windows(24).starts) == [0]


@pytest.mark.parametrize(("frames", "size", "overlap"), [(15, 6, 2), (4, 6, 2), (14, 6, 6), (14, 6, -1)])
def test_windows_that_leave_frames_out_are_refused(frames: int, size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"expected .* received"):
        Windows(frames, size, overlap)


def test_a_short_last_window_ends_where_the_film_does() -> None:
    lengths = {
        frames: [part.shape[2] for part in numbered(Windows(frames, 6, 2, short_last=True))] for frames in (1, 6, 7, 14, 15)
    }
    assert lengths == {1: [1], 6: [6], 7: [6, 3], 14: [6, 6, 6], 15: [6, 6, 6, 3]}
    windows = Windows(7, 6, 2, short_last=True)
    assert cut_together(numbered(windows), windows, [1]).flatten().tolist() == [0, 1, 2, 3, 4, 105, 106]
    assert average_together(numbered(windows), windows).flatten().tolist() == [0, 1, 2, 3, 54, 55, 106]


def test_cut_frames_come_from_the_left() -> None:
    film = cut_together(numbered(WINDOWS), WINDOWS, [2, 1]).flatten().tolist()
    assert film == [0, 1, 2, 3, 4, 5, 106, 107, 108, 209, 210, 211, 212, 213]


def test_cuts_are_one_for_every_further_window() -> None:
    for cuts in ([1], [1, 3], [1, 1, 1]):
        with pytest.raises(ValueError, match=r"cuts: expected"):
            cut_together(numbered(WINDOWS), WINDOWS, cuts)


def test_average_counts_every_window_once() -> None:
    film = average_together(numbered(WINDOWS), WINDOWS).flatten().tolist()
    assert film == [0, 1, 2, 3, 54, 55, 106, 107, 158, 159, 210, 211, 212, 213]


def test_shares_of_the_left_window() -> None:
    """As coded frame k of the overlap is the left's with probability 1 - k/O, in the paper 1 - k/(O+1)."""
    windows, rng, draws = Windows(40, 24, 8), random.Random(5), 9000
    coded = Counter(draw_cuts_as_coded(rng, windows)[0] for _ in range(draws))
    paper = Counter(draw_cuts_as_in_paper(rng, windows)[0] for _ in range(draws))
    for k in range(1, 9):
        assert sum(n for cut, n in coded.items() if cut >= k) / draws == pytest.approx(1 - k / 8, abs=0.02)
        assert sum(n for cut, n in paper.items() if cut >= k) / draws == pytest.approx(1 - k / 9, abs=0.02)


def test_without_overlap_there_is_nothing_to_draw() -> None:
    windows = Windows(32, 16, 0)
    assert draw_cuts_as_coded(random.Random(1), windows) == draw_cuts_as_in_paper(random.Random(1), windows) == [0]
    assert torch.equal(cut_together(numbered(windows), windows, [0]), torch.cat(numbered(windows), dim=2))


def window_dependent(k: int, latents: Tensor) -> Tensor:
    """A prediction that depends on a frame's place and on the whole window, so that cuts matter."""
    place = torch.arange(latents.shape[2], dtype=torch.float32).view(-1, 1, 1)
    return torch.tanh(latents) + 0.1 * torch.cos(place + k) + latents.mean()


def sampler() -> ContinuousSampler:
    return ContinuousSampler({}, 4)


def denoised(cuts: Sequence[Sequence[int]], *, apart: bool) -> Tensor:
    latents = torch.randn((1, 2, 14, 3, 3), generator=torch.Generator().manual_seed(1))

    def join(k: int, parts: Sequence[Tensor]) -> Tensor:
        return cut_together(parts, WINDOWS, cuts[k])

    if apart:
        samplers = [sampler() for _ in WINDOWS.starts]
        return denoise_apart(window_dependent, samplers, latents, WINDOWS, join, lambda k: latents, first_step=1)
    return denoise_joined(window_dependent, sampler(), latents, WINDOWS, join, lambda k: latents, first_step=1)


def test_cuts_decide_and_the_same_cuts_give_the_same_film() -> None:
    some, others = [[1, 2]] * 4, [[0, 2]] * 4
    for apart in (False, True):
        assert torch.equal(denoised(some, apart=apart), denoised(some, apart=apart))
        assert not torch.allclose(denoised(some, apart=apart), denoised(others, apart=apart))


def test_both_forms_agree_while_the_cuts_stay() -> None:
    """Then every frame keeps its window and with it the solver's past; linearity makes both forms one."""
    fixed = [[1, 2]] * 4
    torch.testing.assert_close(denoised(fixed, apart=False), denoised(fixed, apart=True))
    moving = [[1, 2], [0, 1], [2, 0], [1, 1]]
    assert not torch.allclose(denoised(moving, apart=False), denoised(moving, apart=True))


def test_one_window_is_plain_denoising() -> None:
    windows, latents = Windows(6, 6, 2), torch.randn(1, 1, 6, 2, 2, generator=torch.Generator().manual_seed(2))
    joined = denoise_joined(
        window_dependent, sampler(), latents, windows, lambda k, parts: cut_together(parts, windows, []), lambda k: latents
    )
    solver, plain = sampler(), latents
    for k in range(4):
        plain = solver.step(k, window_dependent(k, plain), plain, None)
    assert torch.equal(joined, plain)
