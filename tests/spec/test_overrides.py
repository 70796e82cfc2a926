from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from es_cli.spec.document import read_document, to_dict

TEXT = """\
physics: {name: Inpainting, img_size: [3, 64, 64]}
data: {train: {images: photos}}
model: UNet
losses:
  - {name: EquivariantSplittingLoss, eval_n_samples: 5}
training: {epochs: 10}
"""


def resolved(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT, encoding="utf-8")
    document = read_document(path, overrides)
    assert document.faults == ()
    assert document.spec is not None
    return to_dict(document.spec)


def faults(tmp_path: Path, *overrides: str) -> list[str]:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return [str(fault) for fault in read_document(path, overrides).faults]


def test_values_are_yaml(tmp_path: Path) -> None:
    spec = resolved(tmp_path, "training.optimizer={name: SGD, lr: 1e-2}", "name=no", "training.ema=0.9", "training.gradient_clip=")
    assert spec["training"]["optimizer"] == {"name": "SGD", "lr": 0.01}
    assert (spec["name"], spec["training"]["ema"], spec["training"]["gradient_clip"]) == ("no", 0.9, None)


def test_lists(tmp_path: Path) -> None:
    spec = resolved(tmp_path, "losses.0.eval_n_samples=3", "losses.1.name=MCLoss", "physics.img_size.0=1")
    assert spec["test"]["splits"] == 3
    assert [loss["name"] for loss in spec["losses"]] == ["EquivariantSplittingLoss", "MCLoss"]
    assert spec["physics"]["img_size"] == [1, 64, 64]


def test_bare_names_and_files_can_be_reached_into(tmp_path: Path) -> None:
    spec = resolved(tmp_path, "model.scales=3", "data.train.images.crop=32")
    assert spec["model"] == {"name": "UNet", "scales": 3}
    assert spec["data"]["train"]["images"]["file"] == str(tmp_path / "photos")
    assert spec["data"]["train"]["images"]["crop"] == 32


def test_parts_that_are_left_out_can_be_reached_into(tmp_path: Path) -> None:
    assert resolved(tmp_path, "training.optimizer.lr=1e-3")["training"]["optimizer"] == {"name": "AdamW", "lr": 1e-3, "weight_decay": 1e-8}


def test_steps_take_the_place_of_epochs(tmp_path: Path) -> None:
    training = resolved(tmp_path, "training.steps=2")["training"]
    assert (training["steps"], training["epochs"]) == (2, None)


def test_both_by_override_are_an_error(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "training.steps=2", "training.epochs=3")
    assert "epochs and steps exclude each other" in fault


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert resolved(tmp_path, "seed=1", "seed=2")["seed"] == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.patience=x",
            "override training.patience=x: wanted a whole number, got 'x'; validations without a better one before training stops",
        ),
        ("training=x", "override training=x: wanted a section of 'key: value' lines, got 'x'"),
        ("training.patince=3", "override training.patince=3: unknown key; did you mean patience?"),
        ("seed", "override seed: an override is written a.b.c=value; such as training.steps=2000"),
        ("a..b=1", "override a..b=1: an override is written a.b.c=value"),
        ("losses.7.weight=1", "override losses.7.weight=1: losses is a list of 1; use losses.0 to losses.1"),
        ("losses.x=1", "override losses.x=1: losses is a list of 1"),
        ("training.epochs.a=1", "override training.epochs.a=1: training.epochs is 10, which has no a; override the whole of it"),
        ("model=[1", "override model=[1: a '[' is not closed"),
        ("model=!!python/none x", "override model=!!python/none x: the tag !!python/none is not allowed"),
        ("model={name: 3}", "override model={name: 3}: model.name: wanted the name of a class, got 3"),
    ],
)
def test_faults_point_to_the_override(tmp_path: Path, override: str, message: str) -> None:
    found = faults(tmp_path, override)
    assert len(found) == 1
    assert found[0].startswith(message)
