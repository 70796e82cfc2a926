"""The settings of a process for a device."""

from __future__ import annotations

import csv
import json
import os
import signal

import pytest
import torch
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.errors import DeviceError
from es_cli.training.events import Step
from es_cli.training.run import resume
from es_cli.training.runtime import machine, peak_memory, threads_of_one


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


def test_the_most_memory_that_was_held_is_counted_in_mebibytes(monkeypatch):
    import resource
    import sys
    from types import SimpleNamespace

    assert 50 < peak_memory(torch.device("cpu")) < 2**20  # torch alone takes more than the one, and no test a tebibyte
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setattr(sys, "platform", "linux")
    assert peak_memory(torch.device("cpu")) == 3 * 2**10
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory(torch.device("cpu")) == 3
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory(torch.device("cpu")) is None


def test_metrics_say_throughput_and_memory_also_after_resuming_an_older_run(inpainting):
    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    folder = inpainting.parent / "run"
    with pytest.raises(BaseException, match="signal 2"):
        train_in(folder, load_spec(inpainting), on_event=stop)
    row = json.loads((folder / "metrics.jsonl").read_text())
    assert row["peak_memory_mib"] > 50 and row["samples_per_second"] > 0
    del row["peak_memory_mib"]  # older versions did not write it
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    resume(folder, device="cpu")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6] and rows[0]["peak_memory_mib"] is None and rows[1]["peak_memory_mib"] > 50
    table = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["peak_memory_mib"] for row in table] == ["", str(rows[1]["peak_memory_mib"])] and list(table[0]) == list(rows[0])


@pytest.mark.cuda
def test_memory_on_cuda_is_what_was_allocated_there():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory(device)
    held = torch.empty(64, 2**18, device=device)
    assert peak_memory(device) == pytest.approx(before + len(held), abs=1)


def deterministic_settings():
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_deterministic_is_set_for_the_time_of_a_training(device):
    before = deterministic_settings()
    with machine(torch.device(device), deterministic=True):
        assert deterministic_settings() == (True, True, ":4096:8") and not torch.backends.cudnn.benchmark
    assert deterministic_settings() == before


def test_an_operation_that_has_no_deterministic_way_is_exit_5_and_named():
    with pytest.raises(DeviceError, match="does not have a deterministic implementation") as refused, machine(torch.device("cpu"), deterministic=True):
        raise RuntimeError("upsample_backward does not have a deterministic implementation, but you set ...")
    assert refused.value.fault.where == "training.deterministic" and refused.value.exit_code == 5
    with pytest.raises(RuntimeError, match="of ours"), machine(torch.device("cpu"), deterministic=True):
        raise RuntimeError("a fault of ours")


def test_on_a_cpu_deterministic_training_computes_the_same(inpainting):
    from es_cli.checkpoint import load_checkpoint

    on, seen = load_spec(inpainting, ["training.deterministic=true"]), []
    model = train_in(inpainting.parent / "on", on, on_event=lambda event: seen.append(torch.are_deterministic_algorithms_enabled()))
    plain = train_in(inpainting.parent / "off", load_spec(inpainting))
    assert all(seen) and not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(value, load_checkpoint(plain).tensors[name]) for name, value in load_checkpoint(model).tensors.items())
