"""Groups and transforms of a spec: what they are drawn as in training and at test, and which are refused before training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import network, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.experiment import Experiment, build_experiment
from es_cli.training.events import Step, Validated
from es_cli.training.loop import fit, new_state

CPU = torch.device("cpu")


def experiment(folder: Path, size: int | tuple[int, int], **changes: object) -> Experiment:
    height, width = (size, size) if isinstance(size, int) else size
    np.save(folder / "images.npy", smooth(8, max(height, width))[:, None, :height, :width])
    data = {"train": {"images": "images.npy"}, "validation": 0.25}
    spec = write_spec(folder / "spec.yaml", physics={"name": "Inpainting", "mask": 0.6}, data=data, **changes)
    return build_experiment(load_spec(spec), CPU)


@pytest.mark.parametrize("loss", ["EquivariantSplittingLoss", "EILoss"])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_rotations_train(loss: str, per: str, tmp_path: Path) -> None:
    denoiser = {"name": "DnCNN", "in_channels": 1, "out_channels": 1, "depth": 2, "nf": 4}
    model = {"name": "ArtifactRemoval", "backbone_net": denoiser}
    made = experiment(tmp_path, 15, transforms={"group": "rotations", "per": per}, losses=[loss], model=model, test={"samples": 5, "group": "full"})
    assert [element.parameter for element in made.reconstruction.rule.elements] == [0, 72, 144, 216, 288]
    drawn = made.reconstruction.group.draw(4, seed=0)
    assert len({element.label for element in drawn}) == (4 if per == "sample" else 1)
    events = list(fit(made, new_state(made, None, 1), device=CPU, steps=1, every=1))
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step | Validated))


def test_a_product_of_deepinvs_transforms_trains_and_is_averaged_as_it_says(tmp_path: Path) -> None:
    turns = {"name": "Rotate", "multiples": 90, "positive": True}
    transforms = {"train": [{"name": "Shift"}, turns]}
    made = experiment(tmp_path, 16, transforms=transforms, test={"group": [{**turns, "n_trans": 4}, {"name": "Reflect", "dim": [-1], "n_trans": 2}]})
    assert made.reconstruction.group.orthogonal and made.reconstruction.rule.network_calls == 8
    events = list(fit(made, new_state(made, None, 1), device=CPU, steps=1, every=1))
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step | Validated))


def test_random_elements_at_test_differ_also_where_a_batch_shares_one_in_training(tmp_path: Path) -> None:
    made = experiment(tmp_path, 16, transforms={"group": "shifts", "per": "batch"})
    assert len({element.label for element in made.reconstruction.rule.elements}) > 4


REFUSED = [
    ((15, 13), {"transforms": {"group": "rotations"}}, "crop the images to squares"),
    ((16, 12), {"transforms": {"group": "D4"}}, "group: reflections or shifts, or crop the images to squares"),
    (16, {"transforms": {"train": [{"name": "Rotate", "multiples": 15, "interpolation_mode": "bilinear"}]}}, "transforms.train.0: Rotate is not undone"),
    (16, {"test": {"group": [{"name": "Scale"}]}}, "test.group.0: Scale is not undone"),
    (16, {"transforms": {"train": ["RandomPhaseError"]}}, "RandomPhaseError cannot act on these images"),
    ((16, 12), {"transforms": {"train": [{"name": "Rotate", "multiples": 90}]}}, "crop to squares, or rotate by 180°"),
]


@pytest.mark.parametrize(("size", "changes", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_is_not_undone_is_refused_with_what_would_work(size: int | tuple[int, int], changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        experiment(tmp_path, size, model={"name": "ArtifactRemoval", "backbone_net": network(1)}, **changes)
    assert message in str(caught.value)
