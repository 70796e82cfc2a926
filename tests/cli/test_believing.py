"""What `es reconstruct` writes beside images."""

from __future__ import annotations

import numpy as np
import pytest
from problems import es, train_in

from es_cli.catalog import load_spec


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
