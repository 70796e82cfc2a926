"""Two processes end with what one ends with, one of them writes, and none is left waiting for another that has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from problems import es, inpainting_in, train_in
from trains_in_two import CASES

from es_cli.catalog import load_spec
from es_cli.errors import DeviceError, UsageError
from es_cli.training.events import Step
from es_cli.training.launching import MARK, Place, find_place
from es_cli.training.run import Interrupted, resume
from es_cli.training.state import read_snapshot

pytest.importorskip("lightning_fabric")
ROOT = Path(__file__).parents[2]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]), "OMP_NUM_THREADS": "1"}
LONG = ["training.steps=1000000", "training.save_every=0.1", "training.ema=null"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder in which torchrun had two processes train all cases, and go on with a run of one process."""
    spec = inpainting_in(tmp_path_factory.mktemp("two"))
    folder = spec.parent

    def end(event):
        if isinstance(event, Step) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_in(folder / "alone-cut", load_spec(spec), on_event=end)
    script = ROOT / "tests" / "trains_in_two.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(folder)]
    done = subprocess.run(command, env=HERE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def state(run: Path):
    return read_snapshot(run / "state" / "state.safetensors")


def assert_equal_ends(run: Path, other: Path) -> None:
    """Both runs end with the same weights, averaged weights, optimizer and validation, but for rounding."""
    one, two = state(run), state(other)
    assert set(one.tensors) == set(two.tensors)
    for name, value in one.tensors.items():
        assert torch.allclose(two.tensors[name].float(), value.float(), rtol=1e-3, atol=1e-5), name
    mine, theirs = one.described["progress"], two.described["progress"]
    assert mine["best_loss"] == pytest.approx(theirs["best_loss"], rel=1e-5)
    assert [mine[name] for name in ("step", "best_step", "validated", "done")] == [theirs[name] for name in ("step", "best_step", "validated", "done")]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_as_one_does(trained, case):
    alone, two = trained / f"alone-{case}", trained / f"two-{case}"
    if case == "cut":
        # it was stopped by a signal to the process that does not write, and one process goes on
        assert state(two).step == 2
        resume(two, device="cpu")
        alone = trained / "alone-small"
    if not alone.exists():
        train_in(alone, load_spec(trained / "spec.yaml", CASES[case]))
    assert_equal_ends(alone, two)


def test_two_processes_go_on_with_a_run_of_one(trained):
    whole = train_in(trained / "alone-whole", load_spec(trained / "spec.yaml"))
    assert_equal_ends(whole.parent, trained / "alone-cut")


def test_one_process_writes(trained):
    by = [(trained / f"written-by-{number}.txt").read_text().splitlines() for number in (0, 1)]
    assert any("state.safetensors" in path for path in by[0]) and by[1] == []


def test_where_one_has_too_little_memory_both_take_smaller_pieces(trained):
    said = (trained / "said-small.txt").read_text()
    assert said.count("from here on 1 at a time") == 1 and "2 samples at once" in said


def test_a_process_that_dies_ends_the_other_and_the_run_goes_on(tmp_path):
    spec = inpainting_in(tmp_path)
    command = [sys.executable, "-m", "es_cli", "train", str(spec), *LONG, "--devices", "2", "--device", "cpu", "-o", str(tmp_path / "run"), "--no-check"]
    run = subprocess.Popen(command, env=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (tmp_path / "run" / "state" / "previous.safetensors").exists(), run)
        (other,) = children(run.pid)
        os.kill(other, signal.SIGKILL)
        died = time.monotonic()
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == DeviceError.exit_code and out == "" and time.monotonic() - died < 60
    assert "process 0 of 2 hears nothing from another one" in err and "es train --resume" in err and "Traceback" not in err
    reached = state(tmp_path / "run").step
    assert es(["train", "--resume", str(tmp_path / "run"), f"training.steps={reached + 2}", "--device", "cpu"]) == 0
    assert state(tmp_path / "run").step == reached + 2


def wait_for(seen, run) -> None:
    last = time.monotonic() + 240
    while not seen():
        assert run.poll() is None and time.monotonic() < last, run.stderr.read()
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that are python, too."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(line.split()[0]) for line in found if "es_cli" in line]


def torchrun(number: int, count: int) -> dict[str, str]:
    return {"TORCHELASTIC_RUN_ID": "x", "RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def slurm(number: int, count: int, nodes: int) -> dict[str, str]:
    return {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_PROCID": str(number), "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "place"),
    [
        (None, None, {}, None),
        (1, 1, {}, None),
        (2, None, {}, Place("es", 0, 2, 0, 2)),
        (2, None, {MARK: "7", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Place("es", 1, 2, 1, 2)),
        (None, None, torchrun(3, 4), Place("torchrun", 3, 4, 1, 2)),
        (2, 2, torchrun(3, 4), Place("torchrun", 3, 4, 1, 2)),
        (None, None, {**torchrun(0, 1), "LOCAL_WORLD_SIZE": "1"}, None),
        (4, 2, slurm(5, 8, 2), Place("SLURM", 5, 8, 1, 4)),
        (2, None, slurm(0, 1, 1), Place("es", 0, 2, 0, 2)),  # srun started one, which starts the other
        (None, None, slurm(3, 8, 2), None),  # tasks of their own, unless somebody says otherwise
    ],
)
def test_a_process_knows_its_place(devices, nodes, environment, place):
    assert find_place(devices, nodes, environment) == place


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "said"),
    [(4, 1, torchrun(0, 4), "started 4 processes on 2 machines"), (8, 2, slurm(0, 8, 2), "and 16 on 2"), (8, 2, {}, "nothing started es on them")],
)
def test_what_was_not_started_is_not_waited_for(devices, nodes, environment, said):
    with pytest.raises(UsageError, match=said):
        find_place(devices, nodes, environment)


def test_a_number_that_is_none_is_told():
    with pytest.raises(DeviceError, match="RANK is 'first'"):
        find_place(None, None, {**torchrun(0, 2), "RANK": "first"})
