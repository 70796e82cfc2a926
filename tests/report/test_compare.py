"""Rivals are the same spec but for what makes them another method; they are trained once, equally long, and ranked."""

from __future__ import annotations

import json

import pytest
from problems import es, write_spec

from es_cli.catalog import load_spec
from es_cli.catalog.rivals import RIVALS, read_rivals, rival_overrides
from es_cli.cli.app import app
from es_cli.errors import SpecError, UsageError
from es_cli.report.compare import compare, rival_specs
from es_cli.training.events import Step


def losses(spec):
    return [term.loss.name for term in spec.losses]


def test_each_rival_is_a_spec_of_its_own_method_and_equally_long(inpainting):
    images = ["data.train={measurements: train_y.npy, images: train_y.npy}"]
    specs = rival_specs(inpainting, images, list(RIVALS), 7)
    assert {name: losses(spec) for name, spec in specs.items()} == {
        "es": ["EquivariantSplittingLoss"], "splitting": ["EquivariantSplittingLoss"], "ei": ["MCLoss", "EILoss"], "mc": ["MCLoss"], "supervised": ["SupLoss"],
    }  # fmt: skip
    assert {name: spec.transforms.group for name, spec in specs.items() if spec.transforms.group != "D4"} == dict.fromkeys(["splitting", "mc", "supervised"], "trivial")
    assert {(spec.training.steps, spec.training.epochs, spec.seed) for spec in specs.values()} == {(7, None, 0)}
    assert all(spec.model == specs["es"].model and spec.training.optimizer == specs["es"].training.optimizer for spec in specs.values())
    assert [spec.name for spec in specs.values()] == [f"tiny-{name}" for name in RIVALS]


def test_a_rival_keeps_the_consistency_term_that_knows_the_noise(inpainting):
    noisy = write_spec(
        inpainting.parent / "noisy.yaml",
        physics={"name": "Inpainting", "mask": {"file": "mask.npy"}, "noise_model": {"name": "GaussianNoise", "sigma": 0.05}},
        losses=[{"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "R2RLoss", "alpha": 0.3}}],
        training={"steps": 3, "batch_size": 4, "splits": "complementary", "folds": 3},
    )
    specs = rival_specs(noisy, [], ["ei", "mc"], None)
    assert specs["mc"].losses[0].loss.parameters == {"alpha": 0.3} and losses(specs["ei"]) == ["R2RLoss", "EILoss"]


def test_what_cannot_be_a_rival_is_refused(inpainting):
    spec = load_spec(inpainting)
    with pytest.raises(SpecError, match="supervised training needs images"):
        rival_overrides(spec, "supervised")
    with pytest.raises(SpecError, match="which this spec does not name"):
        rival_overrides(load_spec(inpainting, ["losses=[MCLoss]", "transforms={group: trivial}"]), "es")
    with pytest.raises(UsageError, match="no method is called 'esp'"):
        read_rivals("es,esp")
    with pytest.raises(UsageError, match="no method is named"):
        read_rivals(" , ")
    assert read_rivals("es, ei,es") == ["es", "ei"]


def test_rivals_are_trained_once_and_go_on_where_they_were_stopped(inpainting, tmp_path):
    steps: list[str] = []
    specs = rival_specs(inpainting, [], ["mc", "splitting"], 3)

    class Killed(BaseException):
        pass

    def count(method, event, at=None):
        if isinstance(event, Step):
            steps.append(method)
            if at is not None and len(steps) > at:
                raise Killed

    with pytest.raises(Killed):
        compare(specs, tmp_path / "out", images=1, device="cpu", on_event=lambda method, event: count(method, event, at=4))
    assert steps == ["mc"] * 3 + ["splitting"] * 2
    first = (tmp_path / "out" / "mc" / "model.safetensors").read_bytes()
    made = compare(specs, tmp_path / "out", images=1, device="cpu", on_event=count)
    assert steps[5:] == ["splitting"] * len(steps[5:]) and (tmp_path / "out" / "mc" / "model.safetensors").read_bytes() == first
    scores = {name: run["evaluation"]["metrics"]["PSNR"]["mean"] for name, run in zip(specs, made.report.numbers["runs"], strict=True)}
    assert made.ranking == tuple(sorted(scores, key=scores.get, reverse=True)) and made.by.startswith("PSNR")
    with pytest.raises(UsageError, match="something else lies here"):
        compare(rival_specs(inpainting, [], ["mc"], 4), tmp_path / "out", device="cpu")


def test_without_ground_truth_nothing_is_ranked_by_losses_that_cannot_be_compared(inpainting, tmp_path):
    bare = ["data.test=null"]
    made = compare(rival_specs(inpainting, bare, ["mc", "es"], 1), tmp_path / "out", images=1, device="cpu")
    assert made.ranking == ("mc", "es") and made.by == ""


def test_the_command_ranks_and_writes_a_page(inpainting, monkeypatch, capfd):
    monkeypatch.chdir(inpainting.parent)
    arguments = ["compare", str(inpainting), "--losses", "mc,es", "--steps", "2", "-o", "out", "--images", "1", "--device", "cpu"]
    assert es(arguments) == 0
    out = capfd.readouterr().out.splitlines()
    assert [line.split(".")[0] for line in out[:2]] == ["1", "2"] and out[2] == "out/report.html"
    assert all(RIVALS[line.split()[1]] in line and "PSNR" in line for line in out[:2])
    assert es([*arguments, "--json"]) == 0
    assert {"ranking", "by", "runs"} <= set(json.loads(capfd.readouterr().out))
    assert es(["compare", str(inpainting), "--losses", "supervised"]) == 2 and "needs images" in capfd.readouterr().err


def test_the_help_names_every_rival(capfd):
    with pytest.raises(SystemExit):
        app(["compare", "--help"], prog_name="es")
    told = " ".join(capfd.readouterr().out.split())
    assert all(name in told for name in RIVALS)
