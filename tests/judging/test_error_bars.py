"""Error bars: the spread of the passes, and the factor that held-out measurements give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint, save_checkpoint
from es_cli.errors import CheckpointError, UsageError
from es_cli.examine import FROM_INPUT, FROM_TRAINING, NOT_CALIBRATED, examine
from es_cli.judging.calibration import calibrate, coverage
from es_cli.judging.held_out import HeldOut, held_back, predict, splits_for_judging
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule


def made_up(factor, noise=0.0, count=4, entries=4000):
    """Held-out errors whose size is `factor` times the spread of the passes, and noise of that standard deviation on top."""
    rng = torch.Generator().manual_seed(0)
    spread = torch.rand(count, entries, generator=rng) + 0.1
    rest = (torch.rand(count, entries, generator=rng) < 0.5).float()
    normal = torch.randn(2, count, entries, generator=rng)
    error = factor * spread * normal[0] + noise * normal[1]
    return HeldOut(rest, torch.ones(count, entries), rest * error, rest * spread**2, rest * noise**2)


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_the_factor_is_that_of_error_over_spread_without_the_noise_of_the_measurement(noise):
    found = calibrate([made_up(3.0, noise), made_up(3.0, noise)])
    assert found.factor == pytest.approx(3.0, rel=0.03)
    assert found.coverage == pytest.approx((0.683, 0.954), abs=0.01)
    assert found.entries == 2 * int(made_up(3.0).rest.sum())


def test_error_bars_that_are_too_small_cover_too_little():
    one, two = coverage([made_up(3.0)], 1.0)
    assert one == pytest.approx(0.261, abs=0.02) and two == pytest.approx(0.495, abs=0.02)


def test_each_sample_counts_as_much_however_bright_it_is():
    held = made_up(2.0)
    scale = torch.tensor([1.0, 10, 100, 1000])[:, None]
    brighter = HeldOut(held.rest, scale * held.y, scale * held.error, scale**2 * held.spread, scale**2 * held.noise)
    assert calibrate([brighter]).factor == pytest.approx(calibrate([held]).factor, rel=1e-4)


def test_nothing_is_calibrated_without_spread_or_without_knowing_the_noise():
    held = made_up(2.0)
    assert calibrate([replace(held, spread=0 * held.spread)]) is None
    assert calibrate([replace(held, noise=None)]) is None


@pytest.fixture
def run(inpainting):
    """(the checkpoint of a short run, its folder, its test measurements)."""
    return train_in(inpainting.parent / "run", load_spec(inpainting)), np.load(inpainting.parent / "test_y.npy")


def test_a_run_keeps_the_factor_for_its_rule_and_another_rule_asks_the_input(run):
    path, y = run
    model = Reconstructor.load(path)
    kept = model.metadata.validation["error_bar"]
    found = examine(model, y, error_bar=True)
    assert found.error_bar.source == FROM_TRAINING and found.error_bar.calibration.to_dict() == {k: v for k, v in kept.items() if k != "rule"}
    assert np.array_equal(found.image, model.reconstruct(y)), "the image is the same as without an error bar"
    assert found.error_bar.values.shape == found.image.shape and found.error_bar.values.dtype == np.float32
    other = examine(Reconstructor.load(path, test=read_rule("splits=3,group=full")), y[0], error_bar=True)
    assert other.error_bar.source == FROM_INPUT and other.error_bar.values.shape == other.image.shape == (1, 16, 16)
    with pytest.raises(UsageError, match="no spread"):
        examine(Reconstructor.load(path, test=read_rule("one")), y, error_bar=True)


def test_the_error_bar_costs_no_network_call(run):
    path, y = run
    model = Reconstructor.load(path)
    seen = []
    model.made.network.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    examine(model, y, error_bar=True)
    assert sum(seen) == model.network_calls * len(y)


def test_what_is_held_back_is_not_seen(run):
    path, y = run
    model = Reconstructor.load(path)
    splitter = splits_for_judging(model.spec, model.made, model.device)
    measured = torch.from_numpy(y)
    kept = held_back(splitter, tuple(measured.shape), model.made.operator.physics.mask, range(len(y)))
    first = predict(model.made, splitter, measured, {}, range(len(y)))
    second = predict(model.made, splitter, kept * measured + first.rest * 7, {}, range(len(y)))
    assert torch.equal(first.rest + kept, model.made.operator.physics.mask.expand_as(kept)) and first.rest.flatten(1).any(1).all()
    predicted = [held.error + held.rest * held.y for held in (first, second)]
    assert torch.allclose(*predicted, atol=1e-5) and torch.allclose(first.spread, second.spread, atol=1e-5)
    assert not torch.allclose(first.error, second.error, atol=1e-2)


def test_a_network_that_met_no_splits_gets_no_factor(inpainting):
    spec = load_spec(inpainting, ["losses=[MCLoss]", "mask_generator=null"])
    path = train_in(inpainting.parent / "run", spec)
    model = Reconstructor.load(path, test=read_rule("full"))
    found = examine(model, np.load(inpainting.parent / "test_y.npy"), error_bar=True)
    assert "error_bar" not in model.metadata.validation and found.error_bar.source == NOT_CALIBRATED
    assert "not calibrated" in found.error_bar.in_words


def test_the_error_bar_of_a_complex_image_is_real(mri):
    model = Reconstructor.load(train_in(mri.parent / "run", load_spec(mri, ["test.splits=3"])))
    y = np.load(mri.parent / "test_y.npy")
    found = examine(model, y, error_bar=True)
    pairs = examine(model, np.stack([y.real, y.imag], 1), error_bar=True)
    assert np.iscomplexobj(found.image) and found.error_bar.values.dtype == np.float32 and found.error_bar.values.shape == found.image.shape
    assert pairs.error_bar.values.shape == pairs.image.shape == (4, 2, 16, 16)
    assert np.allclose(found.error_bar.values, np.hypot(pairs.error_bar.values[:, 0], pairs.error_bar.values[:, 1]), rtol=1e-4, atol=1e-6)


def test_a_factor_that_is_none_is_a_fault_of_the_checkpoint(run):
    path, y = run
    checkpoint = load_checkpoint(path)
    wrong = {**checkpoint.metadata.validation, "error_bar": {**checkpoint.metadata.validation["error_bar"], "factor": "large"}}
    save_checkpoint(path, replace(checkpoint.metadata, validation=wrong), checkpoint.tensors)
    with pytest.raises(CheckpointError, match="error bars cannot be read"):
        examine(Reconstructor.load(path), y, error_bar=True)
