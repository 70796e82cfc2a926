"""What `es train` looks at first: it is said, it takes little time, and it changes nothing of the training."""

from __future__ import annotations

import io
import json
import re
import time

import numpy as np
import pytest
import torch
from problems import es, write_spec

from es_cli.catalog import load_spec
from es_cli.cli.train import _look_first
from es_cli.cli.training_display import TrainingDisplay
from es_cli.diagnostics import check
from es_cli.diagnostics.check import FIRST, SECTIONS, first_look
from es_cli.diagnostics.finding import Finding
from es_cli.experiment import build_experiment

UNSURE = {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "SureGaussianLoss", "unsure": True, "sigma": 0.05}}


@pytest.fixture
def experiment(inpainting):
    return build_experiment(load_spec(inpainting), torch.device("cpu"))


@pytest.fixture
def hopeless(inpainting):
    """Whole columns were measured, and flips up and down leave them where they are."""
    columns = np.broadcast_to((np.arange(16) % 2).astype(np.float32), (1, 16, 16))
    np.save(inpainting.parent / "mask.npy", columns)
    np.save(inpainting.parent / "train_y.npy", np.random.default_rng(0).random((20, 1, 16, 16)).astype(np.float32) * columns)
    return write_spec(inpainting, transforms={"train": [{"name": "Reflect", "dim": [-2]}]}, data={"train": {"measurements": "train_y.npy"}})


def losses_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name and "memory" not in name} for row in rows]


@pytest.fixture
def tomography(inpainting):
    data = {"train": {"images": "test_x.npy"}, "validation": 0.25}
    physics, generator = {"name": "Tomography", "angles": 8, "normalize": True}, {"name": "AngleSplittingMaskGenerator"}
    return write_spec(inpainting, physics=physics, data=data, mask_generator=generator, transforms={"group": "rotations"})


@pytest.mark.parametrize("problem", ["inpainting", "mri", "tomography"])
def test_training_is_the_same_to_the_last_bit_with_and_without_a_look(problem, request, capsys):
    spec = request.getfixturevalue(problem)
    if problem == "inpainting":
        spec = write_spec(spec, losses=[UNSURE, "MCLoss"])
    folder = spec.parent
    assert es(["train", str(spec), "-o", str(folder / "looked")]) == 0
    assert "check:" in capsys.readouterr().err
    assert es(["train", str(spec), "-o", str(folder / "blind"), "--no-check"]) == 0
    assert "check:" not in capsys.readouterr().err
    assert (folder / "looked" / "model.safetensors").read_bytes() == (folder / "blind" / "model.safetensors").read_bytes()
    assert losses_of(folder / "looked") == losses_of(folder / "blind") != []


def test_what_cannot_be_learned_is_said_loudly_and_trained_all_the_same(hopeless, capsys):
    assert es(["train", str(hopeless), "-o", str(hopeless.parent / "run")]) == 0
    told = capsys.readouterr().err
    assert re.search(r"^no +transforms: ", told, re.MULTILINE) and "shifts" in told
    assert "warning: this cannot be learned as it stands" in told and re.search("^check: .*operator", told, re.MULTILINE)
    assert es(["train", str(hopeless), "-o", str(hopeless.parent / "quiet"), "-q"]) == 0
    assert "this cannot be learned" in capsys.readouterr().err


def test_what_is_doubtful_is_said_with_advice(inpainting, capsys):
    spec = write_spec(inpainting, mask_generator={"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.98})
    assert es(["train", str(spec), "-o", str(spec.parent / "run")]) == 0
    told = capsys.readouterr().err
    assert re.search(r"^doubtful +splits: .*\n +→ lower mask_generator.split_ratio$", told, re.MULTILINE)
    assert es(["train", str(spec), "-o", str(spec.parent / "quiet"), "-q"]) == 0
    assert not capsys.readouterr().err


def test_a_terminal_sees_verdicts_in_colour(inpainting, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    spec = write_spec(inpainting, mask_generator={"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.98})
    _look_first(build_experiment(load_spec(spec), torch.device("cpu")), TrainingDisplay())
    assert "\x1b[33m" in terminal.getvalue() and "\\x1b" not in terminal.getvalue()


def test_a_resumed_run_is_not_looked_at(inpainting, capsys):
    run = inpainting.parent / "run"
    assert es(["train", str(inpainting), "-o", str(run)]) == 0
    capsys.readouterr()
    assert es(["train", "--resume", str(run), "training.steps=8"]) == 0
    assert "check:" not in capsys.readouterr().err


def test_the_look_makes_no_step_and_is_that_of_the_quick_check(experiment):
    look = first_look(experiment)
    assert [finding.section for finding in look.findings] == list(FIRST) and not look.left_out
    assert "cost" in SECTIONS and "cost" not in FIRST
    for finding in look.findings:
        assert (finding.verdict, finding.reason) == (lambda one: (one.verdict, one.reason))(SECTIONS[finding.section](experiment, quick=True))


def test_sections_that_would_take_long_are_left_out(experiment, monkeypatch):
    assert first_look(experiment, seconds=0.0).left_out == list(FIRST)
    physics = experiment.operator.physics
    measure = physics.A
    monkeypatch.setattr(physics, "A", lambda x, **options: (time.sleep(0.1), measure(x, **options))[1])
    look = first_look(experiment)
    assert look.left_out == ["operator", "transforms", "coverage"] and [finding.section for finding in look.findings] == ["splits", "noise"]
    assert look.seconds < 5


def test_a_section_that_fails_ends_no_training(experiment, monkeypatch):
    def failing(experiment, *, quick):
        raise RuntimeError("an odd operator")

    monkeypatch.setitem(check.SECTIONS, "transforms", failing)
    odd = [finding for finding in first_look(experiment).findings if finding.section == "transforms"]
    assert odd == [Finding("transforms", "doubtful", "this could not be measured: an odd operator", "es check -v says where")]
