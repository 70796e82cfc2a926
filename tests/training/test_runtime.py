"""The settings of a process for a device."""

from __future__ import annotations

import torch

from es_cli.training.runtime import machine


def test_on_a_gpu_convolutions_are_tried_out_and_nothing_is_in_tf32_by_itself():
    def settings():
        return torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with machine(torch.device("cpu")):
        assert settings() == before
    with machine(torch.device("cuda")):
        assert settings() == (True, False, False)
    assert settings() == before
