"""The shipped specs on made-up arrays of the benchmark tasks' shapes, so that a benchmark of speed needs no data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from deepinv.models import UNet
from deepinv.physics import MRI
from torch import Tensor, nn

from es_cli.catalog import load_spec
from es_cli.experiment import Experiment, build_experiment
from es_cli.spec.schema import Spec
from es_cli.training.folder import claim
from es_cli.training.run import Listener, train

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "configs"
CPU = torch.device("cpu")
COUNTS = {"train": 32, "val": 8, "test": 8}
TASKS = {"inpainting64": "artifact removal", "mri64": "MoDL × 3"}
SIZE = 64


def spec_in(folder: Path, task: str, changes: list[str] | None = None) -> Spec:
    """The shipped spec of a task, with `changes` as `es train` takes them, and the arrays that it names written to `folder`."""
    shutil.copy(CONFIGS / f"{task}.yaml", folder)
    arrays = folder / "tasks" / task
    if not arrays.exists():
        arrays.mkdir(parents=True)
        _write(arrays, task)
    return load_spec(folder / f"{task}.yaml", ["training.preview=false", *(changes or [])])


def _write(folder: Path, task: str) -> None:
    rng = np.random.default_rng(0)
    if task == "mri64":
        columns = np.zeros(SIZE, np.float32)
        columns[rng.choice(SIZE, SIZE // 4, replace=False)] = 1
        columns[SIZE // 2 - 3 : SIZE // 2 + 3] = 1
        mask = np.broadcast_to(columns, (SIZE, SIZE)).copy()
    else:
        mask = (rng.random((1, SIZE, SIZE)) < 0.3).astype(np.float32)
    np.save(folder / "mask.npy", mask)
    for part, count in COUNTS.items():
        x = rng.random((count, 2 if task == "mri64" else 3, SIZE, SIZE), np.float32)
        np.save(folder / f"{part}_x.npy", x)
        np.save(folder / f"{part}_y.npy", MRI(mask=torch.from_numpy(mask)).A(torch.from_numpy(x)).numpy() if task == "mri64" else x * mask)


def experiment_of(spec: Spec) -> tuple[Experiment, Tensor]:
    """All that training touches, on the CPU, and one batch of test measurements (8, …) in the user's units."""
    experiment = build_experiment(spec, CPU)
    assert experiment.test is not None  # the shipped specs have one
    return experiment, experiment.test.batch(range(COUNTS["test"]))[0]


def run(spec: Spec, folder: Path, on_event: Listener = lambda event: None) -> Path:
    """Train `spec` in `folder`; the path of its checkpoint."""
    return train(spec, claim(spec, folder), device="cpu", on_event=on_event)


def backbone(network: nn.Module) -> UNet:
    """The network inside a reconstructor."""
    return next(module for module in network.modules() if isinstance(module, UNet))
