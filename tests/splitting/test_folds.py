"""Complementary splits: each unit of what was measured is left out of exactly one of them."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from operators import made
from problems import inpainting, mri  # noqa: F401 (fixtures)

from es_cli.building.mask_generator import build_splitter, count_folds
from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.experiment import build_experiment
from es_cli.spec.component import as_component
from es_cli.splitting.folds import Folds, Visit
from es_cli.splitting.generators import AngleSplittingMaskGenerator, LineSplittingMaskGenerator
from es_cli.splitting.masks import leave_out, sampling_mask, split_axes
from es_cli.splitting.objective import EquivariantSplitting
from es_cli.training.loop import fit, new_state

CPU = torch.device("cpu")
LINES = {"name": "LineSplittingMaskGenerator", "center_lines": 2}
CASES = [
    ("Inpainting", None), ("Demosaicing", None), ("Denoising", None), ("MRI", None), ("MRI", LINES), ("MRI-3D", None), ("MultiCoilMRI", None),
    ("MultiCoilMRI", LINES), ("DynamicMRI", None), ("CompressedSensing", None), ("CompressedSensing-channels", None), ("SinglePixelCamera", None),
    ("Tomography", None), ("Tomography", {"name": "AngleSplittingMaskGenerator", "pattern": "interleaved"}), ("ComposedLinearPhysics", None),
    ("Demosaicing", {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.8, "pixelwise": False}),
]  # fmt: skip


def partition(splitter, shape, mask, count, seed=3):
    """M₁ of every fold, with another partition for each sample: (count, B, …)."""
    seeds = [seed + i for i in range(shape[0])]
    return torch.stack([leave_out(splitter, shape, mask, Folds(seeds, k, count)) for k in range(count)])


@pytest.mark.parametrize(("name", "part"), CASES)
def test_each_unit_of_what_was_measured_is_left_out_of_exactly_one_fold(name, part, tmp_path):
    operator = made(name, tmp_path)
    splitter, _ = build_splitter(None if part is None else as_component(part), operator, 0, CPU)
    full, shape = sampling_mask(operator.physics), (3, *operator.measurement.shape)
    measured = torch.ones(shape) if full is None else full.expand(shape)
    left = measured - partition(splitter, shape, full, 3)
    assert set(left.unique().tolist()) == {0, 1} and left.flatten(2).any(2).all(), "no fold is empty"
    always = torch.zeros(shape[-1])
    if part is LINES:
        always[7:9] = 1  # the two central ones of 16
    assert torch.equal(left.sum(0), measured * (1 - always))
    whole = split_axes(operator.physics, len(shape), (part or {}).get("pixelwise", True)) if part is not LINES else (len(shape) - 1,)
    for axis in set(range(1, len(shape))) - set(whole):
        assert torch.equal(left.amax(axis + 1, keepdim=True) * measured, left), "what belongs together is left out together"


def test_folds_are_equally_large_and_random():
    generator, shape = BernoulliSplittingMaskGenerator((1, 8, 8), 0.8), (400, 1, 8, 8)
    kept = partition(generator, shape, None, 5)
    assert sorted((64 - kept.flatten(2).sum(2))[:, 0].tolist()) == [12, 13, 13, 13, 13]
    assert (kept[0].mean(0) - 0.8).abs().max() < 0.1, "every pixel is in the first fold equally often"
    assert torch.equal(kept, partition(generator, shape, None, 5)) and not torch.equal(kept, partition(generator, shape, None, 5, seed=4))


def test_interleaved_angles_are_left_out_at_equal_distances_and_each_fold_starts_elsewhere():
    mask = torch.ones(1, 1, 1, 20)
    mask[..., 5:10] = 0
    kept = partition(AngleSplittingMaskGenerator((1, 1, 20), pattern="interleaved"), (6, 1, 1, 20), mask, 3)
    left = (mask - kept).flatten(2)[..., mask.flatten() > 0]
    for fold in left.flatten(0, 1):
        assert torch.diff(torch.nonzero(fold).flatten()).tolist() == [3, 3, 3, 3]
    assert len({tuple(fold.tolist()) for fold in left[0]}) > 1, "partitions of samples begin at angles of their own"


def test_no_fold_is_empty_where_there_are_two_units_and_one_alone_is_given_to_the_network():
    masks = torch.zeros(3, 1, 4, 4)
    masks[0, 0, 1, 1] = masks[1, 0, 0, 0] = masks[1, 0, 3, 3] = masks[2, 0, :3, 0] = 1
    kept = partition(BernoulliSplittingMaskGenerator((1, 4, 4), 0.8), (3, 1, 4, 4), masks, 4).flatten(2).sum(2)
    assert kept.tolist() == [[1, 1, 2]] * 4
    lines = torch.zeros(1, 1, 1, 8)
    lines[..., 3:5] = lines[..., 7] = 1
    beside_the_centre = partition(LineSplittingMaskGenerator((1, 1, 8), center_lines=2), (1, 1, 1, 8), lines, 4)
    assert beside_the_centre.flatten(2).sum(2).tolist() == [[2]] * 4, "the centre is given, and the one other line is predicted"


@pytest.mark.parametrize("part", [
    {"name": "MultiplicativeSplittingMaskGenerator", "split_generator": {"name": "RandomMaskGenerator", "acceleration": 2}},
    {"name": "GaussianSplittingMaskGenerator", "split_ratio": 0.6, "center_block": 2}, {"name": "GaussianMaskGenerator", "acceleration": 2},
], ids=lambda part: part["name"])  # fmt: skip
def test_a_generator_that_draws_each_split_by_itself_is_refused(part, tmp_path):
    operator = made("MRI", tmp_path)
    splitter, _ = build_splitter(as_component(part), operator, 0, CPU)
    with pytest.raises(SpecError, match=f"{part['name']} draws each split by itself"):
        count_folds(splitter, operator, None, "test")


@pytest.mark.parametrize(("part", "count"), [
    ({"split_ratio": 0.9}, 10), ({"split_ratio": 0.8}, 5), ({"split_ratio": 0.6}, 2), ({"split_ratio": 0.1}, 2), ({"split_ratio": 1.0}, 40),
    ({"split_ratio": 0.99}, 40), ({"split_ratio": 0.3, "random_split_ratio": True, "min_split_ratio": 0.5, "max_split_ratio": 1.0}, 4),
], ids=str)  # fmt: skip
def test_the_split_ratio_says_how_many_folds_there_are(part, count, tmp_path):
    operator = made("SensingMatrix", tmp_path)
    splitter, _ = build_splitter(as_component({"name": "BernoulliSplittingMaskGenerator", **part}), operator, 0, CPU)
    assert count_folds(splitter, operator, None, "test") == count
    assert count_folds(splitter, operator, 7, "test") == 7
    with pytest.raises(SpecError, match=r"leave out 40 .*too few for 41 folds.*40 or less"):
        count_folds(splitter, operator, 41, "test")


def trained_masks(spec, monkeypatch, first, last):
    """What each sample was fed in the steps after `first` up to `last`: {(sample, its visit): M₁}."""
    made = build_experiment(spec, CPU)
    state, seen = new_state(made, None, last), {}
    state.progress.step = first
    value = EquivariantSplitting.value

    def recorded(self, batch, mask, elements):
        seen.update({(key, batch.visit.number): own for key, own in zip(batch.visit.keys, mask, strict=True)})
        return value(self, batch, mask, elements)

    monkeypatch.setattr(EquivariantSplitting, "value", recorded)
    list(fit(made, state, last, last, CPU))
    monkeypatch.undo()
    return made, seen


@pytest.mark.parametrize("problem", ["inpainting", "mri"])
def test_in_as_many_visits_as_there_are_folds_each_measured_entry_of_a_sample_is_predicted_once(problem, request, monkeypatch):
    spec = load_spec(request.getfixturevalue(problem), ["training.splits=complementary", "training.folds=3", "training.ema=null"])
    per_epoch = 5 if problem == "inpainting" else 2  # batches of 4: 18 and 7 samples, the last one smaller
    made, seen = trained_masks(spec, monkeypatch, 0, 6 * per_epoch)
    full = sampling_mask(made.operator.physics)[0]
    centre = torch.zeros(16)
    centre[7:9] = problem == "mri"
    for key in made.train.keys(range(len(made.train))):
        turns = [sum(full - seen[key, visit] for visit in range(start, start + 3)) for start in (0, 3)]
        assert all(torch.equal(turn, (full * (1 - centre)).expand_as(turn)) for turn in turns)
        assert any(not torch.equal(seen[key, visit], seen[key, visit + 3]) for visit in range(3)), "another partition for the next visits"
    _, later = trained_masks(spec, monkeypatch, 4 * per_epoch + 1, 6 * per_epoch)
    assert len(later) > 7 and all(torch.equal(mask, seen[at]) for at, mask in later.items()), "whoever goes on from there draws the same"


def test_a_samples_fold_does_not_depend_on_its_batch():
    generator = BernoulliSplittingMaskGenerator((1, 8, 8), 0.8)
    together = leave_out(generator, (3, 1, 8, 8), None, Visit(5, [4, 0, 9], 7).folds(4))
    alone = leave_out(generator, (1, 1, 8, 8), None, Visit(5, [9], 7).folds(4))
    assert torch.equal(together[2:], alone) and not torch.equal(together[0], together[1])


@pytest.mark.parametrize(("changes", "message"), [
    (["training.splits=complementary", "losses=[MCLoss]"], "complementary splits are those of EquivariantSplittingLoss"),
    (["training.splits=alternating"], "must be one of random, complementary"), (["training.folds=3"], "folds only goes with splits: complementary"),
    (["test.folds=3"], "folds only goes with splits: complementary"), (["test.splits=complementary", "test.folds=1"], "test.folds=1: must be at least 2"),
    (["test.splits=some"], "wanted none, a whole number or complementary, got 'some'"), (["test.splits=true"], "got true"),
], ids=str)  # fmt: skip
def test_what_makes_no_sense_is_said_before_training(inpainting, changes, message):  # noqa: F811
    with pytest.raises(SpecError) as refused:
        load_spec(inpainting, changes)
    assert len(refused.value.faults) == 1 and message in str(refused.value)


@pytest.mark.parametrize("section", ["test", "training"])
def test_more_folds_than_lines_are_refused_before_training(mri, section):  # noqa: F811
    with pytest.raises(SpecError, match=f"^{section}.folds: a split can leave out 7 .*too few for 8 folds"):
        build_experiment(load_spec(mri, [f"{section}.splits=complementary", f"{section}.folds=8"]), CPU)
