"""A state is believed only as far as it fits: with a right checksum too, what it claims of optimizer and progress is looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import es, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.errors import CheckpointError
from es_cli.training.state import Snapshot, read_snapshot

TRAINING = {"steps": 1, "batch_size": 2, "preview": False, "optimizer": {"name": "AdamW", "lr": 0.001}}
Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that could go on."""
    import numpy as np

    folder = tmp_path_factory.mktemp("stopped")
    np.save(folder / "mask.npy", (np.arange(256).reshape(16, 16) % 3 > 0).astype(np.float32))
    np.save(folder / "train_y.npy", np.random.default_rng(0).random((6, 1, 16, 16), np.float32) * np.load(folder / "mask.npy"))
    spec = write_spec(folder / "spec.yaml", data={"train": {"measurements": "train_y.npy"}}, training=TRAINING)
    train_in(folder / "run", load_spec(spec))
    return folder / "run"


def progress(**changes: object) -> Change:
    return lambda described, tensors: described["progress"].update(changes)


def of_first_weight(described: dict[str, Any]) -> list[Any]:
    """[key, what is packed] of all that AdamW remembers of the first weight."""
    (found,) = [held for key, held in described["optimizer"]["dict"] if key == "state"]
    return found["dict"][0][1]["dict"]


def forget(described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    of_first_weight(described)[:] = [pair for pair in of_first_weight(described) if pair[0] != "exp_avg"]


def misname(described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    of_first_weight(described)[1][1] = "-x"


def misshape(described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors[of_first_weight(described)[1][1]["tensor"]] = torch.ones(3, 5, 7)


def leave_out(described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del described["progress"]


HOSTILE: dict[str, Change] = {
    "a forgotten moment": forget,
    "a word for a moment": misname,
    "a moment of another shape": misshape,
    "no progress": leave_out,
    "steps before the first": progress(step=-1),
    "a fraction of a step": progress(step=1.5),
    "a truth value": progress(skipped=True),
    "more steps than any": progress(step=10**30),
    "a word for a loss": progress(best_loss="x"),
    "a number for a reason": progress(done=7),
    "a field that is none": progress(pickled="x"),
    "a tally of nothing": progress(tally=3),
    "a number of bad samples": progress(bad=3),
    "a word for a bad sample": progress(bad={"train": ["x"]}),
    "a bad part": progress(bad={"train": 7}),
    "a number for a spec": lambda described, tensors: described.update(spec=7),
    "a spec of nothing": lambda described, tensors: described.update(spec={"physics": 7}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_state_that_does_not_fit_is_exit_4(name: str, stopped: Path, tmp_path: Path, capfd) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (run / "state" / "previous.safetensors").unlink(missing_ok=True)
    file = run / "state" / "state.safetensors"
    held = read_snapshot(file)
    described, tensors = json.loads(json.dumps(held.described)), dict(held.tensors)
    HOSTILE[name](described, tensors)
    Snapshot(tensors, described).write(file)
    assert es(["train", "--resume", str(run), "training.steps=3", "--device", "cpu", "-q"]) == 4
    said = capfd.readouterr().err
    assert str(file) in said and "cannot be read" in said and len(said.splitlines()) <= 10, said


@pytest.mark.parametrize("text", ['{"progress": ' + "[" * 100_000, '{"progress": {"step": 1}, "progress": {"step": 2}}', "[]", "7", '""', "null"])
def test_a_state_that_is_no_description(text: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"network.w": torch.ones(1)}, tmp_path / "state.safetensors", {"es-state": text})
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_snapshot(tmp_path / "state.safetensors")
