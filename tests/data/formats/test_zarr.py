"""zarr: rows are read when they are asked for, what es writes comes back whole, and no codec but those that pack numbers is run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from es_cli.data.geometry import Geometry
from es_cli.data.readers import array_header, open_array, read_geometry
from es_cli.data.stacks import FileStack, RowStack, Stack, open_stack
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError
from es_cli.spec.schema import Source

zarr = pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")
numcodecs = pytest.importorskip("numcodecs")
RNG = np.random.default_rng(7)
ARRAY = RNG.standard_normal((6, 2, 5, 4)).astype(np.float32)


def opened(file: Path, **options: Any) -> Stack:
    return open_stack(Source.model_validate({"file": str(file), **options}), pictures=False, seed=0)


def refused(path: Path, word: str, key: str | None = None) -> None:
    with pytest.raises(DataError, match=word) as caught:
        open_array(path, key)
    assert path.name in caught.value.fault.where and caught.value.fault.hint


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "u1", "i2", "?", ">f4"])
def test_rows_are_samples(tmp_path: Path, version: int, dtype: str) -> None:
    array = (ARRAY * 9).astype(dtype)
    zarr.create_array(store=tmp_path / "a.zarr", data=array, chunks=(2, 2, 3, 4), zarr_format=version)
    stack = opened(tmp_path / "a.zarr")
    assert isinstance(stack, RowStack) and len(stack) == 6 and stack.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(stack.read([4, 0, 0, 5]), array[[4, 0, 0, 5]])
    got = open_array(tmp_path / "a.zarr")
    assert got.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array)


def test_zip_and_shards(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="w") as store:
        zarr.create_array(store=store, data=ARRAY, chunks=(1, 2, 5, 4))
    zarr.create_array(store=tmp_path / "b.zarr", data=ARRAY, chunks=(1, 2, 5, 4), shards=(3, 2, 5, 4))
    for name in ["a.zarr.zip", "b.zarr"]:
        np.testing.assert_array_equal(open_array(tmp_path / name), ARRAY)
        np.testing.assert_array_equal(opened(tmp_path / name).read([5]), ARRAY[5:])


def test_groups_have_keys_and_subjects(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("y", data=ARRAY)
    group.create_array("subject", data=np.array([7, 7, 3, 3, 9, 9]))
    stack = opened(tmp_path / "a.zarr")
    assert stack.groups is not None and stack.groups.tolist() == [1, 1, 0, 0, 2, 2]
    group.create_group("scan").create_array("x", data=ARRAY[0])
    refused(tmp_path / "a.zarr", "scan/x, y|y, scan/x")
    refused(tmp_path / "a.zarr", "did you mean scan/x", "scan/X")
    assert array_header(tmp_path / "a.zarr", "/scan/x") == ((2, 5, 4), np.dtype("f4"))
    zarr.create_array(store=tmp_path / "b.zarr", data=ARRAY)
    refused(tmp_path / "b.zarr", "without a key", "y")


def test_a_folder_of_them(tmp_path: Path) -> None:
    for name, array in [("a.zarr", ARRAY[0]), ("b.zarr", ARRAY[1])]:
        write_array(tmp_path / name, array)
    stack = opened(tmp_path)
    assert isinstance(stack, FileStack)
    np.testing.assert_array_equal(stack.read([1, 0]), ARRAY[[1, 0]])


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "u1", "i8", "?"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 2, 4, 5)])
def test_a_round_trip_keeps_everything(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (RNG.standard_normal(shape) * 9).astype(dtype)
    affine = ((-0.7, 0.0, 0.0, 3.0), (0.0, 1.1, 0.0, 4.0), (0.0, 0.0, 2.5, 5.0), (0.0, 0.0, 0.0, 1.0))
    geometry = Geometry("zarr", array.dtype.name, ("t", "z", "y", "x")[-len(shape) :], (1.5, 2.5, 1.1, 0.7)[-len(shape) :], affine, "scanner")
    write_array(tmp_path / "a.zarr", array, geometry)
    got = open_array(tmp_path / "a.zarr")
    assert got.dtype == array.dtype and read_geometry(tmp_path / "a.zarr") == geometry
    np.testing.assert_array_equal(got, array)
    write_array(tmp_path / "a.zarr", array[:2])  # in the place of the other
    assert open_array(tmp_path / "a.zarr").shape == array[:2].shape and read_geometry(tmp_path / "a.zarr") is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("version", [2, 3])
def test_names_of_axes_that_others_wrote(tmp_path: Path, version: int) -> None:
    named: dict[str, Any] = {"dimension_names": ["z", "c", "y", "x"]} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["z", "c", "y", "x"]}}
    zarr.create_array(store=tmp_path / "a.zarr", data=ARRAY, zarr_format=version, **named)
    assert read_geometry(tmp_path / "a.zarr") == Geometry("zarr", "float32", ("z", "c", "y", "x"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("bomb-went-off",))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = {"id": "pickle"}
    packed: dict[str, dict[str, Any]] = {
        "a.zarr": {"compressor": pickled},
        "b.zarr": {"filters": [{"id": "delta", "dtype": "<f4"}, pickled]},
        "c.zarr": {"filters": [pickled]},
        "d.zarr": {"filters": [pickled], "dtype": "|O"},
    }
    for name, options in packed.items():
        (tmp_path / name).mkdir()
        described = {"zarr_format": 2, "shape": [2, 2], "chunks": [2, 2], "dtype": "<f4", "fill_value": 0, "order": "C", "compressor": None, "filters": None}
        (tmp_path / name / ".zarray").write_text(json.dumps(described | options))
        (tmp_path / name / "0.0").write_bytes(pickle.dumps(Bomb()))
        refused(tmp_path / name, "pickle")
        with pytest.raises(DataError, match="pickle"):
            opened(tmp_path / name)
    assert not (tmp_path / "bomb-went-off").exists()


def test_only_known_codecs_are_run(tmp_path: Path) -> None:
    zarr.create_array(store=tmp_path / "a.zarr", data=ARRAY, zarr_format=2, compressors=numcodecs.Base64())
    refused(tmp_path / "a.zarr", "packed with base64")
    zarr.create_array(store=tmp_path / "b.zarr", data=ARRAY, zarr_format=2, filters=[numcodecs.Delta("f4")], compressors=numcodecs.LZ4())
    assert open_array(tmp_path / "b.zarr").shape == ARRAY.shape


def test_subjects_may_be_text(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("y", data=ARRAY[:3])
    group.create_array("subject", data=np.array(["b", "a", "b"]))
    stack = opened(tmp_path / "a.zarr")
    assert stack.groups is not None and stack.groups.tolist() == [1, 0, 1]


def test_text_is_refused(tmp_path: Path) -> None:
    zarr.create_array(store=tmp_path / "a.zarr", data=np.array([["a", "b"]]), zarr_format=2)
    refused(tmp_path / "a.zarr", "no numbers")


def test_claims_beyond_what_is_held(tmp_path: Path) -> None:
    zarr.create_array(store=tmp_path / "a.zarr", shape=(1 << 14, 1 << 12), chunks=(1, 1024), dtype="f4")
    refused(tmp_path / "a.zarr", "claims 268435456 bytes")
    stack = opened(tmp_path / "a.zarr")
    assert len(stack) == 1 << 14 and not stack.read([9]).any()
    zarr.create_array(store=tmp_path / "b.zarr", shape=(4, 4), chunks=(1 << 20, 1 << 20), dtype="f4")
    refused(tmp_path / "b.zarr", "claims 4398046511104 bytes")
    zarr.create_array(store=tmp_path / "c.zarr", shape=(4, 1 << 40), chunks=(1, 1024), dtype="f4")
    with pytest.raises(DataError, match="claims 17592186044416 bytes"):
        opened(tmp_path / "c.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_damage_is_answered_and_quiet(tmp_path: Path, version: int, capfd: pytest.CaptureFixture[str]) -> None:
    zarr.create_array(store=tmp_path / "a.zarr", data=ARRAY, zarr_format=version)
    rng, answers = np.random.default_rng(5), 0
    for path in [file for file in sorted((tmp_path / "a.zarr").rglob("*")) if file.is_file()]:
        content = path.read_bytes()
        for _ in range(15):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                open_array(tmp_path / "a.zarr")
                read_geometry(tmp_path / "a.zarr")
            except DataError:
                answers += 1
        path.write_bytes(content)
    assert answers > 0
    assert capfd.readouterr().err == ""


def test_what_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    refused(tmp_path / "a.zarr", "not a whole")
    (tmp_path / "b.zarr.zip").write_bytes(b"PK")
    refused(tmp_path / "b.zarr.zip", "not a whole")


def test_what_is_no_zarr_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").write_text("a file")
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "thesis.tex").write_text("years of work")
    for name in ["a.zarr", "b.zarr"]:
        with pytest.raises(OutputError, match="is no zarr"):
            write_array(tmp_path / name, ARRAY)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.zarr", "b.zarr", "thesis.tex"]
    (tmp_path / "c.zarr").mkdir()
    write_array(tmp_path / "c.zarr", ARRAY)
    assert open_array(tmp_path / "c.zarr").shape == ARRAY.shape
