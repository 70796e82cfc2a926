"""Test rules from a spec and from the command line, on one small checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from deepinv.physics import Inpainting
from problems import es, inpainting, train_in  # noqa: F401 (fixture)

from es_cli.catalog import load_spec
from es_cli.checkpoint import read_metadata
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule

COMPLEMENTARY = "splits=complementary,group=random,samples=1"


@pytest.fixture
def run(inpainting):  # noqa: F811
    """The checkpoint of two steps, with splits of 70 % of the pixels and D4."""
    return train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=2"]))


@pytest.mark.parametrize(("rule", "calls"), [(None, 8), ("one", 1), ("paper", 10), ("full", 8), ("splits=2,group=full", 16), ("splits=3", 24), (COMPLEMENTARY, 3), ("splits=complementary,folds=4,group=trivial", 4)])  # fmt: skip
def test_evaluate_takes_a_rule_and_says_what_it_costs(run, rule, calls, capfd):
    options = [] if rule is None else ["--test-rule", rule]
    assert es(["evaluate", "--ckpt", str(run), "--json", "--metric", "PSNR", *options]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["network_calls"] == calls and np.isfinite(found["metrics"]["PSNR"]["mean"])
    assert found["conventions"]["test rule"].startswith("splits=none,group=full" if rule in {None, "full"} else "splits=")


def test_a_rule_on_the_command_line_is_that_of_a_spec(run, inpainting):  # noqa: F811
    y = np.load(inpainting.parent / "test_y.npy")
    own = train_in(inpainting.parent / "own", load_spec(inpainting, ["training.steps=2", "test.splits=complementary", "test.group=random", "test.samples=1"]))
    overridden = Reconstructor.load(run, "cpu", test=read_rule(COMPLEMENTARY)).reconstruct(y)
    assert np.array_equal(overridden, Reconstructor.load(own, "cpu").reconstruct(y))
    assert not np.allclose(overridden, Reconstructor.load(run, "cpu").reconstruct(y), atol=1e-4)
    assert np.array_equal(Reconstructor.load(own, "cpu", test=read_rule("full")).reconstruct(y), Reconstructor.load(run, "cpu").reconstruct(y))
    assert (read_metadata(run).measurement["network_calls"], read_metadata(own).measurement["network_calls"]) == (8, 3)


def test_reconstruct_takes_a_rule_and_info_says_what_the_checkpoints_own_costs(run, inpainting, tmp_path, capfd):  # noqa: F811
    y, out = str(inpainting.parent / "test_y.npy"), tmp_path / "x.npy"
    assert es(["reconstruct", "--ckpt", str(run), y, "-o", str(out), "--test-rule", "one"]) == 0
    said = capfd.readouterr()
    assert said.out == f"{out}\n" and said.err == "note: 1 network call for each image\n"
    assert np.array_equal(np.load(out), Reconstructor.load(run, "cpu", test=read_rule("one")).reconstruct(np.load(y)))
    assert es(["info", str(run)]) == 0
    assert "8 for each image" in capfd.readouterr().out


def test_large_images_are_made_and_compared_a_few_at_a_time(run, inpainting, monkeypatch):  # noqa: F811
    """Equal to what is made at once; the bound holds for the network and for what needs none."""
    y = np.load(inpainting.parent / "test_y.npy")
    whole = Reconstructor.load(run, "cpu").reconstruct(y)
    model, seen, operator = Reconstructor.load(run, "cpu"), [], []
    model.made.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr("es_cli.splitting.averaging.PIXELS_AT_ONCE", 3 * 16 * 16)
    original = Inpainting.A_adjoint
    monkeypatch.setattr(Inpainting, "A_adjoint", lambda self, y, **kwargs: (operator.append(len(y)), original(self, y, **kwargs))[1])
    assert np.allclose(model.reconstruct(y), whole, atol=1e-6)
    assert max(seen) == 3 and sum(seen) == 8 * len(y)
    operator.clear()
    model.baseline(y, "adjoint")
    assert operator == [3, 1]


def test_a_rule_that_the_measurements_do_not_allow_is_exit_2(inpainting, capfd):  # noqa: F811
    spec = load_spec(inpainting, ["training.steps=1", "mask_generator={name: GaussianSplittingMaskGenerator, split_ratio: 0.6, center_block: 2}"])
    model = train_in(inpainting.parent / "run", spec)
    for rule, said in ((COMPLEMENTARY, "GaussianSplittingMaskGenerator draws each split by itself"), ("splits=0", "must be more than 0")):
        capfd.readouterr()
        assert es(["evaluate", "--ckpt", str(model), "--test-rule", rule]) == 2
        found = capfd.readouterr()
        assert found.out == "" and found.err.startswith("error: --test-rule: ") and said in found.err and found.err.count("\n") == 1


def test_a_checkpoint_that_was_trained_without_splits_is_averaged_over_the_default_ones(inpainting):  # noqa: F811
    model = train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1", "losses=[MCLoss]", "mask_generator=null"]))
    loaded = Reconstructor.load(model, "cpu", test=read_rule("splits=complementary"))
    assert loaded.network_calls == 10 and loaded.reconstruct(np.load(inpainting.parent / "test_y.npy")).shape == (4, 1, 16, 16)
