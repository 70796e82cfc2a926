"""Every loss of deepinv that a spec can name, alone and summed: it trains, it selects weights without ground truth, or it is refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import network, smooth, train_in, write_spec

from es_cli import catalog
from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.evaluate import evaluate
from es_cli.experiment import Experiment, build_experiment
from es_cli.training.events import Step, Validated
from es_cli.training.loop import fit, new_state

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
    y, x, _ = made.validation.batch([0, 1], CPU)
    truth = x if made.objective.needs_ground_truth else None
    torch.manual_seed(0)
    once = made.objective.held_out(y, made.operator.physics, [5, 6], truth)
    torch.rand(3)
    again = made.objective.held_out(y.flip(0), made.operator.physics, [6, 5], None if truth is None else truth.flip(0)).flip(0)
    assert torch.allclose(once, again, rtol=1e-4) and not once.requires_grad
    assert not any(module.training for module in made.network.modules())
    assert made.objective.needs_ground_truth == (name == "SupLoss")


@pytest.mark.parametrize("name", sorted(SEQUENCES))
def test_losses_of_sequences_train(name: str, tmp_path: Path) -> None:
    mask = np.zeros((2, 4, 8, 8), np.float32)
    for frame in range(4):
        mask[:, frame, :, frame::4] = 1
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((4, 2, 4, 8, 8), np.float32))
    sequences = {"name": "ArtifactRemoval", "backbone_net": {**network(2), "dim": 3}}
    made = experiment(tmp_path, name, physics={"name": "DynamicMRI", "mask": {"file": "mask.npy"}}, model=sequences, transforms={"group": "trivial"})
    events = list(fit(made, new_state(made, None, 1), device=CPU, steps=1, every=1))
    assert all(math.isfinite(event.loss) and event.loss > 0 for event in events if isinstance(event, Step | Validated))
    with pytest.raises(SpecError, match="does not keep"):
        experiment(tmp_path, {"name": name, "dynamic_model": False}, physics={"name": "DynamicMRI", "mask": {"file": "mask.npy"}}, model=sequences)


def test_splitting_alone_is_averaged_over_splits_at_test(folder: Path) -> None:
    """The rival of equivariant splitting differs from it by its loss and its rule at test, and selects without ground truth."""
    spec = spec_of(folder, {"name": "SplittingLoss", "split_ratio": 0.6}, mask_generator=None, test={"splits": 3, "group": "trivial"})
    made = build_experiment(load_spec(spec), CPU)
    assert made.reconstruction.splitter.generator.split_ratio == 0.6 and made.train.x is None
    np.save(folder / "y.npy", np.load(folder / "images.npy")[:2] * np.load(folder / "mask.npy"))
    np.save(folder / "x.npy", np.load(folder / "images.npy")[:2])
    model = train_in(folder / "run", load_spec(spec))
    result = evaluate(model, measurements=folder / "y.npy", images=folder / "x.npy").to_dict()
    assert result["network_calls"] == 3 and math.isfinite(result["metrics"]["PSNR"]["mean"])


def refusal(folder: Path, *losses: object, **changes: object) -> str:
    with pytest.raises(SpecError) as caught:
        experiment(folder, *losses, **changes)
    return str(caught.value)


def test_what_does_not_go_together_is_refused_before_training(folder: Path) -> None:
    raw = {"name": "Inpainting", "mask": {"file": "mask.npy"}}
    images = {"train": {"images": "images.npy"}, "validation": 0.2}
    assert "needs sigma" in refusal(folder, "SureGaussianLoss", physics=raw)
    assert "needs transform" in refusal(folder, "EILoss", transforms={"group": "trivial"})
    assert "physics_generator must be passed" in refusal(folder, "MOILoss")
    assert "alpha is 1.5" in refusal(folder, {"name": "R2RLoss", "alpha": 1.5})
    assert "R2RLoss does not know ZeroNoise" in refusal(folder, "R2RLoss", physics=raw)
    assert "compares an image that was shifted with one that was turned" in refusal(folder, "AugmentConsistencyLoss", transforms={"group": "trivial"})
    assert "units of the measurements" in refusal(folder, {"name": "SureGaussianLoss", "sigma": 0.05}, data={**images, "scale": "per-sample"})
    assert "one noise level" in refusal(folder, {"name": "SureGaussianLoss", "unsure": True}, data={**images, "scale": "per-sample"})
    assert "both wrap the network" in refusal(folder, "R2RLoss", "EquivariantSplittingLoss")
    assert "ENSURELoss cannot be computed" in refusal(folder, {"name": "ENSURELoss", "physics_generator": COLUMNS}, **denoising(GAUSSIAN))


def test_a_mask_that_is_no_sampling_mask_is_not_split(folder: Path) -> None:
    """In BlurFFT `physics.mask` holds singular values, and deepinv splits them (METHOD.md trap 10)."""
    blur = {"name": "BlurFFT", "img_size": [1, 16, 16], "filter": {"file": "filter.npy"}}
    assert "holds something else" in refusal(folder, "SplittingLoss", physics=blur)


@pytest.mark.parametrize("name", ["SureGaussianLoss", "R2RLoss", "EILoss", "SplittingLoss"])
def test_noise_follows_the_scale_of_each_sample(name: str, folder: Path) -> None:
    """σ of shape (B,) breaks R2R in deepinv, or scales columns where B is the width (METHOD.md trap 7)."""
    np.save(folder / "images.npy", smooth(20, 16)[:, None] * np.linspace(1, 5, 20, dtype=np.float32)[:, None, None, None])
    made = experiment(folder, name, data={"train": {"images": "images.npy"}, "validation": 0.2, "scale": "per-sample"})
    events = list(fit(made, new_state(made, None, 1), device=CPU, steps=1, every=2))
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step))


def test_a_loss_under_the_group_judges_the_image_of_a_virtual_operator(folder: Path) -> None:
    """Supervised training with Reynolds averaging: under the trivial group it is the plain one, under D4 it is not."""
    values = {}
    for group in ("trivial", "D4"):
        for equivariant in (False, True):
            spec = spec_of(folder, {"name": "SupLoss", "equivariant": equivariant}, transforms={"group": group})
            made = build_experiment(load_spec(spec), CPU)
            y, x, physics, scale = made.reconstruction.batch(made.train, [0, 1], CPU)
            values[group, equivariant] = made.objective(y, physics, 3, x, scale)[0].item()
    assert values["trivial", True] == values["trivial", False] == values["D4", False] != values["D4", True]


@pytest.mark.parametrize(("loss", "calls"), [("EquivariantSplittingLoss", 8), ({"name": "SupLoss", "equivariant": True}, 8), ("SupLoss", 1), ("EILoss", 1)], ids=str)
def test_images_are_averaged_over_the_group_where_training_met_it(folder: Path, loss: object, calls: int) -> None:
    """A network that never met A T_g makes poor images of it; the spec may ask for them all the same."""
    spec = spec_of(folder, loss, transforms="D4")
    assert build_experiment(load_spec(spec), CPU).reconstruction.rule.network_calls == calls
    assert build_experiment(load_spec(spec, ["test.group=full"]), CPU).reconstruction.rule.network_calls == 8


def test_a_loss_with_a_model_of_its_own_cannot_be_put_under_the_group(folder: Path) -> None:
    with pytest.raises(SpecError, match="wraps the network in a model of its own, and judges the image of that one"):
        load_spec(spec_of(folder, {"name": "R2RLoss", "equivariant": True}))
