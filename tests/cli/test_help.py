"""Every example of every `--help`, run as it stands in a folder that holds what it names, small."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
import yaml
from dicom_files import save as save_dicom
from inspecting_folders import columns, kspace, phased, pixels, rough
from PIL import Image
from problems import es, network, train_in, write_spec
from typer.testing import CliRunner

from es_cli.catalog import load_spec
from es_cli.cli.app import app
from es_cli.data.writers import write_array
from es_cli.training.events import Step
from es_cli.training.run import Interrupted

GROUP = typer.main.get_command(app)
QUICKSTART = "examples/configs/quickstart.yaml"
ROOT = Path(__file__).parents[2]
SHELL = re.compile(r"[|>]|\$\(")  # what only a shell can do
SIZE = 16
# the rate falls to nothing after the first step, so that the second validation is no better and however many steps are asked for come to an end
SOON = {"optimizer": {"name": "AdamW", "lr": 0.003}, "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1e-9}, "patience": 1, "validate_every": 3}


def examples(verb: str) -> list[str]:
    """The lines below "Examples:" in the help of a command, of `es` itself for ""."""
    shown = CliRunner().invoke(app, [*([verb] if verb else []), "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    below = shown.partition("Examples:")[2].lstrip().splitlines()
    return [line.strip() for line in below[: next(i for i, line in enumerate([*below, ""]) if not line.strip())]]


def verbs() -> list[str]:
    return ["", *GROUP.commands]


ALL = [(verb, line) for verb in verbs() for line in examples(verb)]


@pytest.mark.parametrize("verb", verbs())
def test_every_help_has_two_examples_of_its_own_command_that_fit_a_terminal(verb: str) -> None:
    found = examples(verb)
    assert sum(f"es {verb}" in line for line in found) >= 2
    assert all(re.search(r"(^|[ (])es(_cli)? ", line) for line in found)
    # 80 columns less the margins of the help: a line that is broken cannot be copied
    assert not [line for line in found if len(line) > 76]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples read: a run that was stopped, checkpoints, arrays, pictures, and the quickstart made small."""
    folder = tmp_path_factory.mktemp("examples") / "here"
    folder.mkdir()
    arrays(folder)
    pictures(folder / "photos")
    (folder / QUICKSTART).parent.mkdir(parents=True)
    (folder / QUICKSTART).write_text(yaml.safe_dump(small_quickstart()))
    for name, steps in (("spec", 6), ("changed", 9)):
        write_spec(folder / f"{name}.yaml", training={"steps": steps, "batch_size": 4, "preview": False, **SOON})
    stopped(folder / "spec.yaml", folder / "run")
    shutil.copy(folder / "run" / "model.safetensors", folder / "m.safetensors")
    for name in ("run-a", "run-b"):
        shutil.copytree(folder / "run", folder / name)
    shutil.copytree(folder, folder.parent / "kept")
    return folder


@pytest.fixture(scope="module")
def complex_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of complex images, and its measurements as BART has them."""
    folder = tmp_path_factory.mktemp("complex")
    measured = kspace(phased(6, SIZE)) * columns(SIZE, 4, 2)
    np.save(folder / "train_y.npy", measured)
    for i in range(2):
        write_array(folder / f"{i}.cfl", measured[i])
    spec = write_spec(
        folder / "spec.yaml",
        physics={"name": "MRI", "mask": "from-data"},
        data={"train": {"measurements": "train_y.npy"}},
        model={"name": "ArtifactRemoval", "backbone_net": network(2)},
        training={"steps": 1, "batch_size": 2, "preview": False},
    )
    train_in(folder / "run", load_spec(spec)).rename(folder / "m.safetensors")
    return folder


def arrays(folder: Path) -> None:
    mask = pixels(SIZE, 0.6).astype(np.float32)
    images = rough(20, SIZE)[:, None]
    kept = {"mask": mask, "train_y": images * mask, "measurements": images[:, 0] * mask, "test_y": images[:4] * mask, "test_x": images[:4]}
    kept |= {"y": images[:3] * mask, "x": images[:3], "a": images[0] * mask, "b": images[1] * mask}
    for name, array in kept.items():
        np.save(folder / f"{name}.npy", array)
    for i, image in enumerate(images[:3, 0]):
        save_dicom(folder / "series" / f"{i}.dcm", (100 * image * mask).astype(np.int16), InstanceNumber=i + 1)
    shutil.copy(folder / "a.npy", folder / "16k.npy")
    write_array(folder / "volume.nii.gz", np.moveaxis(images[:3, 0] * mask, 0, -1))
    for i in range(10):
        at = folder / "scans" / f"subject{i % 2}" / f"{i}.h5"
        at.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(at, "w") as file:
            file["y"] = images[i] * mask
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in sorted((folder / "scans").rglob("*.h5"))))
    (folder / "data").mkdir()
    np.save(folder / "data" / "train_y.npy", np.random.default_rng(0).random((4, 1, 23, 12), np.float32))


def pictures(folder: Path) -> None:
    folder.mkdir()
    for i, picture in enumerate(rough(10, 80)):
        Image.fromarray((255 * picture).astype(np.uint8)).save(folder / f"{i}.png")


def small_quickstart() -> dict:
    spec = yaml.safe_load((ROOT / QUICKSTART).read_text())
    for part, crops in (("train", 8), ("test", 2)):
        spec["data"][part]["images"] |= {"crop": SIZE, "crops_per_image": crops}
    spec["model"]["backbone_net"]["channels_per_scale"] = [4, 8]
    spec["training"] = {"steps": 2, "batch_size": 4, **SOON}
    return spec


def stopped(spec: Path, run: Path) -> None:
    def stop(event: object) -> None:
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_in(run, load_spec(spec), on_event=stop)


@pytest.fixture
def folder(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared folder as it was, at its old place: a run keeps whole paths."""
    monkeypatch.chdir(prepared.parent)
    shutil.rmtree(prepared)
    shutil.copytree(prepared.parent / "kept", prepared)
    monkeypatch.chdir(prepared)
    return prepared


def outputs(line: str) -> Iterator[str]:
    for target in re.findall(r"(?:-o|>) ([\w./]+)", line):
        if target != "-":
            yield target


@pytest.mark.parametrize(("verb", "line"), ALL, ids=[line for _, line in ALL])
def test_an_example_works_as_it_is_written(verb: str, line: str, folder: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> None:
    if "cfl" in line:
        for path in (file for file in request.getfixturevalue("complex_model").iterdir() if file.is_file()):
            shutil.copy(path, folder)
    if verb == "simulate":  # from pictures of any size
        write_spec(folder / "spec.yaml", physics={"name": "Inpainting", "mask": 0.6}, data={"train": {"images": "photos"}}, model={"name": "ArtifactRemoval", "backbone_net": network(1)})
    if verb == "reproduce":  # what was made once
        for made in ("y.npy -o images/y.recon.npy", "volume.nii.gz --axis 2 -o x.nii.gz"):
            (folder / "images").mkdir(exist_ok=True)
            assert es(["reconstruct", "--ckpt", "m.safetensors", *made.split()]) == 0
    for target in outputs(line):  # what the example makes is not there yet
        (shutil.rmtree if (folder / target).is_dir() else Path.unlink)(folder / target) if (folder / target).exists() else None
    if SHELL.search(line) or not line.startswith("es "):
        assert in_a_shell(line, environment) == 0
    else:
        assert es(shlex.split(line)[1:]) == 0
    assert all((folder / target).exists() for target in outputs(line))


def in_a_shell(line: str, environment: dict[str, str]) -> int:
    shell = shutil.which("bash")
    if shell is None or sys.platform == "win32":
        pytest.skip("there is no bash")
    place = Path.cwd().parent / "bin"
    place.mkdir(exist_ok=True)
    for name, command in (("es", f'exec "{sys.executable}" -m es_cli "$@"'), ("python", f'exec "{sys.executable}" "$@"')):
        (place / name).write_text(f"#!/bin/sh\n{command}\n")
        (place / name).chmod(0o755)
    done = subprocess.run([shell, "-o", "pipefail", "-c", line], env={**environment, "PATH": f"{place}:{environment['PATH']}"}, capture_output=True, timeout=300)
    sys.stderr.write(done.stderr.decode())
    return done.returncode
