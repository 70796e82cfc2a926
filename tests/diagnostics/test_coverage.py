"""What virtual operators reach, against dense eigen-decompositions: the table of METHOD.md, section 1, at 24 × 24; and the verdicts on it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from deepinv.physics import MRI, Blur, Inpainting
from deepinv.physics.functional.blur import gaussian_blur
from operators import OPERATORS, made, random
from problems import network, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.diagnostics import maps
from es_cli.diagnostics.conditional import including
from es_cli.diagnostics.coverage import PICTURE, coverage_finding
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.quadrature import TOLERANCE, lanczos, rank, residual
from es_cli.diagnostics.reach import Effort, reach, white_images
from es_cli.experiment import build_experiment
from es_cli.splitting.group import IDENTITY, Element, named_group
from es_cli.splitting.tomography import Tomography

CPU = torch.device("cpu")
SIZE = 24
EFFORT = Effort(white=6, pictures=3, elements=13, steps=56, seconds=600.0)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def columns(size: int = SIZE) -> torch.Tensor:
    """A sixth of the columns, with the centre."""
    kept = torch.zeros(size)
    kept[[size // 2 - 1, size // 2, 3, size - 7]] = 1
    return kept


def problem(name: str):
    if name == "inpainting":
        return Inpainting((1, SIZE, SIZE), mask=(random((1, SIZE, SIZE), batch=1)[0] < -0.5244).float()), (1, SIZE, SIZE)
    if name == "mri":
        return MRI(mask=columns().expand(SIZE, SIZE), img_size=(2, SIZE, SIZE)), (2, SIZE, SIZE)
    if name == "ct":
        return Tomography(angles=10, img_width=SIZE, circle=False, normalize=False), (1, SIZE, SIZE)
    return Blur(gaussian_blur(sigma=(1.0, 1.0)), padding="circular"), (1, SIZE, SIZE)


def eigenvalues(normal: ExpectedNormal, shape: tuple[int, ...]) -> torch.Tensor:
    pixels = torch.eye(math.prod(shape)).view(-1, *shape)
    matrix = torch.cat([normal(part).flatten(1) for part in pixels.split(192)]).double()
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


def dense_rank(normal: ExpectedNormal, shape: tuple[int, ...]) -> float:
    found = eigenvalues(normal, shape)
    return float((found > TOLERANCE * found[-1]).double().mean())


# (problem, group, what METHOD.md has for AᵀA and for Q; None where its own rotations interpolate and lose the corners)
TABLE = [
    ("inpainting", "D4", 0.30, 0.91), ("inpainting", "shifts", 0.30, 1.0), ("mri", "shifts", 0.17, 0.17), ("mri", "D4", 0.17, 0.50), ("mri", "rotations", 0.17, None),
    ("ct", "D4", 0.43, 0.43), ("ct", "rotations", 0.43, None), ("blur", "shifts", 0.56, 0.56), ("blur", "D4", 0.56, 0.56),
]  # fmt: skip


@pytest.mark.parametrize(("name", "group", "before", "after"), TABLE)
def test_the_table_of_dense_ranks_is_found_without_matrices(name, group, before, after):
    physics, shape = problem(name)
    elements = named_group(group, shape).representatives(EFFORT.elements, 0)
    alone, together = ExpectedNormal([physics], [IDENTITY], True), ExpectedNormal([physics], elements, True)
    found = reach(alone, together, shape, EFFORT, 0)
    dense = dense_rank(alone, shape), dense_rank(together, shape)
    assert found.alone.value == pytest.approx(dense[0], abs=0.03) and found.alone.low - 0.01 <= dense[0] <= found.alone.high + 0.01
    assert found.rank.value == pytest.approx(dense[1], abs=0.03) and found.rank.low - 0.01 <= dense[1] <= found.rank.high + 0.01
    assert dense[0] == pytest.approx(before, abs=0.05)  # masks of our own drawing
    assert after is None or dense[1] == pytest.approx(after, abs=0.05)
    gained = dense[1] - dense[0] > 0.01
    assert (found.exposure > 0.005) == gained and (found.energy_reached.value > 0.005) == gained


def test_the_energy_that_is_missed_is_that_of_the_dense_matrix():
    physics, shape = problem("blur")
    normal = ExpectedNormal([physics], [IDENTITY], True)
    x = random(shape, batch=3)
    matrix = normal(torch.eye(SIZE**2).view(-1, *shape)).flatten(1).double()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    ridge = TOLERANCE * float(values[-1])
    kept = (x.flatten(1).double() @ vectors) ** 2
    wanted = (kept * (ridge / (values + ridge)) ** 2).sum(1) / kept.sum(1)
    found = [residual(one, ridge) for one in lanczos(normal, x, 60)]
    assert np.allclose(found, wanted, atol=2e-3)


def test_elements_that_are_not_orthogonal_are_transposed():
    physics, shape = problem("inpainting")
    uneven = torch.linspace(0.5, 2, SIZE)
    element = Element(lambda x: uneven * x.roll(3, -1), lambda x: (x / uneven).roll(-3, -1), "uneven")
    x, z = random(shape, batch=2)[:, None]
    normal = ExpectedNormal([physics], [element], False)
    assert float((normal(x) * z).sum()) == pytest.approx(float((x * normal(z)).sum()), rel=1e-4)
    assert float((normal(x) * x).sum()) == pytest.approx(float(physics.A(element.act(x)).square().sum()), rel=1e-4)


def test_time_that_is_up_ends_the_steps_and_widens_the_interval():
    physics, shape = problem("blur")
    normal = ExpectedNormal([physics], [IDENTITY], True)
    white = white_images(4, shape, 0)
    late, all_ = (lanczos(normal, white, 40, until=until) for until in (time.process_time(), math.inf))
    assert len(late[0].whole.nodes) < 10 < len(all_[0].whole.nodes)
    short, long = (rank(measures, math.prod(shape), TOLERANCE) for measures in (late, all_))
    assert short.high - short.low > long.high - long.low
    assert short.low <= long.value <= short.high


def test_only_elements_whose_operator_sees_all_that_was_given_count():
    rng = torch.Generator().manual_seed(3)
    mask = (torch.rand(1, 16, 16, generator=rng) < 0.5).float()
    mask = torch.maximum(mask, mask.flip(-1))  # as it is seen in a mirror
    physics, split = Inpainting((1, 16, 16), mask=mask), Inpainting((1, 16, 16), mask=mask * (torch.rand(1, 16, 16, generator=rng) < 0.8))
    elements = named_group("D4", (1, 16, 16)).representatives(8, 0)
    kept = including(physics, split, elements, True, white_images(1, (1, 16, 16), 0), 1.0)
    wanted = [one.label for one in elements if bool((one.inverse(mask[None]) >= split.mask).all())]
    assert len(wanted) == 2 and sorted(one.label for one in kept) == sorted(wanted)


def test_maps_say_where_an_operator_sees():
    physics, shape = problem("inpainting")
    elements = named_group("D4", shape).representatives(8, 0)
    mask = physics.mask.view(SIZE, SIZE)
    assert maps.domain(physics) == "pixels"
    found = maps.seen(ExpectedNormal([physics], elements, True), "pixels", shape, 2, 0)
    wanted = torch.stack([one.inverse(mask[None, None])[0, 0] for one in elements]).mean(0)
    assert np.allclose(found, wanted, atol=1e-5)
    physics, shape = problem("mri")
    assert maps.domain(physics) == "k-space"
    found = maps.seen(ExpectedNormal([physics], [IDENTITY], True), "k-space", shape, 2, 0)
    assert np.allclose(found, columns().expand(SIZE, SIZE), atol=1e-4)


def test_a_profile_has_its_peaks_where_angles_were_measured():
    physics = Tomography(angles=torch.tensor([0.0, 90.0]), img_width=32, circle=False, normalize=False)
    assert maps.domain(physics) == "angles"
    profile = maps.seen(ExpectedNormal([physics], [IDENTITY], True), "angles", (1, 32, 32), 8, 0)
    assert min(profile[0], profile[90]) > 10 * max(profile[45], profile[135])


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_a_coverage(name, tmp_path):
    physics, shape = made(name, tmp_path).physics, OPERATORS[name][1]
    elements = named_group("reflections", shape).representatives(4, 0)
    found = reach(ExpectedNormal([physics], [IDENTITY], True), ExpectedNormal([physics], elements, True), shape, Effort(2, 2, 5, 16, 60.0), 0)
    assert 0 <= found.rank.low <= found.rank.value <= found.rank.high <= 1
    assert found.alone.low <= found.rank.high + 1e-6 and found.missed.value <= found.missed_alone.value + 0.02
    where = maps.domain(physics)
    assert np.isfinite(maps.seen(ExpectedNormal([physics], elements, True), where, shape, 1, 0)).all()


def finding(spec, quick: bool = True):
    return coverage_finding(build_experiment(load_spec(spec), CPU), quick=quick)


def test_a_group_that_reaches_what_is_not_seen_is_good_and_drawn(inpainting, tmp_path):
    found = finding(inpainting)
    assert found.verdict == "good" and "is reached under D4" in found.reason
    assert found.numbers["rank"]["value"] > found.numbers["rank_alone"]["value"]
    assert 1 <= found.numbers["conditional_elements"] <= 8
    found.pictures[PICTURE](tmp_path / PICTURE)
    assert (tmp_path / PICTURE).stat().st_size > 1000


def test_shifts_of_kspace_gain_nothing_and_the_groups_that_would_are_named(mri):
    shifts = write_spec(mri.parent / "shifts.yaml", physics={"name": "MRI", "mask": "from-data"}, transforms={"group": "shifts"},
                        mask_generator={"name": "LineSplittingMaskGenerator", "center_lines": 2},
                        model={"name": "ArtifactRemoval", "backbone_net": network(2)})  # fmt: skip
    found = finding(shifts)
    assert found.verdict == "no" and "nothing of what the operator does not see" in found.reason
    assert "D4" in found.advice and "shifts" not in found.numbers["would_reach"]
    assert finding(mri).verdict == "good"


def test_masks_of_their_own_reach_together_what_each_leaves_out(inpainting):
    masks = np.random.default_rng(0).random((20, 1, 16, 16)) < 0.5
    np.save(inpainting.parent / "train_y.npy", (smooth(20, 16)[:, None] * masks).astype(np.float32))
    spec = write_spec(inpainting, physics={"name": "Inpainting", "img_size": [1, 16, 16]}, transforms={"group": "trivial"},
                      data={"train": {"measurements": "train_y.npy", "params": {"mask": "from-data"}}})  # fmt: skip
    found = finding(spec)
    assert found.numbers["operators"] == 2 and found.verdict == "good" and "operators of the samples" in found.reason
    assert found.numbers["rank"]["value"] == pytest.approx(0.75, abs=0.06)


def test_an_operator_that_sees_everything_leaves_nothing_to_reach(inpainting):
    spec = write_spec(inpainting, physics={"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}})
    found = finding(spec)
    assert found.verdict == "good" and "nothing to reach" in found.reason and "null_space_reached" not in found.numbers


def test_consistency_alone_reaches_nothing(inpainting):
    found = finding(write_spec(inpainting, losses=["MCLoss"], transforms={"group": "trivial"}))
    assert found.verdict == "no" and "EquivariantSplittingLoss" in found.advice
