from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from problems import es, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from es_cli.inspecting.typical import numbers_of, residuals, spans
from es_cli.reconstruct import Reconstructor
from es_cli.serving.guard import Guard


@pytest.fixture
def model(inpainting: Path, monkeypatch) -> Path:
    monkeypatch.chdir(inpainting.parent)
    return train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"]))


def run(model: Path, *arguments: str) -> int:
    return es(["reconstruct", "--ckpt", str(model), *arguments])


def with_typical(model: Path, typical: object) -> Path:
    """The same checkpoint with other numbers in it, None: with none, as older ones."""
    held = load_checkpoint(model)
    measurement = {name: value for name, value in held.metadata.measurement.items() if name != "typical"}
    changed = measurement if typical is None else {**measurement, "typical": typical}
    save_checkpoint(Path("changed.safetensors"), replace(held.metadata, measurement=changed), held.tensors)
    return Path("changed.safetensors")


def test_the_checkpoint_says_what_training_measured(model):
    typical = read_metadata(model).measurement["typical"]
    y = np.load("train_y.npy")
    share = float(f"{np.load('mask.npy').mean():.4g}")
    assert typical["measured"] == [share, share, share]
    assert typical["highest"][2] == pytest.approx(y.max(), rel=1e-3) and typical["lowest"][0] == pytest.approx(y[y > 0].min(), rel=1e-3)
    assert len(typical["residual"]) == 3 and typical["residual"][0] > 0
    assert load_checkpoint(model).metadata.measurement["typical"] == typical


def test_measurements_like_those_of_training_are_not_remarked_on(model, capfd):
    assert run(model, "test_y.npy", "-o", "x.npy", "--strict") == 0
    assert "unlike" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, mask: 100 * y, "99 % of it is below"),
        (lambda y, mask: smooth(4, 16)[:, None], "the share measured is 1, and in training it was"),
        (lambda y, mask: y * (np.arange(16) % 2), "the share measured is"),
        (lambda y, mask: y + 0.3 * mask * np.random.default_rng(0).normal(size=y.shape), "its noise"),
        (lambda y, mask: y - 3 * mask, "its least value is"),
    ],
    ids=["scale", "everything measured", "less measured", "noise", "range"],
)
def test_what_is_unlike_training_is_said_with_numbers_and_refused_if_strict(model, capfd, change, words):
    np.save("odd.npy", change(np.load("test_y.npy"), np.load("mask.npy")).astype(np.float32))
    assert run(model, "odd.npy", "-o", "x.npy") == 0
    said = capfd.readouterr().err
    assert "note: odd.npy is unlike the measurements of training" in said and words in said
    assert run(model, "odd.npy", "-o", "strict.npy", "--strict") == 3
    assert words in capfd.readouterr().err and not Path("strict.npy").exists()
    assert run(model, "odd.npy", "-o", "quiet.npy", "-q") == 0 and "unlike" not in capfd.readouterr().err


def test_an_image_that_does_not_explain_its_measurements(model, capfd):
    typical = read_metadata(model).measurement["typical"]
    changed = with_typical(model, {**typical, "residual": [1e-6, 1e-6, 1e-6]})
    assert run(changed, "test_y.npy", "-o", "x.npy") == 0
    assert "the image leaves of it, unexplained," in capfd.readouterr().err
    assert run(changed, "test_y.npy", "-o", "y.npy", "--strict") == 3


def test_older_checkpoints_say_nothing(model, capfd):
    np.save("odd.npy", 100 * np.load("test_y.npy"))
    assert run(with_typical(model, None), "odd.npy", "-o", "x.npy", "--strict") == 0
    assert "unlike" not in capfd.readouterr().err


@pytest.mark.parametrize("typical", [[], {"scale": 3}, {"scale": [1, 2]}, {"scale": [1, "2", 3]}, {"scale": [1, True, 2]}])
def test_numbers_that_are_none_are_no_checkpoint(model, capfd, typical):
    assert run(with_typical(model, typical), "test_y.npy", "-o", "x.npy") == 4
    assert "typical" in capfd.readouterr().err


def test_what_is_scaled_by_itself_has_no_scale(inpainting, monkeypatch):
    write_spec(inpainting, data={"train": {"measurements": "train_y.npy"}, "scale": "per-sample"})
    model = Reconstructor.load(train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"])), "cpu")
    y = np.load(inpainting.parent / "test_y.npy")
    assert Guard.of(model).measured(100 * y) == []
    assert Guard.of(model).explained(model, y, model.images(y), {}) == []


def test_a_large_image_is_looked_at_in_its_middle(model, capfd):
    np.save("large.npy", 100 * smooth(1, 48)[0])
    assert run(model, "large.npy", "-o", "x.npy", "--param", "mask=from-data") == 0
    assert "large.npy is unlike" in capfd.readouterr().err
    assert run(model, "large.npy", "-o", "y.npy", "--param", "mask=from-data", "--strict") == 3


def test_kspace_is_compared_by_its_size(mri, monkeypatch, capfd):
    monkeypatch.chdir(mri.parent)
    model = train_in(mri.parent / "run", load_spec(mri, ["training.steps=1"]))
    typical = read_metadata(model).measurement["typical"]
    assert "lowest" not in typical and typical["highest"][2] == pytest.approx(np.abs(np.load("train_y.npy")).max(), rel=1e-3)
    np.save("odd.npy", 50 * np.load("test_y.npy"))
    assert run(model, "test_y.npy", "-o", "x.npy", "--strict") == 0 and run(model, "odd.npy", "-o", "y.npy", "--strict") == 3


def test_numbers_of_measurements():
    y = np.zeros((1, 20, 20), np.float32)
    assert numbers_of(y, False) == {"measured": 0.0}
    y[0, :10] = np.random.default_rng(0).normal(5, 0.1, (10, 20))
    found = numbers_of(y, False)
    assert found["measured"] == 0.5 and found["lowest"] < 5 < found["highest"] and 0.01 < found["noise"] < 0.03
    assert set(numbers_of(np.ones(30, np.float32), False)) == {"measured", "scale", "lowest", "highest"}
    assert spans([{"a": 1.0}, {"a": 3.0, "b": float("nan")}, {"a": 2.00004}]) == {"a": [1.0, 2.0, 3.0]}
    assert residuals(np.array([[1.0, 1.0], [0, 0]]), np.array([[1.0, 0.0], [0, 0]])) == [1.0]
