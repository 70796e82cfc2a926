"""`es simulate`: what it writes is what `es train` measures by itself, whole or not at all."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from operators import OPERATORS, physics_part, save_arrays
from PIL import Image
from problems import es, network, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.data import stacks
from es_cli.errors import DataError, EsError, SpecError, UsageError
from es_cli.evaluate import evaluate
from es_cli.experiment import Experiment, build_experiment
from es_cli.simulation.folder import MARK
from es_cli.simulation.job import simulate

CPU = torch.device("cpu")
NOISE = {"name": "GaussianNoise", "sigma": 0.05}
TINY = {"steps": 2, "batch_size": 2, "validate_every": 2, "preview": False}
COMPLEX = {"model": {"name": "ArtifactRemoval", "backbone_net": network(2)}}
PHYSICS: dict[str, tuple[dict, dict]] = {
    "inpainting": ({"name": "Inpainting", "mask": 0.6, "noise_model": NOISE}, {}),
    "mri": ({"name": "MRI", "mask": {"name": "GaussianMaskGenerator", "acceleration": 2}, "noise_model": NOISE}, COMPLEX),
    "ct": ({"name": "Tomography", "angles": 8, "normalize": True, "noise_model": {"name": "PoissonNoise", "gain": 0.1}}, {}),
    "cs": ({"name": "CompressedSensing", "m": 60, "noise_model": NOISE}, {}),
    "coils": ({"name": "MultiCoilMRI", "coil_maps": 3, "noise_model": NOISE}, COMPLEX),
}


def pictures(folder: Path, count: int, first: int = 0, size: int = 16) -> Path:
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(smooth(count, size, seed=first), first):
        Image.fromarray((255 * picture).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def spec_for(folder: Path, task: str, data: dict | None = None, **changes: object) -> Path:
    """A spec of images x/ and test images t/ beside it."""
    physics, more = PHYSICS[task]
    pictures(folder / "x", 6), pictures(folder / "t", 3, first=20)
    data = data or {"train": {"images": "x"}, "validation": 0.3, "test": {"images": "t"}}
    return write_spec(folder / "spec.yaml", **{"physics": physics, "data": data, "mask_generator": None, "training": TINY, **more, **changes})


def built(spec: Path, *overrides: str) -> Experiment:
    return build_experiment(load_spec(spec, overrides), CPU)


def same_data(one: Experiment, other: Experiment) -> None:
    """Measurements, keys and operators are equal, bit for bit."""
    for part in ("train", "validation", "test"):
        a, b = getattr(one, part), getattr(other, part)
        assert np.array_equal(a.index, b.index)
        for i in range(len(a)):
            (ya, _, pa), (yb, _, pb) = a.batch([i]), b.batch([i])
            assert torch.equal(ya.flatten(), yb.flatten()) and all(torch.equal(pa[name], pb[name]) for name in pa.keys() | pb.keys())
    probe = torch.rand(1, *one.operator.image.shape)
    assert torch.allclose(one.operator.physics.A(probe).flatten(), other.operator.physics.A(probe).flatten(), atol=1e-5)


@pytest.mark.parametrize("task", PHYSICS)
def test_measured_once_trained_and_evaluated(task, tmp_path, capfd):
    spec, out = spec_for(tmp_path, task), tmp_path / "data"
    assert es(["simulate", str(spec), "-o", str(out)]) == 0
    assert capfd.readouterr().out == f"{out / 'spec.yaml'}\n"
    from_images, from_files = built(spec), built(out / "spec.yaml")
    same_data(from_images, from_files)
    assert from_files.train.x is None and from_files.validation.x is None and from_files.test.x is not None
    for folder in ("x", "t"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    out.rename(tmp_path / "moved")
    checkpoint = train_in(tmp_path / "run", load_spec(tmp_path / "moved" / "spec.yaml"))
    assert evaluate(checkpoint, metrics=["PSNR"], device="cpu").n == 3


@pytest.mark.parametrize("task", ["inpainting", "mri"])
def test_training_on_the_files_is_training_on_the_images(task, tmp_path):
    spec = spec_for(tmp_path, task)
    made = simulate(load_spec(spec), tmp_path / "data")
    assert train_in(tmp_path / "a", load_spec(spec)).read_bytes() == train_in(tmp_path / "b", load_spec(made)).read_bytes()


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_comes_back_from_its_files(name, tmp_path):
    save_arrays(tmp_path)
    shape = OPERATORS[name][1]
    np.save(tmp_path / "x.npy", np.random.default_rng(5).random((4, *shape)).astype(np.float32))
    net = {"name": "ArtifactRemoval", "backbone_net": {**network(shape[0]), "dim": len(shape) - 1}}
    data = {"train": {"images": "x.npy"}, "test": {"images": "x.npy"}}
    spec = write_spec(tmp_path / "spec.yaml", physics=physics_part(name, tmp_path), data=data, mask_generator=None, model=net, transforms="none")
    made = simulate(load_spec(spec), tmp_path / "data")
    expected = built(spec)
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    same_data(expected, built(made))


def test_crops_of_one_picture_are_held_out_together(tmp_path):
    spec = spec_for(tmp_path, "inpainting", {"train": {"images": {"file": "x", "crop": 8, "crops_per_image": 3}}, "validation": 0.3, "test": {"images": {"file": "t", "crop": 8}}})
    made = simulate(load_spec(spec), tmp_path / "data")
    same_data(built(spec), built(made))
    assert (tmp_path / "data" / "train_y.h5").is_file()


def test_a_set_aside_test_is_that_of_folders_of_its_own(tmp_path, capfd):
    spec, out = spec_for(tmp_path, "inpainting"), tmp_path / "data"
    images = tmp_path / "all"
    for picture in pictures(images, 9, first=40).iterdir():
        assert picture.is_file()
    assert es(["simulate", str(spec), "--images", str(images), "--test", "3", "-o", str(out)]) == 0
    assert "takes the place of data.train.images, data.test" in capfd.readouterr().err
    x = np.load(out / "test_x.npy")
    truth = {path: np.asarray(Image.open(path), np.float32) / np.float32(255) for path in images.iterdir()}
    tested = {path for path, picture in truth.items() if any(np.array_equal(picture, one[0]) for one in x)}
    assert len(tested) == 3 and np.load(out / "train_x.npy").shape == (6, 1, 16, 16)
    (tmp_path / "apart").mkdir()
    for path in tested:
        path.rename(tmp_path / "apart" / path.name)
    data = {"train": {"images": "all"}, "validation": 0.3, "test": {"images": "apart"}}
    same_data(built(write_spec(tmp_path / "apart.yaml", **{**yaml.safe_load(spec.read_text()), "data": data})), built(out / "spec.yaml"))


@pytest.mark.parametrize("data", [None, {"train": {"measurements": "gone.npy"}}, {"train": {"images": {"sample": "photo", "part": "train", "crop": 16}}, "validation": {"images": "gone"}}])
def test_images_take_the_place_of_all_data_of_a_spec_even_of_none(data, tmp_path):
    spec, out = spec_for(tmp_path, "ct"), tmp_path / "data"
    document = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**document, "data": data} if data else {key: value for key, value in document.items() if key != "data"}))
    assert es(["simulate", str(spec), "--images", str(tmp_path / "x"), "-o", str(out), "-q", "data.train.images.crop=16"]) == 0
    written = load_spec(out / "spec.yaml").data
    assert len(np.load(out / "train_y.npy")) == 6 and written.validation == 0.1 and written.test is None


def test_parameters_of_each_sample_and_several_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x", "mask"):
        (tmp_path / name).mkdir()
    for i, width in enumerate([16, 20, 16, 20, 16]):
        np.save(tmp_path / "x" / f"{i}.npy", smooth(1, 20, i)[0, :16, :width])
        np.save(tmp_path / "mask" / f"{i}.npy", (rng.random((16, width)) < 0.5).astype(np.float32))
    part = {"images": "x", "params": {"mask": "mask"}}
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting"}, data={"train": part, "validation": 0.3, "test": part}, transforms="reflections")
    made = simulate(load_spec(spec), tmp_path / "data")
    same_data(built(spec), built(made))
    assert sorted(path.name for path in (made.parent / "test_y").iterdir()) == [f"{i:08d}.npy" for i in range(5)]


def test_levels_of_noise_of_each_sample_and_one_mask_for_all(tmp_path):
    np.save(tmp_path / "sigma.npy", np.linspace(0.01, 0.2, 6, dtype=np.float32))
    np.save(tmp_path / "mask.npy", np.eye(16, dtype=np.float32))
    params = {"sigma": "sigma.npy", "mask": "mask.npy"}
    physics = {"name": "Inpainting", "noise_model": NOISE}
    spec = spec_for(tmp_path, "inpainting", {"train": {"images": "x", "params": params}, "test": {"images": "x", "params": params}}, physics=physics)
    made = simulate(load_spec(spec), tmp_path / "data")
    same_data(built(spec), built(made))
    assert np.load(made.parent / "train_sigma.npy").shape == (6,) and np.load(made.parent / "train_mask.npy").shape == (1, 1, 16, 16)


def test_a_supervised_loss_finds_its_images_in_the_files(tmp_path):
    spec = spec_for(tmp_path, "inpainting", losses=["SupLoss"])
    made = simulate(load_spec(spec), tmp_path / "data")
    assert built(made).train.x is not None
    assert train_in(tmp_path / "a", load_spec(spec)).read_bytes() == train_in(tmp_path / "b", load_spec(made)).read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("crops", [{}, {"crop": 8, "crops_per_image": 2}])
def test_equal_simulations_give_equal_bytes_without_a_path_and_another_seed_others(tmp_path, crops):
    spec = spec_for(tmp_path, "inpainting", {"train": {"images": {"file": "x", **crops}}, "validation": 0.3})
    one, same, other = (contents(simulate(load_spec(spec, [f"seed={seed}"]), tmp_path / out).parent) for seed, out in ((0, "a"), (0, "b"), (1, "c")))
    name = "train_y.h5" if crops else "train_y.npy"
    assert one == same and one[name] != other[name] and one["mask.npy"] != other["mask.npy"]
    assert not any(str(tmp_path).encode() in content for content in one.values())


def test_noise_is_as_strong_as_the_spec_says_and_none_where_it_says_none(tmp_path):
    np.save(tmp_path / "x.npy", smooth(20, 32))
    spec = spec_for(tmp_path, "inpainting", {"train": {"images": "x.npy"}})
    noise = {}
    for out, overrides in (("noisy", []), ("clean", ["physics.noise_model=ZeroNoise"])):
        folder = simulate(load_spec(spec, overrides), tmp_path / out).parent
        x, y, mask = (np.load(folder / f"{name}.npy") for name in ("train_x", "train_y", "mask"))
        noise[out] = (y - mask * x)[np.broadcast_to(mask, x.shape) == 1]
    n = noise["noisy"].size
    assert abs(noise["noisy"].std() - NOISE["sigma"]) < 5 * NOISE["sigma"] / np.sqrt(2 * n)
    assert abs(noise["noisy"].mean()) < 5 * NOISE["sigma"] / np.sqrt(n)
    assert not noise["clean"].any()


def test_what_exists_is_refused_and_only_a_simulation_is_replaced(tmp_path, capfd):
    spec, out = spec_for(tmp_path, "inpainting"), tmp_path / "data"
    command = ["simulate", str(spec), "-o", str(out)]
    assert es(command) == 0
    before = contents(out)
    assert es(command) == 2 and "this output exists" in capfd.readouterr().err
    assert es([*command, "--overwrite", "data.train.images=gone"]) == 3 and contents(out) == before
    assert es([*command, "--overwrite", "seed=1", "data.test=null"]) == 0
    assert set(contents(out)) == set(before) - {"test_x.npy", "test_y.npy"} and contents(out)["mask.npy"] != before["mask.npy"]
    (out / "run").mkdir()
    before = contents(out)
    assert es([*command, "--overwrite"]) == 2 and "run was not written by es simulate" in capfd.readouterr().err
    (out / "run").rmdir()
    (out / MARK).write_text(json.dumps({"files": 3}))
    assert es([*command, "--overwrite"]) == 2 and "not the folder of a simulation" in capfd.readouterr().err
    assert set(contents(out)) == set(before)


def test_a_folder_that_came_meanwhile_is_left_as_it_is(tmp_path):
    out = tmp_path / "data"

    def come(done, total):
        out.mkdir(exist_ok=True)

    with pytest.raises(DataError, match="left as it is"):
        simulate(load_spec(spec_for(tmp_path, "inpainting")), out, on_progress=come)
    assert not list(out.iterdir()) and not list(tmp_path.glob(".*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from es_cli.catalog import load_spec
from es_cli.simulation.job import simulate
def kill(done, total):
    if done == 7:  # of 9, in the midst of the test images
        os.kill(os.getpid(), signal.SIGKILL)
simulate(load_spec(Path(sys.argv[1])), Path(sys.argv[2]), on_progress=kill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send")
def test_a_killed_simulation_leaves_nothing_that_looks_whole(tmp_path, environment):
    spec, out = spec_for(tmp_path, "inpainting"), tmp_path / "data"
    done = subprocess.run([sys.executable, "-c", KILLED, str(spec), str(out)], env=environment, timeout=600)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    left = [path for path in tmp_path.rglob("*") if ".tmp" in str(path.relative_to(tmp_path))]
    assert left and not [path for path in left if path.name in {"spec.yaml", MARK}]
    assert es(["simulate", str(spec), "-o", str(out)]) == 0


@pytest.mark.parametrize("where", ["train_y.npy", "test_x.npy", "mask.npy"])
def test_a_fault_while_writing_leaves_nothing(where, tmp_path, monkeypatch, capfd):
    from es_cli.data import sample_files, writers

    opened = open

    def full(path, *args, **kwargs):
        if Path(path).name == where or (where == "mask.npy" and ".tmp" in Path(path).name and "x" in args[0]):
            raise OSError(28, "No space left on device")
        return opened(path, *args, **kwargs)

    spec = spec_for(tmp_path, "inpainting")
    for module in (sample_files, writers):
        monkeypatch.setattr(module, "open", full, raising=False)
    assert es(["simulate", str(spec), "-o", str(tmp_path / "data")]) == 3
    assert "make room on the disk" in capfd.readouterr().err
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


def test_the_images_are_never_in_memory_together(tmp_path, monkeypatch):
    """What 96 pictures of 256 × 256 take, 24 MiB, is more than measuring them ever holds."""
    monkeypatch.setattr(stacks, "SCAN", 1 << 20)
    pictures(tmp_path / "x", 96, size=256)
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting", "mask": 0.5}, data={"train": {"images": "x"}})
    tracemalloc.start()
    try:
        simulate(load_spec(spec), tmp_path / "data")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < np.load(tmp_path / "data" / "train_y.npy", mmap_mode="r").nbytes * 0.7


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no spec": (["gone.yaml"], 2, "no such file"),
    "no images": (["spec.yaml", "--images", "gone"], 3, "no such file"),
    "empty folder": (["spec.yaml", "--images", "empty"], 3, "the folder is empty"),
    "pictures of several sizes": (["spec.yaml", "--images", "mixed"], 3, "has one size|add crop|built for one size"),
    "crop too large": (["spec.yaml", "--images", "x", "data.train.images.crop=99"], 3, "less than the crop"),
    "share of nothing": (["spec.yaml", "--images", "x", "--test", "-1"], 2, "neither a fraction nor a number"),
    "share of all": (["spec.yaml", "--images", "x", "--test", "6"], 2, "6 of 6 files"),
    "test named twice": (["spec.yaml", "--test", "2"], 2, "leave one of them out"),
    "measured already": (["measured.yaml"], 2, "measured already"),
    "drawn and lost": (["lost.yaml"], 2, "drawn anew"),
    "mask of what": (["spec.yaml", "--images", "x", "physics.mask=from-data"], 2, "from-data reads the mask off measurements"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_faults_of_the_user_have_an_answer_and_leave_nothing(name, tmp_path, monkeypatch, capfd):
    arguments, code, message = WRONG[name]
    spec = spec_for(tmp_path, "inpainting")
    document = yaml.safe_load(spec.read_text())
    (tmp_path / "measured.yaml").write_text(yaml.safe_dump({**document, "physics": {"name": "Denoising"}, "data": {"train": {"measurements": "x"}}}))
    composed = {"name": "ComposedLinearPhysics", "physics": [{"name": "Inpainting", "mask": 0.5}, {"name": "CompressedSensing", "m": 9}]}
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump({**document, "physics": composed}))
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "mixed", 2), pictures(tmp_path / "mixed", 1, first=7, size=20)
    monkeypatch.chdir(tmp_path)
    assert es(["simulate", *arguments, "-o", "data"]) == code
    out, err = capfd.readouterr()
    assert out == "" and re.search(message, err) and err.startswith(("error: ", "note: "))
    assert not (tmp_path / "data").exists() and not list(tmp_path.glob(".*"))


def test_a_name_that_is_taken_is_answered_without_torch(python, tmp_path):
    spec = spec_for(tmp_path, "inpainting")
    (tmp_path / "data").mkdir()
    code = "import sys; from es_cli.cli.app import main; sys.argv[0] = 'es'\ntry: main()\nfinally: sys.stderr.write(f\"LOADED {'torch' in sys.modules}\")"
    assert python(code, "simulate", str(spec), "-o", str(tmp_path / "data")).stderr.decode().endswith("LOADED False")


def test_python_raises_what_the_command_line_tells(tmp_path):
    spec = load_spec(spec_for(tmp_path, "inpainting"))
    (tmp_path / "data").mkdir()
    for folder, changes, kind in (("data", {}, UsageError), ("other", {"data": None}, SpecError)):
        with pytest.raises(EsError) as caught:
            simulate(spec.model_copy(update=changes), tmp_path / folder)
        assert type(caught.value) is kind
