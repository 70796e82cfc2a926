"""The settings of a process for a device."""

from __future__ import annotations

import pytest
import torch

from es_cli.errors import DeviceError
from es_cli.training.runtime import machine, threads_of_one


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 8), ({"LOCAL_WORLD_SIZE": "4"}, 2), ({"LOCAL_WORLD_SIZE": "100"}, 1), ({"LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "8"}, 8)],
    ids=["alone", "a share", "never none", "as the user says"],
)
def test_several_processes_share_the_cores(environment, expected):
    assert threads_of_one(8, environment) == expected


def test_a_process_takes_its_share_and_gives_it_back(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with machine(torch.device("cpu")):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("number", ["0", "two", ""])
def test_a_number_of_processes_that_is_none_is_refused(number):
    with pytest.raises(DeviceError, match="LOCAL_WORLD_SIZE"):
        threads_of_one(8, {"LOCAL_WORLD_SIZE": number})


def test_on_a_gpu_convolutions_are_tried_out_and_nothing_is_in_tf32_by_itself():
    def settings():
        return torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with machine(torch.device("cpu")):
        assert settings() == before
    with machine(torch.device("cuda")):
        assert settings() == (True, False, False)
    assert settings() == before
