"""Writers: files are whole or absent, and pictures show what the array holds."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from es_cli.data import writers
from es_cli.data.readers import open_array, read_npy_stream
from es_cli.data.writers import write_array, write_bytes, write_npy
from es_cli.errors import OutputError

RNG = np.random.default_rng(3)
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "u1", "u2", "?", "i8"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_arrays_keep_type_and_axes(tmp_path: Path, suffix: str, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(RNG.standard_normal(shape) * 9).astype(dtype)
    write_array(tmp_path / f"a{suffix}", array)
    got = open_array(tmp_path / f"a{suffix}")
    assert got.dtype == array.dtype and got.shape == shape
    np.testing.assert_array_equal(got, array)


def test_what_is_not_contiguous(tmp_path: Path) -> None:
    array = RNG.standard_normal((6, 8))[::2, ::-1].T
    write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy"), array)


def test_png_clips_and_scales_floats(tmp_path: Path) -> None:
    write_array(tmp_path / "a.png", np.array([[-1, 0, 0.2], [1, 7, np.nan]], np.float32))
    assert open_array(tmp_path / "a.png").tolist() == [[0, 0, 51], [255, 255, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_png_keeps_integers(tmp_path: Path, dtype: type) -> None:
    array: np.ndarray = RNG.integers(0, 2 if dtype is np.bool_ else np.iinfo(dtype).max, (6, 8)).astype(dtype)
    write_array(tmp_path / "a.png", array)
    np.testing.assert_array_equal(open_array(tmp_path / "a.png"), array)


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (3, 6, 8), (1, 1, 6, 8), (1, 3, 6, 8)])
def test_png_of_one_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = RNG.random(shape)
    write_array(tmp_path / "a.png", array)
    got = open_array(tmp_path / "a.png")
    expected = np.rint(array * 255).reshape(-1, 6, 8).transpose(1, 2, 0)
    np.testing.assert_array_equal(got if got.ndim == 3 else got[..., None], expected)


def test_png_of_complex_numbers_shows_magnitudes(tmp_path: Path) -> None:
    array = np.full((4, 4), 0.3 + 0.4j, np.complex64)
    write_array(tmp_path / "a.png", array)
    write_array(tmp_path / "pair.png", np.stack([array.real, array.imag]))
    for name in ["a.png", "pair.png"]:
        assert set(open_array(tmp_path / name).ravel().tolist()) <= {127, 128}


@pytest.mark.parametrize("array", [np.zeros((5, 6, 8)), np.zeros((2, 1, 6, 8)), np.zeros(4), np.zeros((4, 4), np.int64), np.zeros((3, 4, 4), np.uint16)])
def test_png_of_what_it_cannot_hold(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(OutputError, match=".npy"):
        write_array(tmp_path / "a.png", array)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["f4", "u1", "u2"])
@pytest.mark.parametrize("shape", [(6, 8), (5, 6, 8), (1, 6, 8), (3, 6, 8), (4, 3, 6, 8)])
def test_tiff_keeps_type_and_shows_colour(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (RNG.random(shape) * 200).astype(dtype)
    write_array(tmp_path / "a.tif", array)
    got = open_array(tmp_path / "a.tif")
    assert got.dtype == array.dtype
    expected = np.moveaxis(array, -3, -1) if array.ndim > 2 and shape[-3] == 3 else array
    np.testing.assert_array_equal(got.squeeze(), expected.squeeze())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert (file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB) == (len(shape) > 2 and shape[-3] == 3)


def test_tiff_of_complex_numbers_shows_magnitudes(tmp_path: Path) -> None:
    write_array(tmp_path / "a.tiff", np.full((4, 4), 3 + 4j, np.complex64))
    got = open_array(tmp_path / "a.tiff")
    assert got.dtype == np.float32 and (got == 5).all()


def test_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="es writes .npy"):
        write_array(tmp_path / "a.jpg", np.zeros((4, 4)))
    with pytest.raises(OutputError, match="object"):
        write_array(tmp_path / "a.npy", np.array([None]))
    with pytest.raises(OutputError, match="folder"):
        write_array(tmp_path, np.zeros((4, 4))) if tmp_path.suffix in writers.SUFFIXES else write_bytes(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.nii", "a.nii.gz", "a.cfl", "a.png", "a.tif", "a.bin"])
@pytest.mark.parametrize(("code", "word"), [(errno.ENOSPC, "make room"), (errno.EROFS, "where you may"), (errno.EIO, "free space")])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, word: str) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(writers.os, "fsync", refuse)
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(OutputError, match=word) as caught:
        write_bytes(tmp_path / name, b"new") if name == "a.bin" else write_array(tmp_path / name, np.zeros((4, 4), np.float32))
    assert name in caught.value.fault.where and caught.value.exit_code == 3
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"old")]


@pytest.mark.parametrize("before", [False, True])
def test_a_disk_that_refuses_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")
    if before:
        write_array(tmp_path / "a.zarr", np.ones((2, 3)))

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writers.os, "fsync", refuse)
    with pytest.raises(OutputError, match="make room"):
        write_array(tmp_path / "a.zarr", np.zeros((4, 4), np.float32))
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"] * before
    assert not before or open_array(tmp_path / "a.zarr").tolist() == np.ones((2, 3)).tolist()


def test_two_files_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "a.cfl", np.ones((2, 3)))
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    synced: list[int] = []

    def refuse_the_second(number: int) -> None:
        synced.append(number)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writers.os, "fsync", refuse_the_second)
    with pytest.raises(OutputError, match="make room"):
        write_array(tmp_path / "a.cfl", np.zeros((4, 4), np.float32))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_a_signal_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writers.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_array(tmp_path / "a.npy", np.zeros(4))
    assert list(tmp_path.iterdir()) == []


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permissions"):
            write_array(tmp_path / "a.npy", np.zeros(4))
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_array(tmp_path / "file" / "a.npy", np.zeros(4))
    write_array(tmp_path / "new" / "a.npy", np.zeros(4))
    assert open_array(tmp_path / "new" / "a.npy").shape == (4,)


@POSIX
def test_permissions_links_and_devices(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_bytes(tmp_path / "link", b"y")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_bytes() == b"y"
    write_bytes(Path(os.devnull), b"z")
    assert not Path(os.devnull).is_file()
    write_bytes(tmp_path / ("n" * 255), b"the longest name")


@POSIX
def test_a_device_that_is_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OutputError, match="make room"):
        write_bytes(Path("/dev/full"), b"x")


def test_stream_through_a_pipe_comes_at_once() -> None:
    script = (
        "import sys, numpy as np; from es_cli.data.writers import write_npy\n"
        "write_npy(sys.stdout.buffer, np.arange(6.).reshape(2, 3).T); sys.stdin.read(1); write_npy(sys.stdout.buffer, np.float32(4))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(writers.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        frames = read_npy_stream(process.stdout)
        first = next(frames)  # before the writer goes on
        np.testing.assert_array_equal(first, np.arange(6.0).reshape(2, 3).T)
        process.stdin.write(b"\n")
        process.stdin.close()
        assert [frame.tolist() for frame in frames] == [4.0]


def test_a_closed_pipe_is_left_to_the_command_line() -> None:
    class Closed(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: Any) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        write_npy(Closed(), np.zeros(4))  # type: ignore[arg-type]
