"""Every spec in examples/configs: it is valid, a small one trains, and a large one is built and computes its losses."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from problems import smooth, train_in
from torch._subclasses.fake_tensor import FakeTensorMode

from es_cli.building.forward_operator import build_operator
from es_cli.building.parts import Builder
from es_cli.catalog import load_spec
from es_cli.data.stacks import ArrayStack
from es_cli.experiment import build_experiment

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SMALL = [name for name in NAMES if name.endswith("-small")]
LARGE = [name for name in NAMES if f"{name}-small" in SMALL]
REST = [name for name in NAMES if name not in {*SMALL, *LARGE}]
METHODS = {"es", "es-equivariant", "ei", "ei-equivariant", "splitting", "supervised", "supervised-equivariant"}
TASKS = {"inpainting": METHODS, "cs": METHODS, "ct": METHODS, "mri6": {*METHODS, "sure", "sure-equivariant"}, "mri8": {*METHODS, "sure", "sure-equivariant"}}
QUICK = ["training.steps=2", "training.epochs=null", "training.batch_size=2", "training.validate_every=2", "training.preview=false"]
# images and measurements of each benchmark task: smaller than they are where the spec does not say how wide, with enough of every sixth column to be split
SHAPES = {"inpainting64": ((3, 16, 16), (3, 16, 16)), "mri64": ((2, 48, 48), (2, 48, 48)), "cs28": ((1, 28, 28), (1, 235)), "ct65": ((1, 33, 33), None)}
# images of the experiments as large as their spec has them, and as small as they can be measured
IMAGES = {"inpainting": (3, 128, 16), "cs": (1, 28, 28), "ct": (1, 255, 17), "mri6": (2, 320, 32), "mri8": (2, 320, 32)}
IMAGES |= {"demosaicing": (3, 128, 16), "denoising": (3, 128, 16), "multicoil-mri": (2, 256, 32)}


def text(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def task_of(name: str) -> str:
    return next((task for task in TASKS if name.startswith(f"{task}-")), name)


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Every value of a document by its path."""
    if not isinstance(node, dict):
        return {path: node}
    return {at: value for key, inner in node.items() for at, value in leaves(inner, f"{path}.{key}" if path else key).items()}


def test_every_experiment_of_the_paper_has_a_spec_and_each_a_small_twin() -> None:
    experiments = {f"{task}-{method}" for task, methods in TASKS.items() for method in methods}
    assert set(LARGE) == experiments | {"multicoil-mri", "demosaicing", "denoising"}
    assert sorted(f"{name}-small" for name in LARGE) == SMALL
    assert set(REST) == {"quickstart", "own-measurements", "photos", "inpainting64", "mri64", "cs28", "ct65"}


@pytest.mark.parametrize("name", NAMES)
def test_spec_is_valid_and_says_in_two_lines_what_it_is(name: str) -> None:
    spec = load_spec(CONFIGS / f"{name}.yaml")
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith(".")
    assert spec.name == (name if name != "own-measurements" else "own")


@pytest.mark.parametrize("name", [name for name in (*LARGE, *SMALL) if task_of(name.removesuffix("-small")) in TASKS])
def test_a_rival_is_the_same_experiment_but_for_its_method(name: str) -> None:
    """What differs from equivariant splitting: losses, splits, group, rule at test, network, and for the paper's how long and fast."""
    end = "-small" if name.endswith("-small") else ""
    one, other = leaves(text(name)), leaves(text(f"{task_of(name.removesuffix('-small'))}-es{end}"))
    differs = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)} - {"name"}
    model = {path for path in differs if path.startswith("model.")}
    lengths = set() if end else {"training.epochs", "training.scheduler.step_size", "training.optimizer.lr"}
    method = {path for path in differs - model - lengths if path.split(".")[0] in {"losses", "mask_generator", "transforms", "test"} or path == "training.splits"}
    assert differs == method | model | (differs & lengths) and len({path.split(".")[0] for path in method} - {"training"}) <= 4
    assert bool(model) == ("-equivariant" in name)


def pointed_at(document: dict[str, Any], folder: Path) -> list[str]:
    """Overrides that put arrays, faked to the shape of the task's, in place of those that a spec names under tasks/."""
    overrides = []
    for path, value in leaves(document).items():
        if not str(value).startswith("tasks/"):
            continue
        task, file = str(value).split("/")[1:]
        np.save(folder / file, faked(task, file, 1 if file.startswith("val") else 2))
        overrides.append(f"{path}={folder / file}")
    return overrides


def faked(task: str, file: str, count: int) -> np.ndarray:
    image, measured = SHAPES[task]
    rng = np.random.default_rng(0)
    width = image[-1]
    columns = (np.arange(width) % 4 == 0) | (abs(np.arange(width) - width / 2) < 4)
    lines = np.broadcast_to(columns, (width, width)).astype(np.float32)
    if file in {"mask.npy", "matrix.npy", "angles.npy"}:
        return {"mask.npy": lines, "matrix.npy": rng.normal(size=(235, 784)).astype(np.float32) / 15, "angles.npy": np.arange(0, 180, 7.2, np.float32)}[file]
    if file.endswith("_x.npy"):
        return np.repeat(smooth(count, width)[:, None], image[0], 1)
    assert measured is not None
    return rng.random((count, *measured), np.float32) * (lines if measured[-1] == width else 1)


@pytest.mark.parametrize("name", [*SMALL, "inpainting64", "mri64", "cs28", "ct65"])
def test_small_spec_trains_two_steps(name: str, tmp_path: Path) -> None:
    document = text(name)
    overrides = [*QUICK, *narrowed(document), *pointed_at(document, tmp_path), "data.test=null"]
    assert train_in(tmp_path / "run", load_spec(CONFIGS / f"{name}.yaml", overrides)).is_file()


def test_specs_for_own_arrays_photographs_and_the_sample_train_two_steps(tmp_path: Path) -> None:
    from PIL import Image

    mask = np.arange(32) % 2 == 0
    np.save(tmp_path / "y.npy", smooth(10, 32)[:, None] * mask.astype(np.float32))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray((255 * smooth(1, 80)[0]).astype(np.uint8)).convert("RGB").save(pictures / f"{name}.png")
    overrides = {
        "own-measurements": [f"data.train.measurements={tmp_path / 'y.npy'}"],
        "photos": [f"data.train.images.file={pictures}", f"data.test.images.file={pictures}"],
        "quickstart": ["data.train.images.crops_per_image=9", "data.test.images.crops_per_image=2"],
    }
    for name, changes in overrides.items():
        assert train_in(tmp_path / f"run-{name}", load_spec(CONFIGS / f"{name}.yaml", [*QUICK, *changes])).is_file()


def narrowed(document: dict[str, Any]) -> list[str]:
    """Overrides that make a network narrow and leave it as deep as it is."""
    inner = next(key for key in ("backbone_net", "denoiser") if key in document["model"])
    net = document["model"][inner]
    width = {"channels": 8} if "channels" in net else {"channels_per_scale": [8] * len(net["channels_per_scale"])}
    return [f"model.{inner}.{key}={value}" for key, value in width.items()]


def shrunk(name: str, folder: Path) -> list[str]:
    """Overrides that give a large spec as few and as small images as it can do with, three of them."""
    channels, _, size = IMAGES[task_of(name)]
    if name == "multicoil-mri":
        rng = np.random.default_rng(0)
        maps = rng.normal(size=(3, 4, size, size)) + 1j * rng.normal(size=(3, 4, size, size))
        columns = (np.arange(size) % 2 == 0) | (abs(np.arange(size) - size / 2) < 10)
        np.save(folder / "maps.npy", maps.astype(np.complex64))
        np.save(folder / "y.npy", (maps * columns).astype(np.complex64))
        return [f"data.train.measurements={folder / 'y.npy'}", f"data.train.params.coil_maps={folder / 'maps.npy'}"]
    np.save(folder / "x.npy", np.repeat(smooth(3, size)[:, None], channels, 1))
    return [f"data.train.images={folder / 'x.npy'}", "data.test=null"]


@pytest.mark.parametrize("name", LARGE)
def test_large_spec_computes_its_losses_on_small_images(name: str, tmp_path: Path) -> None:
    overrides = [*QUICK, *narrowed(text(name)), *shrunk(name, tmp_path)]
    made = build_experiment(load_spec(CONFIGS / f"{name}.yaml", overrides), CPU)
    y, x, physics, scale = made.reconstruction.batch(made.train, [0, 1], CPU)
    loss, terms = made.objective(y, physics, seed=0, x=x, scale=scale)
    assert bool(loss.isfinite()) and loss.requires_grad and all(bool(value.isfinite()) for value in terms.values())
    assert made.objective.needs_ground_truth == ("supervised" in name)


@pytest.mark.parametrize("name", [name for name in LARGE if task_of(name) not in {"ct", "multicoil-mri"} and name.split("-", 1)[-1] in {name, "es", "es-equivariant"}])
def test_large_network_makes_images_of_full_size(name: str) -> None:
    """As shapes alone where no solver looks at values, as that of 28 × 28 digits does; rivals have the same networks."""
    channels, size, _ = IMAGES[task_of(name)]
    images = ArrayStack(np.zeros((1, channels, size, size), np.float32), ["x"])
    spec = load_spec(CONFIGS / f"{name}.yaml")
    operator = build_operator(spec.physics, images, pictures=True, seed=0)
    network = Builder().build(spec.model, "model", "model")[0]
    with nullcontext() if size == 28 else FakeTensorMode(allow_non_fake_inputs=True):
        x = network(torch.zeros(2, *operator.measurement.shape), operator.physics)
    assert tuple(x.shape) == (2, channels, size, size) and x.requires_grad
