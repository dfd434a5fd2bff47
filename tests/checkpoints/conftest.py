"""One thread: with two, a second busy process on a small machine makes these tests ten times slower (0.6 s -> 5.7 s)."""

import torch

torch.set_num_threads(1)
