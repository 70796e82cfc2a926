from __future__ import annotations

import getpass
import hashlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from problems import es, smooth, train_in

from es_cli.catalog import load_spec
from es_cli.data.geometry import Geometry
from es_cli.data.readers import open_array
from es_cli.data.writers import write_array
from es_cli.serving import large, limits


@pytest.fixture
def model(inpainting: Path, monkeypatch) -> Path:
    """A checkpoint m.safetensors beside the data, where we are."""
    monkeypatch.chdir(inpainting.parent)
    train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"])).rename("m.safetensors")
    return Path("m.safetensors")


def run(*arguments: str) -> int:
    return es(["reconstruct", "--ckpt", "m.safetensors", *arguments, "-q"])


def record(name: str) -> dict:
    return json.loads(Path(f"{name}.json").read_text())


def test_what_lies_beside_an_output(model):
    assert run("test_y.npy", "-o", "out/x.npy", "--param", "mask=mask.npy", "--test-rule", "one") == 0
    held = record("out/x.npy")
    digest = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in ("test_y.npy", "m.safetensors", "mask.npy", "out/x.npy")}
    assert held["input"] == {"file": "../test_y.npy", "key": None, "array": None, "sha256": digest["test_y.npy"]}
    assert held["checkpoint"]["file"] == "../m.safetensors" and held["checkpoint"]["sha256"] == digest["m.safetensors"]
    assert held["parameters"]["mask"] == {"file": "../mask.npy", "key": None, "sha256": digest["mask.npy"]}
    assert held["output"] == {"file": "x.npy", "sha256": digest["out/x.npy"], "shape": [4, 1, 16, 16], "dtype": "float32"}
    assert held["spec"]["physics"]["name"] == "Inpainting" and held["spec"]["test"]["group"] == "trivial" and held["seed"] == 0
    assert {"es-cli", "torch", "deepinv", "numpy"} <= set(held["versions"])
    assert held["command"] == [
        "es", "reconstruct", "--ckpt", "../m.safetensors", "../test_y.npy", "-o", "x.npy",
        "--test-rule", "splits=none,group=trivial", "--precision", "float32", "--param", "mask=../mask.npy",
    ]  # fmt: skip


def test_equal_runs_give_equal_records_which_name_nobody(model, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert run("test_y.npy", "-o", "x.npy") == run(str(Path("test_y.npy").resolve()), "-o", str(elsewhere / "x.npy")) == 0
    first = Path("x.npy.json").read_bytes()
    assert run("test_y.npy", "-o", "x.npy", "--overwrite") == 0 and Path("x.npy.json").read_bytes() == first
    for text in (first.decode(), (elsewhere / "x.npy.json").read_text()):
        assert str(Path.cwd()) not in text and "/" not in json.loads(text)["input"]["file"]
        assert not any(name in text.split('"') for name in (socket.gethostname(), getpass.getuser()))
    assert run("test_y.npy", "-o", "full.npy", "--full-paths") == 0
    assert record("full.npy")["input"]["file"] == str(Path("test_y.npy").resolve())
    assert run("test_y.npy", "-o", "none.npy", "--no-provenance") == 0 and not Path("none.npy.json").exists()


def test_a_file_of_somebody_else_is_left_alone(model, capfd):
    Path("x.npy.json").write_text("{}")
    assert run("test_y.npy", "-o", "x.npy") == 3
    assert "none of es" in capfd.readouterr().err and Path("x.npy.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.nii.gz", "x.cfl", "x.tif"])
def test_outputs_are_made_again(model, capfd, name):
    assert run("test_y.npy", "-o", name, "--param", "mask=mask.npy", "--test-rule", "splits=2,group=random,samples=1") == 0
    before = Path(name).read_bytes()
    assert es(["reproduce", name]) == 0
    assert f"{name}: the same, " in capfd.readouterr().out and Path(name).read_bytes() == before


def test_what_was_moved_to_agree_with_its_measurements_is_so_again(model, capfd):
    assert run("test_y.npy", "-o", "x.npy", "--consistent") == run("test_y.npy", "-o", "plain.npy") == 0
    assert "--consistent" in record("x.npy")["command"] and not np.array_equal(np.load("x.npy"), np.load("plain.npy"))
    assert es(["reproduce", "x.npy"]) == 0 and "byte for byte" in capfd.readouterr().out


def test_the_output_of_a_folder_is_made_again_elsewhere(model, capfd):
    assert run("test_y.npy", "train_y.npy", "-o", "images") == 0
    Path("images").rename("moved")
    assert es(["reproduce", "moved/train_y.recon.npy", "-o", "again.npy"]) == 0
    assert "byte for byte" in capfd.readouterr().out and Path("again.npy").read_bytes() == Path("moved/train_y.recon.npy").read_bytes()
    Path("moved").rename("deep")
    Path("deep/er").mkdir()
    for name in ("train_y.recon.npy", "train_y.recon.npy.json"):
        Path("deep", name).rename(Path("deep/er", name))
    # found below the working directory by its name and its SHA-256
    assert es(["reproduce", "deep/er/train_y.recon.npy"]) == 0
    capfd.readouterr()
    Path("m.safetensors").rename("other.safetensors")
    assert es(["reproduce", "deep/er/train_y.recon.npy"]) == 4
    assert "--ckpt FILE" in capfd.readouterr().err
    assert es(["reproduce", "deep/er/train_y.recon.npy", "--ckpt", "other.safetensors", "--input", "train_y.npy", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["same_bytes"] is True


def test_folders_of_inputs_are_not_named_and_are_found_all_the_same(model, capfd):
    Path("jane doe/scans").mkdir(parents=True)
    Path("test_y.npy").rename("jane doe/scans/y.npy")
    assert run("jane doe/scans/y.npy", "-o", "out/x.npy") == 0
    assert "jane" not in Path("out/x.npy.json").read_text() and record("out/x.npy")["input"]["file"] == "y.npy"
    assert es(["reproduce", "out/x.npy"]) == 0 and "byte for byte" in capfd.readouterr().out


def test_tiles_are_those_of_then_whatever_is_free_now(model, monkeypatch, capfd):
    mask = (np.random.default_rng(0).random((40, 64)) < 0.6).astype(np.float32)
    np.save("big.npy", smooth(1, 64)[0, :40] * mask)
    monkeypatch.setattr(large, "free_bytes", lambda device, allowed: 30_000)
    monkeypatch.setattr("es_cli.tiles.ALIGNED", 4)
    assert run("big.npy", "-o", "x.npy", "--param", "mask=from-data") == 0
    assert record("x.npy")["made"]["tiles"]["side"] < 40
    monkeypatch.setattr(large, "free_bytes", lambda device, allowed: 1 << 40)
    assert es(["reproduce", "x.npy"]) == 0 and "byte for byte" in capfd.readouterr().out


def test_what_has_changed_since_is_said(model, capfd):
    assert run("test_y.npy", "-o", "x.npy") == 0
    image = np.load("x.npy")
    np.save("x.npy", image + 1e-7)
    assert es(["reproduce", "x.npy"]) == 0 and "another one than was written" in capfd.readouterr().out
    np.save("x.npy", image + 1)
    assert es(["reproduce", "x.npy"]) == 6 and "not the same" in capfd.readouterr().out
    np.save("x.npy", image[1:])
    assert es(["reproduce", "x.npy"]) == 3
    held = record("x.npy")
    Path("x.npy.json").write_text(json.dumps({**held, "versions": {**held["versions"], "torch": "0.1"}}))
    np.save("x.npy", image)
    assert es(["reproduce", "x.npy"]) == 0 and "torch was 0.1" in capfd.readouterr().out
    np.save("test_y.npy", np.load("test_y.npy") * 2)
    assert es(["reproduce", "x.npy"]) == 3 and "SHA-256 differs" in capfd.readouterr().err


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"kind": "es reconstruction", "format": 1}', '{"kind": "es reconstruction", "format": 9}'])
def test_records_that_are_none_are_exit_3(model, capfd, text):
    np.save("x.npy", np.ones(3))
    if text is not None:
        Path("x.npy.json").write_text(text)
    assert es(["reproduce", "x.npy"]) == 3
    assert "x.npy.json" in capfd.readouterr().err


def test_a_record_with_options_that_are_none(model, capfd):
    assert run("test_y.npy", "-o", "x.npy") == 0
    held = record("x.npy")
    for options in ({}, {**held["options"], "test": "nonsense"}, {**held["options"], "precision": "float1"}, {**held["options"], "axis": 7}):
        Path("x.npy.json").write_text(json.dumps({**held, "options": options}))
        assert es(["reproduce", "x.npy"]) in (2, 3)
    assert es(["reproduce", "x.npy", "-o", "y.png"]) == es(["reproduce", "x.npy", "--param", "sigma=mask.npy"]) == 2


@pytest.mark.parametrize(("kind", "dtype", "top"), [("png", np.uint8, 255), ("png", np.uint16, 65535), ("tif", np.uint16, 65535)])
def test_pictures_of_integers_come_back_as_integers(model, capfd, kind, dtype, top):
    picture = np.rint(np.load("test_y.npy")[0, 0].clip(0, 1) * top).astype(dtype)
    Image.fromarray(picture).save(f"y.{kind}")
    assert es(["reconstruct", "--ckpt", "m.safetensors", f"y.{kind}", "-o", f"x.{kind}"]) == 0
    assert f"rounded to {np.dtype(dtype).name}" in capfd.readouterr().err
    assert run(f"y.{kind}", "-o", "x.npy") == 0
    image, exact = open_array(Path(f"x.{kind}")), np.load("x.npy").astype(np.float64)
    assert image.dtype == dtype and np.array_equal(image, np.rint(exact * top).clip(0, top))
    said = record(f"x.{kind}")["made"]["rounded"]
    assert said["dtype"] == image.dtype.name and said["clipped"] == int((np.rint(exact * top) != np.rint(exact * top).clip(0, top)).sum())
    assert said["error"] == pytest.approx(np.sqrt(np.mean((exact * top - image) ** 2)), rel=1e-3)


def test_volumes_of_integers_come_back_as_integers_unless_floats_are_asked_for(model):
    volume = np.rint(np.load("test_y.npy")[:, 0] * 1000).astype(np.int16)
    write_array(Path("y.nii"), volume, Geometry("nifti", "int16", ("z", "y", "x"), (2.0, 1.0, 1.0)))
    assert run("y.nii", "-o", "x.nii") == run("y.nii", "-o", "f.nii", "--float") == run("y.nii", "-o", "x.npy") == 0
    assert open_array(Path("x.nii")).dtype == np.int16 and open_array(Path("f.nii")).dtype == np.load("x.npy").dtype == np.float32
    assert np.abs(open_array(Path("x.nii")) - open_array(Path("f.nii"))).max() <= 0.5
    assert es(["reproduce", "f.nii"]) == es(["reproduce", "x.nii"]) == 0


def test_large_integer_images_are_rounded_in_their_file(model, monkeypatch):
    monkeypatch.setattr("es_cli.serving.integers.ROWS", 7)
    for module in (limits, large):
        monkeypatch.setattr(module, "PLENTY", 10)
        monkeypatch.setattr(module, "HELD", 10)
    volume = np.rint(np.load("test_y.npy")[:, 0] * 1000).astype(np.int16)
    write_array(Path("y.nii"), volume, None)
    assert run("y.nii", "-o", "x.nii") == run("y.nii", "-o", "f.nii", "--float") == 0
    assert np.array_equal(open_array(Path("x.nii")), np.rint(open_array(Path("f.nii"))).astype(np.int16))
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
