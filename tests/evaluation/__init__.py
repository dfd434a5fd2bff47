"""One thread: with two, another busy process on a small machine makes these tests many times slower."""

import torch

torch.set_num_threads(1)
