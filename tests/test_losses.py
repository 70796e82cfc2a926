"""Every loss of deepinv that a spec can name, alone and summed: it trains, it selects weights without ground truth, or it is refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.loss import EILoss, MCLoss, R2RLoss, SplittingLoss, SureGaussianLoss
from deepinv.physics import BlurFFT, Denoising, GaussianNoise, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from problems import network, smooth, write_spec
from torch import nn

from es_cli import catalog
from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.evaluate import evaluate
from es_cli.experiment import Experiment, build_experiment
from es_cli.splitting.group import named_group
from es_cli.splitting.library_loss import LibraryLoss, SeededSplits
from es_cli.splitting.objective import Objective, Pass
from es_cli.splitting.transforms import GroupTransform
from es_cli.training.events import Step, Validated
from es_cli.training.loop import fit, new_state
from es_cli.training.run import train

CPU = torch.device("cpu")
GAUSSIAN = {"name": "GaussianNoise", "sigma": 0.05}
COLUMNS = {"name": "GaussianMaskGenerator", "acceleration": 2, "center_fraction": 0.2}
SPLIT_COLUMNS = {"name": "MultiplicativeSplittingMaskGenerator", "split_generator": COLUMNS}


def denoising(noise: dict) -> dict:
    return {"physics": {"name": "Denoising", "noise_model": noise}}


MRI = {"physics": {"name": "MRI", "mask": COLUMNS, "noise_model": GAUSSIAN}, "model": {"name": "ArtifactRemoval", "backbone_net": network(2)}}
# what makes a problem of each loss, beside an inpainting with Gaussian noise
PROBLEMS: dict[str, dict] = {
    "SupLoss": {},
    "MCLoss": {},
    "EILoss": {},
    "TVLoss": {},
    "SplittingLoss": {},
    "EquivariantSplittingLoss": {},
    "R2RLoss": {},
    "SureGaussianLoss": {},
    "AugmentConsistencyLoss": {},
    "MOILoss": MRI,
    "MOEILoss": MRI,
    "ENSURELoss": MRI,
    "WeightedSplittingLoss": {**MRI, "mask_generator": SPLIT_COLUMNS},
    "RobustSplittingLoss": {**MRI, "mask_generator": SPLIT_COLUMNS},
    "Neighbor2Neighbor": denoising(GAUSSIAN),
    "SurePoissonLoss": denoising({"name": "PoissonNoise", "gain": 0.05}),
    "SurePGLoss": denoising({"name": "PoissonGaussianNoise", "gain": 0.05, "sigma": 0.02}),
    "ReducedResolutionLoss": {"physics": {"name": "Blur", "filter": {"file": "filter.npy"}, "padding": "circular"}},
}
SEQUENCES = {"Phase2PhaseLoss", "Artifact2ArtifactLoss"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = smooth(10, 16)
    np.save(tmp_path / "mask.npy", (np.random.default_rng(1).random((16, 16)) < 0.6).astype(np.float32))
    np.save(tmp_path / "filter.npy", np.full((1, 1, 3, 3), 1 / 9, np.float32))
    np.save(tmp_path / "images.npy", images[:, None])
    return tmp_path


def spec_of(folder: Path, *losses: object, **changes: object) -> Path:
    """A spec on the images of `folder` for these losses."""
    physics = {"name": "Inpainting", "mask": {"file": "mask.npy"}, "noise_model": GAUSSIAN}
    basis = {"physics": physics, "data": {"train": {"images": "images.npy"}, "validation": 0.2}, "losses": list(losses)}
    return write_spec(folder / "spec.yaml", **{**basis, **changes})


def experiment(folder: Path, *losses: object, **changes: object) -> Experiment:
    return build_experiment(load_spec(spec_of(folder, *losses, **changes)), CPU)


def batch_of(made: Experiment, seed: int = 3) -> Pass:
    y, x = made.train.batch([0, 1, 2], CPU)
    return Pass(made.network, made.operator.physics, y, x, seed)


def test_every_loss_of_the_catalogue_is_a_problem_here() -> None:
    known = {entry.name for entry in catalog.entries(("loss",)) if entry.refused is None}
    assert known == {*PROBLEMS, *SEQUENCES}


@pytest.mark.parametrize("name", PROBLEMS)
def test_loss_trains_and_selects(name: str, folder: Path) -> None:
    """Two steps change the weights, and the held-out loss is finite, the same each time, and leaves the network's mode and all weights alone."""
    made = experiment(folder, name, **PROBLEMS[name])
    before = {key: value.clone() for key, value in made.network.state_dict().items()}
    events = list(fit(made, new_state(made, None, 2), device=CPU, steps=2, every=1))
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step | Validated))
    assert any(not torch.equal(value, before[key]) for key, value in made.network.state_dict().items())
    made.network.eval()
    y, x = made.validation.batch([0, 1], CPU)
    truth = x if made.objective.needs_ground_truth else None
    torch.manual_seed(0)
    once = made.objective.held_out(y, made.operator.physics, [5, 6], truth)
    torch.rand(3)
    again = made.objective.held_out(y.flip(0), made.operator.physics, [6, 5], None if truth is None else truth.flip(0)).flip(0)
    assert torch.allclose(once, again, rtol=1e-4) and not once.requires_grad
    assert not any(module.training for module in made.network.modules())
    assert made.objective.needs_ground_truth == (name == "SupLoss")
