"""What `es reconstruct` writes beside images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.figures import DOTS_PER_INCH


@pytest.fixture
def folder(inpainting, monkeypatch):
    """A folder with m.safetensors and two measurements, a.npy and b.npy."""
    monkeypatch.chdir(inpainting.parent)
    train_in(inpainting.parent / "run", load_spec(inpainting)).rename("m.safetensors")
    y = np.load("test_y.npy")
    np.save("a.npy", y[0])
    np.save("b.npy", y[1])
    return inpainting.parent


def reconstruct(*arguments):
    return es(["reconstruct", "--ckpt", "m.safetensors", *arguments])


def test_an_error_bar_is_written_and_said(folder, capsys):
    assert reconstruct("a.npy", "-o", "x.npy", "--uncertainty", "std.npy") == 0
    said = capsys.readouterr()
    assert said.out == "x.npy\n" and "note: error bar: " in said.err and "validation measurements" in said.err
    assert np.load("std.npy").shape == np.load("x.npy").shape and (np.load("std.npy") >= 0).all()
    assert reconstruct("a.npy", "-o", "y.npy", "--uncertainty", "std.npy") == 2
    assert "this output exists" in capsys.readouterr().err
    assert reconstruct("a.npy", "-o", "y.npy", "--uncertainty", "std.npy", "--overwrite", "-q") == 0
    assert not capsys.readouterr().err


def test_several_inputs_need_a_folder(folder, capsys):
    assert reconstruct("a.npy", "b.npy", "-o", "out/", "--uncertainty", "std.npy") == 2
    assert "two images would write to this file" in capsys.readouterr().err
    assert reconstruct("a.npy", "b.npy", "-o", "other/", "--uncertainty", "bars/") == 0
    assert sorted(path.name for path in (folder / "bars").iterdir()) == ["a.std.npy", "b.std.npy"]


def test_a_name_that_cannot_be_written_is_refused_before_anything_is_loaded(folder, capsys):
    assert reconstruct("missing.npy", "--uncertainty", "std.xyz") == 2
    assert "no writer for .xyz" in capsys.readouterr().err


def test_parts_are_two_arrays_whose_sum_is_the_image_and_one_picture(folder, capsys):
    assert reconstruct("a.npy", "-o", "x.npy", "--parts", "parts", "--uncertainty", "std.npy") == 0
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["invented.npy", "measured.npy", "parts.png"]
    measured, invented = np.load("parts/measured.npy"), np.load("parts/invented.npy")
    assert np.array_equal(measured + invented, np.load("x.npy"))
    assert not (measured * (1 - np.load("mask.npy"))).any() and not (invented * np.load("mask.npy")).any()
    with Image.open("parts/parts.png") as picture:
        assert picture.width > 3 * 2 * DOTS_PER_INCH
    assert reconstruct("a.npy", "-o", "y.npy", "--parts", "parts") == 2
    assert "this output exists" in capsys.readouterr().err
    assert reconstruct("a.npy", "b.npy", "-o", "out/", "--parts", "each") == 0
    assert sorted(str(path.relative_to(folder)) for path in (folder / "each").rglob("*.npy")) == [f"each/{who}/{part}.npy" for who in "ab" for part in ("invented", "measured")]


def test_a_consistent_image_measures_what_was_measured(folder):
    assert reconstruct("a.npy", "-o", "x.npy", "--consistent") == 0 and reconstruct("a.npy", "-o", "free.npy") == 0
    mask, y = np.load("mask.npy"), np.load("a.npy")
    assert np.allclose(mask * np.load("x.npy"), y, atol=1e-6)
    assert not np.allclose(mask * np.load("free.npy"), y, atol=1e-3)
    assert np.array_equal((1 - mask) * np.load("x.npy"), (1 - mask) * np.load("free.npy"))
