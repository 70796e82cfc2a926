"""Traps of deepinv 0.5.0 (METHOD.md §3) that only whole runs can step into; the others are named where their subject is tested."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval, UNet
from deepinv.physics import Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from problems import network, smooth, train_in, write_spec
from torch import nn

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.reconstruct import Reconstructor
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import named_group
from es_cli.splitting.objective import EquivariantSplitting, Objective
from es_cli.training.events import Step, Validated
from es_cli.training.run import resume

TESTS = Path(__file__).parent


def test_every_trap_is_named_by_a_test():
    named = set()
    for file in TESTS.rglob("test_*.py"):
        for numbers in re.findall(r"[Tt]raps?[ _]([\d, and]+)", file.read_text()):
            named |= {int(number) for number in re.findall(r"\d+", numbers)}
    assert named >= set(range(1, 28))


def objective() -> tuple[Objective, torch.Tensor, Inpainting]:
    x = torch.from_numpy(smooth(2, 8)[:, None])
    physics = Inpainting((1, 8, 8), mask=(torch.arange(64).view(1, 8, 8) % 3 > 0).float())
    loss = EquivariantSplitting(named_group("D4", x.shape), BernoulliSplittingMaskGenerator((1, 8, 8), 0.7), Measured(MCLoss()), MCLoss())
    net = ArtifactRemoval(UNet(1, 1, channels_per_scale=[4, 8], batch_norm=False))
    return Objective(net, [("es", 1.0, loss)]), physics.A(x), physics


@pytest.mark.parametrize(
    "wrapped",
    [copy.deepcopy, nn.DataParallel, lambda made: Objective.like(made, copy.deepcopy(made.network))],
    ids=["deepcopy", "DataParallel", "EMA"],
)
def test_trap_21_an_objective_knows_its_network_in_a_copy_and_in_a_wrapper(wrapped):
    """deepinv finds the model of a loss by identity: "Unregistered model"."""
    made, y, physics = objective()
    assert torch.equal(wrapped(made)(y, physics, 3)[0], made(y, physics, 3)[0])


def test_trap_21_an_objective_can_be_compiled():
    made, y, physics = objective()
    value = made(y, physics, 3)[0]
    made.network = torch.compile(made.network, backend="eager")
    assert torch.allclose(made(y, physics, 3)[0], value)


def test_trap_22_a_checkpoint_holds_no_state_of_random_generators(tmp_path):
    """deepinv's generators put `initial_random_state` into every state dict that holds one; and their fixed seed makes equal draws of all seeds."""
    np.save(tmp_path / "x.npy", smooth(6, 16)[:, None])
    physics = {"name": "Inpainting", "mask": {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.6}, "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}
    spec = write_spec(tmp_path / "spec.yaml", physics=physics, data={"train": {"images": "x.npy"}})
    kept = [load_checkpoint(train_in(tmp_path / str(seed), load_spec(spec, [f"seed={seed}", "training.steps=1"]))).tensors for seed in (0, 1)]
    assert not [key for key in kept[0] if "random" in key]
    assert not torch.equal(kept[0]["physics.mask"], kept[1]["physics.mask"])


def test_trap_25_a_resumed_run_keeps_its_patience_and_its_best(inpainting):
    """deepinv's Trainer drops the histories: it stops an epoch after resuming, and takes whatever comes first for the best."""
    changes = ["training.optimizer.lr=1e-12", "training.ema=null", "training.steps=60", "training.validate_every=2", "training.patience=4"]

    def losses(folder: str) -> list[tuple[int, bool]]:
        rows = (inpainting.parent / folder / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["best"]) for row in map(json.loads, rows)]

    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Step) and event.step == 7:
            raise Cut

    seen: list[Validated] = []
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting, changes), on_event=lambda e: seen.append(e) if isinstance(e, Validated) else None)
    with pytest.raises(Cut):
        train_in(inpainting.parent / "cut", load_spec(inpainting, changes), on_event=cut)
    resumed = resume(inpainting.parent / "cut", device="cpu")
    assert losses("cut") == losses("whole") and len(seen) == len(losses("cut")) < 30
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("physics", [{"name": "MRI", "mask": "from-data"}, {"name": "Tomography", "angles": 6, "normalize": True}], ids=["MRI", "Tomography"])
def test_trap_26_half_precision_on_disk_is_computed_in_single(physics, tmp_path):
    """On a CPU these operators of deepinv refuse half inputs."""
    channels, shape = (2, (6, 2, 16, 16)) if physics["name"] == "MRI" else (1, (6, 1, 23, 6))
    y = np.random.default_rng(0).random(shape).astype(np.float16)
    np.save(tmp_path / "y.npy", y)
    spec = write_spec(
        tmp_path / "spec.yaml", physics=physics, data={"train": {"measurements": "y.npy"}}, mask_generator=None,
        model={"name": "ArtifactRemoval", "backbone_net": network(channels)},
    )  # fmt: skip
    model = Reconstructor.load(train_in(tmp_path / "run", load_spec(spec, ["training.steps=1"])), "cpu")
    assert np.array_equal(model.reconstruct(y), model.reconstruct(y.astype(np.float32)))
