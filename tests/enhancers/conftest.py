"""One thread, as in the other rooms of networks: with two, a second busy process makes these tests ten times slower."""

import torch

torch.set_num_threads(1)
