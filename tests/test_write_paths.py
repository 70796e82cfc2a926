"""Every command that writes, on a disk that refuses at any moment: a documented end with the path in it, no half file, and the old one as it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import BROKEN, FORBIDDEN, FULL, content, failing
from problems import es, smooth, write_spec

CODES = (FULL, FORBIDDEN, BROKEN)
MOST = 14  # moments at which a command is made to fail, those of its first and last steps among them
OUT = (".npy", ".npz", ".h5", ".zarr", ".nii.gz", ".cfl", ".png", ".tif")
Command = Callable[[Path], list[str]]


def simulated(folder: Path) -> list[str]:
    return ["simulate", str(folder / "simulate.yaml"), "-o", str(folder / "out" / "data"), "-q"]


def commands() -> dict[str, Command]:
    made: dict[str, Command] = {
        "init": lambda folder: ["init", "mri", "-o", str(folder / "out" / "new.yaml")],
        "simulate": simulated,
        "simulate-h5": lambda folder: [*simulated(folder), "physics.mask=0.6", "data.train.images.crop=8", "data.train.images.crops_per_image=2"],
        "evaluate": lambda folder: ["evaluate", "--ckpt", str(folder / "run" / "model.safetensors"), "--csv", str(folder / "out" / "numbers.csv"), "--device", "cpu", "-q"],
    }
    for suffix in OUT:
        made[f"reconstruct-{suffix}"] = lambda folder, suffix=suffix: [
            "reconstruct", "--ckpt", str(folder / "run" / "model.safetensors"), str(folder / "y.npy"), "-o", str(folder / "out" / f"x{suffix}"), "--device", "cpu", "-q", "--no-provenance",
        ]  # fmt: skip
    return made


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Path:
    """A folder with what the commands read."""
    folder = tmp_path_factory.mktemp("problem")
    mask = (np.random.default_rng(1).random((16, 16)) < 0.6).astype(np.float32)
    images = smooth(8, 16)[:, None]
    np.save(folder / "mask.npy", mask)
    np.save(folder / "x.npy", images)
    for name, held in {"train_y": images[:6] * mask, "test_y": images[6:] * mask, "test_x": images[6:], "y": images[0] * mask}.items():
        np.save(folder / f"{name}.npy", held)
    write_spec(folder / "simulate.yaml", data={"train": {"images": "x.npy"}})
    training = {"steps": 1, "batch_size": 2, "preview": False, "optimizer": {"name": "AdamW", "lr": 0.001}}
    assert es(["train", str(write_spec(folder / "spec.yaml", training=training)), "-o", str(folder / "run"), "--device", "cpu", "-q"]) == 0
    return folder


def moments(count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(1, count, min(count, MOST))})


@pytest.mark.parametrize("name", commands())
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_command_that_cannot_write(name: str, old: bool, problem: Path, capfd) -> None:
    arguments, out = commands()[name](problem), problem / "out"
    shutil.rmtree(out, ignore_errors=True)
    if old:
        out.mkdir()
        assert es(arguments) == 0
        arguments = [*arguments, "--overwrite"] if name != "evaluate" else arguments
    before = content(problem)
    with failing(out) as counted:
        assert es(arguments) == 0
    after = content(out)
    assert len(counted.steps) >= 4 and after
    for at in moments(len(counted.steps)):
        restore(problem, before)
        code = CODES[at % len(CODES)]
        capfd.readouterr()
        with failing(out, code, at.__eq__):
            ended = es(arguments)
        said = capfd.readouterr().err
        assert ended == 3, (at, counted.steps[at - 1], said)
        assert str(out) in said and os.strerror(code) in said and len(said.splitlines()) <= 10 and "Traceback" not in said, (at, said)
        mended = name.endswith(".cfl") and at == len(counted.steps)  # the second of two renames
        assert content(problem) == before or mended, (at, counted.steps[at - 1])


def restore(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    for name, held in files.items():
        if name.startswith("out"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(held)
