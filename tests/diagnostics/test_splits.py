"""What `es check` says of splits: sides that are known beforehand, and inputs at known distances."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from deepinv.physics import MRI, Denoising, Inpainting
from problems import network, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.diagnostics.context import Context, angular_context, context_of, local_context
from es_cli.diagnostics.splits import count_sides, drawing, judge, splits_finding
from es_cli.experiment import build_experiment

CPU = torch.device("cpu")


def experiment_of(spec, **changes):
    return build_experiment(load_spec(write_spec(spec, **changes)), CPU)


def test_positions_and_energy_of_each_side_are_counted():
    y = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    mask = (torch.arange(16) < 12).float().view(1, 1, 4, 4)
    given = (torch.arange(16) < 9).float().view(1, 1, 4, 4).expand(1, 2, 4, 4)
    sides = count_sides(given, mask, y, (2, 3))
    assert (int(sides.given), int(sides.held_out)) == (9, 3)
    energy = y.square().sum(1).flatten()
    assert float(sides.energy) == pytest.approx(float(energy[9:12].sum() / energy[:12].sum()))
    assert sides.empty == 0 and sides.few == 1
    assert count_sides(mask.expand(1, 2, 4, 4), mask, y, (2, 3)).empty == 1
    # entries of channels that are split by themselves are positions of their own
    assert int(count_sides(given, None, y, (1, 2, 3)).given) == 18


def test_distances_to_the_input_are_counted_in_positions():
    given = torch.zeros(1, 1, 3, 12, dtype=torch.bool)
    given[..., 0] = True
    measured = given.clone()
    measured[..., 2] = True
    found = local_context(given, measured)
    assert found.distance_held_out == 2
    assert found.distance_never == pytest.approx(np.mean([1, *range(3, 12)]))
    # column 2 sees column 0, three points of the 25 around each of its own
    assert found.input_near_held_out == pytest.approx(3 / 25)
    assert local_context(measured, measured) is None and local_context(given, torch.ones_like(given)) is None


def test_distances_between_angles_are_counted_around_the_circle():
    angles = torch.arange(0.0, 180.0, 20)
    given = torch.ones(1, 9, dtype=torch.bool)
    given[0, 0] = False
    found = angular_context(given, angles, 180.0)
    assert found.distance_held_out == 20  # from 0 to 160 as well as to 20
    assert found.distance_never == pytest.approx((7 * 5 * 20 + 10 * 40) / 180, rel=0.05)
    assert angular_context(torch.ones(1, 9, dtype=torch.bool), angles, 180.0) is None


def test_coils_and_parts_of_a_number_share_a_point_of_k_space():
    mask = (torch.arange(16) % 4 == 0).float().expand(1, 2, 16, 16)
    given = mask * (torch.arange(16) % 8 == 0)
    context, word = context_of(given, mask, MRI(mask=mask[0, 0], img_size=(2, 16, 16)))
    assert word == "positions" and context.distance_held_out == 4
    assert context_of(torch.ones(1, 1, 4, 4), None, Denoising())[0] is None


def test_splits_of_an_experiment_are_those_of_training(inpainting):
    found = splits_finding(experiment_of(inpainting), quick=True)
    mask = np.load(inpainting.parent / "mask.npy")
    kept = int(0.7 * mask.sum())
    assert found.verdict == "good" and not found.advice
    assert found.numbers["positions_given"] == {"least": kept, "mean": kept, "most": kept}
    assert found.numbers["positions_held_out"]["least"] == mask.sum() - kept
    assert found.numbers["energy_held_out"] == pytest.approx(0.3, abs=0.03)
    assert json.loads(json.dumps(found.numbers)) == found.numbers
    assert splits_finding(experiment_of(inpainting), quick=False).numbers["splits_drawn"] > found.numbers["splits_drawn"]


def test_complementary_folds_take_their_turns(inpainting):
    training = {"steps": 6, "batch_size": 4, "splits": "complementary", "folds": 3}
    experiment = experiment_of(inpainting, training=training)
    _, draw = drawing(experiment)
    y, _, physics, _ = experiment.reconstruction.batch(experiment.train, [0, 1], CPU)
    rest = sum(physics.mask - draw(y, physics, [0, 1], number) for number in range(3))
    assert torch.equal(rest, physics.mask.expand_as(rest))


@pytest.mark.parametrize("loss", ["EquivariantSplittingLoss", "SplittingLoss"])
def test_sides_of_a_few_positions_are_doubtful(loss, inpainting):
    generator = {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.98}
    few = splits_finding(experiment_of(inpainting, losses=[loss], mask_generator=generator), quick=True)
    assert few.verdict == "doubtful" and "left to predict" in few.reason and few.advice.startswith("lower")
    generator["split_ratio"] = 0.02
    few = splits_finding(experiment_of(inpainting, losses=[loss], mask_generator=generator), quick=True)
    assert few.verdict == "doubtful" and "given to the network" in few.reason and few.advice.startswith("raise")


def test_samples_with_a_single_line_leave_a_side_empty(mri):
    lines = np.zeros((8, 1, 16), np.float32)
    lines[:, :, [2, 5, 7, 8, 9, 12]] = 1
    lines[3:, :, :7] = lines[3:, :, 9:] = 0  # nothing but the centre
    masks = np.broadcast_to(lines, (8, 16, 16)).copy()
    np.save(mri.parent / "masks.npy", masks)
    np.save(mri.parent / "train_y.npy", np.random.default_rng(0).normal(size=masks.shape).astype(np.complex64) * masks)
    data = {"train": {"measurements": "train_y.npy", "params": {"mask": "masks.npy"}}, "validation": 0.25}
    generator = {"name": "LineSplittingMaskGenerator", "center_lines": 2}
    model = {"name": "ArtifactRemoval", "backbone_net": network(2)}
    found = splits_finding(experiment_of(mri, physics={"name": "MRI"}, data=data, mask_generator=generator, model=model), quick=True)
    assert found.verdict == "doubtful" and "a side empty" in found.reason and "center_lines" in found.advice
    assert 0 < found.numbers["empty_sides"] < 1 and found.numbers["lines_held_out"]["least"] == 0


def test_lines_are_counted_as_lines(mri):
    found = splits_finding(build_experiment(load_spec(mri), CPU), quick=True)
    # 9 columns, of which the two central ones stay; 0.6 of the other 7 are given
    assert found.verdict == "good" and found.numbers["lines_held_out"] == {"least": 3, "mean": 3.0, "most": 3}


def test_filling_gaps_of_a_pixel_is_another_task_than_filling_a_hole(inpainting):
    mask = np.ones((32, 32), np.float32)
    mask[3:29, 3:29] = 0
    np.save(inpainting.parent / "mask.npy", mask)
    np.save(inpainting.parent / "train_y.npy", smooth(8, 32)[:, None] * mask)
    found = splits_finding(experiment_of(inpainting, data={"train": {"measurements": "train_y.npy"}}), quick=True)
    assert found.verdict == "doubtful" and "an easier task" in found.reason
    assert found.numbers["never_measured_to_input"] > 3 * found.numbers["held_out_to_input"]


def test_predicting_a_hole_from_afar_is_doubtful_and_angles_never_are():
    sides = count_sides(torch.eye(16)[None, None], None, torch.ones(1, 1, 16, 16), (2, 3))
    far = Context(5.0, 1.0, 0.1, 0.1)
    assert judge(sides, far, "positions", False)[0] == "doubtful"
    assert judge(sides, far, "degrees", True)[0] == "good"
    assert judge(sides, Context(1.0, 1.0, 0.1, 0.1), "positions", False)[0] == "good"


def test_losses_that_split_nothing_have_nothing_to_answer(inpainting):
    found = splits_finding(experiment_of(inpainting, losses=["MCLoss"], mask_generator=None), quick=True)
    assert found.verdict == "good" and not found.numbers


def test_a_mask_of_everything_has_no_never_measured_sites():
    y = torch.ones(1, 1, 8, 8)
    context, word = context_of(y, y, Inpainting((1, 8, 8), mask=y[0]))
    assert context is None and word == "every position is measured"
