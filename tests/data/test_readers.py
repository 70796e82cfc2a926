"""Readers: what is read equals what was written, and every broken file ends in a DataError that names it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from es_cli.data import archives, files
from es_cli.data.readers import array_header, open_array, read_npy_stream
from es_cli.errors import DataError

RNG = np.random.default_rng(0)
ARRAY = RNG.standard_normal((5, 3, 4)).astype(np.float32)


def refused(path: Path, key: str | None = None) -> str:
    """The message of the DataError that reading `path` ends in, which names the file and holds a hint."""
    with pytest.raises(DataError) as caught:
        open_array(path, key)
    assert path.name in caught.value.fault.where
    assert caught.value.fault.hint
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "c8", "c16", "u1", "i2", "u2", "i8", "?", ">f4", ">c8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_comes_back_as_it_was(tmp_path: Path, dtype: str, order: str) -> None:
    array = ARRAY.astype(dtype)
    array = np.asfortranarray(array) if order == "F" else array
    np.save(tmp_path / "a.npy", array)
    got = open_array(tmp_path / "a.npy")
    assert got.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array)


def test_npy_is_mapped_and_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    got = open_array(tmp_path / "a.npy")
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable


def test_later_versions_of_the_header(tmp_path: Path) -> None:
    for version in [(1, 0), (2, 0), (3, 0)]:
        with open(tmp_path / "a.npy", "wb") as file:
            np.lib.format.write_array(file, ARRAY, version=version)
        np.testing.assert_array_equal(open_array(tmp_path / "a.npy"), ARRAY)


def test_npy_truncated_at_every_place(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", ARRAY)
    content = (tmp_path / "whole.npy").read_bytes()
    for length in [0, 3, 6, 8, 9, 50, 127, 128, len(content) - 1]:
        (tmp_path / "cut.npy").write_bytes(content[:length])
        assert "cut short" in (message := refused(tmp_path / "cut.npy")) or "empty" in message


def test_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (10**9, 10**6), "fortran_order": False, "descr": "<f4"})
    assert "4000000000000000 bytes" in refused(tmp_path / "a.npy")


def test_header_that_is_nonsense(tmp_path: Path) -> None:
    for text in ["{'shape': (-1,), 'fortran_order': False, 'descr': '<f4'}", "{", "[" * 5000, "__import__('os')", "{'shape': (2,)}"]:
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64))
        assert "header" in refused(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\x7f" + bytes(64))
    assert "claims to be" in refused(tmp_path / "a.npy")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("bomb-went-off",))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez("objects.npz", x=np.array([Bomb()], dtype=object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ["objects.npy", "objects.npz", "pickle.npy"]:
        assert "pickle" in refused(tmp_path / name)
    assert not (tmp_path / "bomb-went-off").exists()


def test_pickled_subjects_are_refused_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ARRAY, subject=np.array(["a", 1, None, 2, 3], dtype=object))
    with pytest.raises(DataError, match="pickle"):
        archives.Npz(tmp_path / "a.npz").owners(None, 5)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([b"text"]), np.zeros(3, "M8[s]"), np.zeros(3, [("x", "f4")])])
def test_what_is_no_number_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    assert "no numbers" in refused(tmp_path / "a.npy")


def test_empty_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 4, 4)))
    assert "(0, 4, 4)" in refused(tmp_path / "a.npy")


def test_missing_folder_and_unknown_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "train_y.npy", ARRAY)
    assert "did you mean train_y.npy?" in refused(tmp_path / "train-y.npy")
    assert "does not exist" in refused(tmp_path / "nowhere" / "y.npy")
    assert "folder" in refused(tmp_path)
    (tmp_path / "a.raw").touch()
    assert ".npz" in refused(tmp_path / "a.raw")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    np.save(tmp_path / "a.npy", ARRAY)
    monkeypatch.setattr(files, "open", refuse, raising=False)  # root may read everything
    assert "may not be read" in refused(tmp_path / "a.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    save(tmp_path / "one.npz", y=ARRAY)  # type: ignore[operator]
    np.testing.assert_array_equal(open_array(tmp_path / "one.npz"), ARRAY)
    save(tmp_path / "two.npz", images=ARRAY, masks=np.asfortranarray(ARRAY[0]))  # type: ignore[operator]
    np.testing.assert_array_equal(open_array(tmp_path / "two.npz", "masks"), ARRAY[0])
    assert array_header(tmp_path / "two.npz", "images") == ((5, 3, 4), np.dtype("f4"))


def archive(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.hdf5"])
def test_keys_of_archives(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, images=ARRAY, masks=ARRAY[0])
    assert "images, masks" in refused(path)
    assert "did you mean images?" in refused(path, "image")
    assert "images, masks" in refused(path, "zzz")
    assert "no array" in refused(archive(tmp_path / f"empty{path.suffix}"))


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_owners_are_not_data(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, images=ARRAY, patient=np.array([7, 7, 3, 3, 9]), subject=np.array([1, 2]))
    np.testing.assert_array_equal(open_array(path), ARRAY)
    file = archives.Npz(path) if name == "a.npz" else archives.Hdf5(path)
    owners = file.owners(None, 5)
    assert owners is not None
    np.testing.assert_array_equal(owners, [1, 1, 0, 0, 2])
    assert file.owners(None, 4) is None


def test_subjects_may_be_text(tmp_path: Path) -> None:
    names = np.array(["b", "a", "b", "c", "c"])
    np.savez(tmp_path / "a.npz", x=ARRAY, subject=names)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/x"] = ARRAY
        file["scan/subject"] = names.astype(object)
    held: list[archives.Npz | archives.Hdf5] = [archives.Npz(tmp_path / "a.npz"), archives.Hdf5(tmp_path / "a.h5")]
    for file_ in held:
        owners = file_.owners(None, 5)
        assert owners is not None
        assert owners.tolist() == [1, 0, 1, 2, 2]


def test_h5_comes_back_with_axes_and_groups(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("scan/kspace", data=ARRAY.astype(np.complex64), compression="gzip")
        file["nothing"] = h5py.Empty("f")
    got = open_array(tmp_path / "a.h5", "/scan/kspace")
    assert got.dtype == np.complex64
    np.testing.assert_array_equal(got, ARRAY)
    np.testing.assert_array_equal(open_array(tmp_path / "a.h5"), ARRAY)


def test_h5_of_text_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = "text"
    refused(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 0.99])
def test_truncated_archives(tmp_path: Path, name: str, part: float) -> None:
    path = archive(tmp_path / name, x=RNG.standard_normal((40, 40)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "not a whole" in refused(path)


def test_damaged_values_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RNG.standard_normal((40, 40)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[5000] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    assert "CRC" in refused(tmp_path / "a.npz")


def test_npz_whose_array_claims_more_than_its_member_holds(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": (1 << 40,), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", head.getvalue() + bytes(80))
    assert "8796093022208 bytes" in refused(tmp_path / "a.npz")


def test_npz_whose_member_claims_more_than_it_can_unpack_to(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=ARRAY)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (3 << 30).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    assert "claims 3221225472 bytes" in refused(tmp_path / "a.npz")


def test_h5_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64))
    assert "claims" in refused(tmp_path / "a.h5")


def stream_of(*arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    for array in arrays:
        np.save(content, array)
    return content.getvalue()


def test_stream_of_several_arrays_through_a_real_pipe(tmp_path: Path) -> None:
    arrays: list[np.ndarray] = [ARRAY, RNG.standard_normal((300, 400)), np.asfortranarray(ARRAY[0]), np.array(3.0, np.float32)]
    (tmp_path / "all").write_bytes(stream_of(*arrays))
    script = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer, 777)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "all")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and not process.stdout.seekable()
        got = list(read_npy_stream(process.stdout))
    assert len(got) == len(arrays)
    for a, b in zip(got, arrays, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_streams_that_break_off() -> None:
    whole = stream_of(ARRAY)
    for content, word in [(b"", "nothing came"), (whole[:-1], "cut short"), (whole + whole[:20], "cut short"), (whole + b"\n", "format"), (b"hello", "format")]:
        with pytest.raises(DataError, match=word) as caught:
            list(read_npy_stream(io.BytesIO(content)))
        assert caught.value.fault.where == "standard input"


def test_stream_that_claims_much_takes_little_memory() -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": (1 << 50,), "fortran_order": False, "descr": "<f8"})
    with pytest.raises(DataError, match="100 came"):
        list(read_npy_stream(io.BytesIO(head.getvalue() + bytes(100))))


def test_pictures_come_as_stored(tmp_path: Path) -> None:
    grey, colour = RNG.integers(0, 256, (6, 8), np.uint8), RNG.integers(0, 256, (6, 8, 3), np.uint8)
    deep = RNG.integers(0, 65536, (6, 8), np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for name, array in [("grey", grey), ("colour", colour), ("deep", deep)]:
        got = open_array(tmp_path / f"{name}.png")
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (ARRAY[0], {}),
        (ARRAY, {"photometric": "minisblack"}),
        (RNG.integers(0, 65536, (6, 8, 3), np.uint16), {"photometric": "rgb"}),
        (RNG.integers(0, 256, (6, 8, 3), np.uint8), {"photometric": "rgb"}),
        (RNG.integers(0, 256, (6, 8), np.uint8), {"photometric": "minisblack"}),
        (RNG.integers(0, 65536, (2, 6, 8, 3), np.uint16), {"photometric": "rgb"}),
    ],
)
def test_tiff_of_every_kind(tmp_path: Path, array: np.ndarray, options: dict[str, str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    got = open_array(tmp_path / "a.tif")
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_tiff_with_planes_of_colour(tmp_path: Path) -> None:
    array = RNG.integers(0, 65536, (3, 6, 8), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(open_array(tmp_path / "a.tif"), np.moveaxis(array, 0, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.5, 0.9])
def test_truncated_pictures(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "not a whole" in refused(path)


def test_truncated_float_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RNG.standard_normal((64, 64)).astype(np.float32))
    content = (tmp_path / "a.tif").read_bytes()
    for length in [10, 300, len(content) - 2000]:
        (tmp_path / "a.tif").write_bytes(content[:length])
        assert "not a whole" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "b.tif", "a.npy", "a.npz", "a.h5"])
def test_random_damage_raises_nothing_else_and_is_quiet(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, rng = tmp_path / name, np.random.default_rng(5)
    if name == "b.tif":
        tifffile.imwrite(path, ARRAY, photometric="minisblack")
    elif path.suffix in files.PICTURES:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    elif name == "a.npy":
        np.save(path, ARRAY)
    else:
        archive(path, x=ARRAY)
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 300), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            open_array(path)
    assert capfd.readouterr().err == ""


def test_picture_of_absurd_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "pixels" in refused(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # above this Pillow warns, and from twice of it on it refuses
    assert open_array(tmp_path / "a.png").shape == (30, 30)


def test_text_called_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    assert "not a whole .png" in refused(tmp_path / "a.png")
