from __future__ import annotations

import copy

import pytest
import torch

from st2v_stream.training.compiling import compile_on_gpu

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("device", "compiles"), [("cpu", False), ("cuda", True)])
def test_only_a_gpu_compiles_and_weights_keep_their_names(device: str, compiles: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch._dynamo.config.patch(suppress_errors=False):  # puts it back
        compile_on_gpu(torch.device(device), network)  # compiling waits for the first call, which no GPU is there to make
    assert (network._compiled_call_impl is not None) == compiles
    assert set(copy.deepcopy(network).state_dict()) == {"0.weight", "0.bias"}
