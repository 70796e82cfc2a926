"""What `es check` says of transforms: a group teaches where the operator sees, of images moved by it, what it does not see of them as they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from deepinv.physics import Blur, Denoising, Inpainting
from deepinv.transform import Rotate
from operators import OPERATORS, made, physics_part, save_arrays
from problems import network, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.diagnostics.algebra import DAMPING, probe_images, spectrum, unseen_part
from es_cli.diagnostics.transforms import (
    groups_that_teach,
    measured_elements,
    newly_seen,
    operator_defect,
    sample_variation,
    transforms_finding,
    tried_elements,
)
from es_cli.experiment import build_experiment
from es_cli.splitting.group import named_group
from es_cli.splitting.transforms import TransformGroup

CPU = torch.device("cpu")
LINE = torch.exp(-(torch.arange(-4, 5).float() ** 2) / 4.5)
GAUSSIAN = (LINE[:, None] * LINE / LINE.sum() ** 2)[None, None]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def dense(operator, shape):
    pixels = torch.eye(int(np.prod(shape))).view(-1, *shape)
    return operator(pixels).flatten(1).T.double()


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "Tomography", "SensingMatrix", "Blur"])
@pytest.mark.parametrize("group", ["D4", "shifts", "rotations"])
def test_defect_and_gain_are_those_of_dense_matrices(name, group, tmp_path):
    physics, shape = made(name, tmp_path).physics, OPERATORS[name][1]
    elements = tried_elements(named_group(group, shape), 4, 0)
    x = probe_images(1, shape, 3)
    matrix, flat = dense(physics.A, shape), x.flatten().double()
    gram = matrix.T @ matrix
    unseen = (DAMPING * torch.linalg.solve(gram / torch.linalg.matrix_norm(gram, 2) + DAMPING * torch.eye(len(flat)), flat)).view(x.shape)
    moves = [dense(element.act, shape) for element in elements]
    defects = [float((move.T @ gram @ move @ flat - gram @ flat).norm() / (gram @ flat).norm()) for move in moves]
    assert operator_defect(physics, elements, x) == pytest.approx(max(defects), rel=1e-3, abs=1e-5)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    gains = [float((matrix @ move @ unseen.flatten()).square().sum() / norm**2 / unseen.square().sum()) for move in moves]
    found = unseen_part(physics, x, spectrum(physics, shape, 30).norm, 60)
    assert newly_seen(physics, elements, found, norm) == pytest.approx(max(gains), rel=0.05, abs=1e-5)


def test_a_gaussian_blur_hides_the_same_from_every_group():
    physics, shape = Blur(GAUSSIAN, padding="circular"), (1, 32, 32)
    x = probe_images(1, shape, 0)
    for name in ("shifts", "D4", "reflections", "C4"):
        assert operator_defect(physics, tried_elements(named_group(name, shape), 8, 0), x) < 1e-5
    norm = spectrum(physics, shape, 20).norm
    assert groups_that_teach(physics, unseen_part(physics, x, norm, 40), norm, 0) == {}


def test_every_group_shows_an_inpainting_more():
    mask = (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    physics = Inpainting((1, 16, 16), mask=mask)
    found = groups_that_teach(physics, unseen_part(physics, probe_images(1, (1, 16, 16), 0), 1.0, 4), 1.0, 0)
    assert set(found) == {"D4", "C4", "reflections", "rotations", "shifts"} and min(found.values()) > 0.15


def test_groups_that_turn_are_not_proposed_for_images_that_are_no_squares():
    mask = (torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    physics = Inpainting((1, 16, 24), mask=mask)
    assert set(groups_that_teach(physics, unseen_part(physics, probe_images(1, (1, 16, 24), 0), 1.0, 4), 1.0, 0)) == {"reflections", "shifts"}


def test_elements_are_exact_orthogonal_or_neither():
    x = probe_images(1, (1, 16, 16), 0)
    for name, limit in {"D4": 0, "shifts": 0, "rotations": 1e-5}.items():
        errors = measured_elements(Denoising(), tried_elements(named_group(name, (1, 16, 16)), 8, 0), x)
        assert max(one.round_trip for one in errors) <= limit and max(one.adjoint for one in errors) <= max(limit, 1e-6)
    turned = measured_elements(None, TransformGroup([Rotate(interpolation_mode="bilinear")], (1, 16, 16)).sample(4, 0), x)
    assert max(one.adjoint for one in turned) > 0.03 and turned[0].defect is None


def test_masks_that_differ_from_sample_to_sample_are_seen_to():
    masks = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert sample_variation(Inpainting((1, 8, 8), mask=masks), (1, 8, 8), 0) > 0.3
    assert sample_variation(Inpainting((1, 8, 8), mask=masks[0]), (1, 8, 8), 0) == 0
    each = Inpainting((1, 8, 8), mask=masks)
    elements = tried_elements(named_group("C4", (1, 8, 8)), 4, 0)
    x = probe_images(3, (1, 8, 8), 0)
    alone = [operator_defect(Inpainting((1, 8, 8), mask=masks[i]), elements, x[i : i + 1]) for i in range(3)]
    assert operator_defect(each, elements, x) == pytest.approx(max(alone))


def finding(tmp_path, physics, quick=False, size=16, channels=1, **changes):
    images = np.repeat(smooth(6, size)[:, None], channels, 1)
    np.save(tmp_path / "x.npy", images)
    changes.setdefault("model", {"name": "ArtifactRemoval", "backbone_net": network(channels)})
    spec = write_spec(tmp_path / "spec.yaml", **{"physics": physics, "data": {"train": {"images": "x.npy"}}, "mask_generator": None} | changes)
    return transforms_finding(build_experiment(load_spec(spec), CPU), quick=quick)


BLURRED = {"name": "Blur", "filter": {"file": "filter.npy"}, "padding": "circular"}


@pytest.mark.parametrize("quick", [True, False])
def test_shifts_teach_nothing_about_a_blur_and_nothing_else_does(quick, tmp_path):
    np.save(tmp_path / "filter.npy", GAUSSIAN.numpy())
    found = finding(tmp_path, BLURRED, quick, size=32, transforms={"group": "shifts"})
    assert found.verdict == "no" and "this group teaches nothing about what A does not see" in found.reason
    assert found.numbers["operator_defect"] < 1e-5 and found.numbers["would_teach"] == {}
    assert "no group that has a name here" in found.advice


def test_what_would_teach_in_place_of_shifts_is_named(tmp_path):
    mask = np.isin(np.arange(16), [0, 2, 7, 8, 9, 13])[None].repeat(16, 0).astype(np.float32)
    np.save(tmp_path / "mask.npy", mask)
    physics = {"name": "MRI", "mask": {"file": "mask.npy"}}
    data = {"train": {"images": {"file": "x.npy", "grey": True}}}
    changes = {"data": data, "model": {"name": "ArtifactRemoval", "backbone_net": network(2)}}
    found = finding(tmp_path, physics, transforms={"group": "shifts"}, **changes)
    assert found.verdict == "no" and "{group: D4}" in found.advice and "rotations" in found.advice and "shifts" not in found.advice
    assert finding(tmp_path, physics, transforms={"group": "D4"}, **changes).verdict == "good"


@pytest.mark.parametrize("quick", [True, False])
def test_d4_on_inpainting_is_good(quick, tmp_path):
    found = finding(tmp_path, {"name": "Inpainting", "mask": 0.3}, quick)
    assert (found.verdict, found.advice, found.numbers["exact"]) == ("good", "", True)
    assert found.numbers["newly_seen"] > 0.1 and found.numbers["unseen"] == pytest.approx(0.7, abs=0.1)
    assert json.loads(json.dumps(found.numbers, allow_nan=False)) == found.numbers


def test_the_edge_that_rotations_bring_back_is_next_to_nothing(tmp_path):
    np.save(tmp_path / "filter.npy", GAUSSIAN.numpy())
    found = finding(tmp_path, BLURRED, size=32, transforms={"group": "rotations"})
    assert found.verdict == "doubtful" and "next to nothing" in found.reason


@pytest.mark.parametrize("group", ["trivial", "D4", "shifts"])
def test_denoising_has_nothing_to_reach(group, tmp_path):
    physics = {"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}
    found = finding(tmp_path, physics, transforms={"group": group})
    assert found.verdict == "good" and "sees all of an image" in found.reason


# losses, and the group at the top level → verdict and what is said
LOSSES = {
    "supervised": (["SupLoss"], "trivial", "good", "ground truth"),
    "splitting alone": (["EquivariantSplittingLoss"], "trivial", "doubtful", "symmetries of the network"),
    "consistency alone": (["MCLoss"], "trivial", "no", "the measurements alone"),
    "equivariant imaging": (["MCLoss", {"name": "EILoss"}], "shifts", "good", "under shifts"),
    "with a transform of its own": (["MCLoss", {"name": "EILoss", "transform": {"name": "Reflect", "dim": [-1]}}], "trivial", "good", "under Reflect"),
    "one that is not orthogonal": (["MCLoss", {"name": "EILoss", "transform": {"name": "Rotate", "interpolation_mode": "bilinear"}}], "trivial", "doubtful", "Rotate is not"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_verdict_follows_what_the_losses_rely_on(name, tmp_path):
    losses, group, verdict, said = LOSSES[name]
    found = finding(tmp_path, {"name": "Inpainting", "mask": 0.3}, losses=losses, transforms={"group": group})
    assert (found.verdict, said in found.reason) == (verdict, True), found
    assert bool(found.advice) == (verdict != "good")


def test_masks_of_each_sample_teach_without_a_group(tmp_path):
    masks = (np.random.default_rng(0).random((6, 1, 16, 16)) < 0.5).astype(np.float32)
    np.save(tmp_path / "masks.npy", masks)
    found = finding(tmp_path, {"name": "Inpainting"}, data={"train": {"images": "x.npy", "params": {"mask": "masks.npy"}}}, losses=["EquivariantSplittingLoss"], transforms={"group": "trivial"})
    assert found.verdict == "good" and "operators of their own" in found.reason


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_an_answer(name, tmp_path):
    save_arrays(tmp_path)
    shape = OPERATORS[name][1]
    np.save(tmp_path / "own.npy", np.random.default_rng(5).random((4, *shape)).astype(np.float32))
    net = {"name": "ArtifactRemoval", "backbone_net": {**network(shape[0]), "dim": len(shape) - 1}}
    found = finding(tmp_path, physics_part(name, tmp_path), quick=True, data={"train": {"images": "own.npy"}}, model=net)
    json.dumps(found.numbers, allow_nan=False)
    # their filters are symmetric under D4, and hide the same from each of its elements
    assert found.verdict == ("no" if name in {"Blur-valid", "Downsampling"} else "good"), found
