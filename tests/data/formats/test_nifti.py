"""NIfTI: slices along z are samples, values, types and voxel sizes survive, and a header is not believed."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from es_cli.data.geometry import Geometry
from es_cli.data.readers import array_header, open_array, read_geometry
from es_cli.data.stacks import ArrayStack, RowStack, open_stack
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError
from es_cli.spec.schema import Source

RNG = np.random.default_rng(4)
FILE = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)  # x, y, z
AFFINE = np.array([[-0.7, 0.1, 0, 12], [0.1, 1.1, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def saved(path: Path, values: np.ndarray = FILE) -> Path:
    image = nibabel.Nifti1Image(values, AFFINE, dtype=values.dtype)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def refused(path: Path, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        open_array(path)
    assert path.name in caught.value.fault.where and caught.value.fault.hint


def patched(path: Path, offset: int, content: bytes) -> Path:
    raw = bytearray(path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(content)] = content
    path.write_bytes(raw if path.suffix != ".gz" else gzip.compress(bytes(raw)))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "f4", "f8", "c8", "c16"])
def test_slices_along_z_are_samples(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = saved(tmp_path / f"a{suffix}", FILE.astype(dtype))
    got = open_array(path)
    assert got.dtype == np.dtype(dtype) and array_header(path) == ((3, 4, 5), np.dtype(dtype))
    np.testing.assert_array_equal(got, FILE.transpose(2, 1, 0))


def test_an_unscaled_file_is_mapped(tmp_path: Path) -> None:
    stack = open_stack(Source(file=str(saved(tmp_path / "a.nii"))), pictures=False, seed=0)
    assert isinstance(stack, ArrayStack)
    base = stack.array
    while not isinstance(base, np.memmap):
        base = base.base
    assert not stack.array.flags.writeable
    assert stack.names[2].endswith("a.nii[2]")


@pytest.mark.parametrize(("stored", "dtype"), [("i2", "f4"), ("u1", "f4"), ("i4", "f8"), ("f4", "f4"), ("f8", "f8")])
def test_scaled_values_are_read_by_slices(tmp_path: Path, stored: str, dtype: str) -> None:
    path = patched(saved(tmp_path / "a.nii", FILE.astype(stored)), 112, np.array([0.5, -10], "<f4").tobytes())  # scl_slope, scl_inter
    stack = open_stack(Source(file=str(path)), pictures=False, seed=0)
    assert isinstance(stack, RowStack)
    expected = FILE.transpose(2, 1, 0) * 0.5 - 10
    for got in (stack.read([2, 0]), open_array(path)[[2, 0]]):
        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got, expected[[2, 0]])
    geometry = read_geometry(path)
    assert geometry is not None and np.dtype(geometry.dtype) == np.dtype(stored)


def test_big_endian_files(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(FILE, AFFINE, header=nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    nibabel.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    stack = open_stack(Source(file=str(tmp_path / "a.nii")), pictures=False, seed=0)
    np.testing.assert_array_equal(stack.read([1]), FILE.transpose(2, 1, 0)[1:2])
    assert open_array(tmp_path / "a.nii").dtype.isnative


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 4), (1, 4, 5)), ((5, 4, 1), (1, 4, 5)), ((5, 4, 3, 1), (3, 4, 5)), ((5, 4, 3, 2), (2, 3, 4, 5)), ((5, 4, 3, 1, 2), (2, 1, 3, 4, 5))],
)
@pytest.mark.parametrize("slope", [None, 2.0])
def test_ranks(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...], slope: float | None) -> None:
    values = RNG.integers(0, 99, shape).astype(np.int16)
    path = saved(tmp_path / "a.nii", values)
    if slope is not None:
        patched(path, 112, np.array([slope, 0], "<f4").tobytes())
    wanted = values.T.reshape(expected) * (slope or 1)
    np.testing.assert_array_equal(open_array(path), wanted)
    np.testing.assert_array_equal(open_stack(Source(file=str(path)), pictures=False, seed=0).read([expected[0] - 1]), wanted[-1:])
    geometry = read_geometry(path)
    assert geometry is not None and len(geometry.axes) == len(expected) and geometry.axes[-3:] == ("z", "y", "x")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8", "c8"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2)])
def test_a_round_trip_keeps_everything(tmp_path: Path, suffix: str, dtype: str, shape: tuple[int, ...]) -> None:
    image = nibabel.Nifti1Image(RNG.integers(0, 99, shape).astype(dtype), AFFINE, dtype=np.dtype(dtype))
    image.set_sform(AFFINE, "mni")
    image.header.set_zooms([0.7, 1.1, 2.5, 1.7][: len(shape)])
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / f"a{suffix}")
    geometry = read_geometry(tmp_path / f"a{suffix}")
    assert geometry is not None and geometry.space == "mni"
    write_array(tmp_path / f"b{suffix}", open_array(tmp_path / f"a{suffix}"), geometry)
    made = nibabel.load(tmp_path / f"b{suffix}")
    assert made.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(image.dataobj))
    np.testing.assert_allclose(made.affine, image.affine, atol=1e-6)
    np.testing.assert_allclose(made.header.get_zooms(), image.header.get_zooms(), rtol=1e-6)
    assert made.header.get_xyzt_units() == ("mm", "sec")
    assert read_geometry(tmp_path / f"b{suffix}") == geometry


def test_lengths_come_in_millimetres_and_seconds(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3, 2), np.float32), np.diag([500.0, 600, 700, 1]))
    image.header.set_xyzt_units("micron", "msec")
    image.header.set_zooms((500, 600, 700, 2000))
    nibabel.save(image, tmp_path / "a.nii")
    geometry = read_geometry(tmp_path / "a.nii")
    assert geometry is not None and geometry.affine is not None
    np.testing.assert_allclose(geometry.spacing or (), (2, 0.7, 0.6, 0.5), rtol=1e-6)
    np.testing.assert_allclose(geometry.voxel_size or (), (0.5, 0.6, 0.7), rtol=1e-6)
    np.testing.assert_allclose(np.diag(geometry.affine), (0.5, 0.6, 0.7, 1), rtol=1e-6)


@pytest.mark.parametrize(("given", "stored"), [("?", "u1"), ("f2", "f4")])
def test_types_that_the_format_lacks(tmp_path: Path, given: str, stored: str) -> None:
    array = RNG.integers(0, 2, (2, 3, 4)).astype(given)
    write_array(tmp_path / "a.nii", array)
    got = open_array(tmp_path / "a.nii")
    assert got.dtype == np.dtype(stored)
    np.testing.assert_array_equal(got, array)


def test_without_geometry_voxels_are_of_one_millimetre(tmp_path: Path) -> None:
    write_array(tmp_path / "a.nii", RNG.random((6, 8)))
    assert open_array(tmp_path / "a.nii").shape == (1, 6, 8)
    geometry = read_geometry(tmp_path / "a.nii")
    assert geometry is not None and geometry.voxel_size == (1, 1, 1)
    with pytest.raises(OutputError, match="shape"):
        write_array(tmp_path / "b.nii", np.zeros(4))


def test_more_axes_than_the_geometry_has(tmp_path: Path) -> None:
    geometry = Geometry("nifti", "float32", ("z", "y", "x"), (2.0, 1.0, 1.0))
    write_array(tmp_path / "a.nii", np.zeros((3, 2, 4, 5), np.float32), geometry)
    made = read_geometry(tmp_path / "a.nii")
    assert made is not None and made.axes == ("t", "z", "y", "x") and made.voxel_size == (1, 1, 1)


def test_an_axis_longer_than_the_first_version_holds(tmp_path: Path) -> None:
    array = np.arange(40_000, dtype=np.int32).reshape(40_000, 1, 1)
    write_array(tmp_path / "a.nii", array)
    np.testing.assert_array_equal(open_array(tmp_path / "a.nii"), array)


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    for name in ["a.nii.gz", "b.nii.gz"]:
        write_array(tmp_path / name, FILE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_terabytes(tmp_path: Path, suffix: str) -> None:
    dims = np.array([3, 30000, 30000, 10000, 1, 1, 1, 1], "<i2").tobytes()
    refused(patched(saved(tmp_path / f"a{suffix}"), 40, dims), "18000000000000 bytes")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.7, 0.98])
def test_truncated_files(tmp_path: Path, suffix: str, part: float) -> None:
    path = saved(tmp_path / f"a{suffix}", RNG.integers(0, 9999, (20, 20, 9)).astype(np.int16))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(path, "not a whole|cut short")


def test_what_is_no_number(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, AFFINE), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "no numbers")
    with pytest.raises(DataError, match="without a key"):
        open_array(saved(tmp_path / "b.nii"), "x")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_random_damage_is_answered_and_quiet(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, rng, answers = saved(tmp_path / f"a{suffix}"), np.random.default_rng(5), 0
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 352), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_array(path)
            read_geometry(path)
        except DataError:
            answers += 1
    assert answers > 0
    assert capfd.readouterr().err == ""


def test_a_strange_header_is_read_in_silence(tmp_path: Path, python) -> None:
    patched(saved(tmp_path / "a.nii"), 80, np.array([-1], "<f4").tobytes())  # a negative voxel size, of which nibabel would tell
    code = "import sys; from pathlib import Path; from es_cli.data import readers; readers.open_array(Path('a.nii')); readers.read_geometry(Path('a.nii'))"
    assert python(code).stderr == b""


def test_a_folder_of_volumes(tmp_path: Path) -> None:
    for name, values in [("a.nii", FILE), ("b.nii.gz", FILE[..., :2] + 100)]:
        saved(tmp_path / name, values)
    stack = open_stack(Source(file=str(tmp_path)), pictures=False, seed=0)
    assert len(stack) == 5 and stack.groups is not None and stack.groups.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(stack.read([4, 0, 4]), np.stack([FILE[..., 1].T + 100, FILE[..., 0].T, FILE[..., 1].T + 100]))
    assert stack.names[3].endswith("b.nii.gz[0]")
    saved(tmp_path / "c.nii", FILE[:3])
    stack = open_stack(Source(file=str(tmp_path)), pictures=False, seed=0)
    assert stack.shapes == [(4, 5)] * 5 + [(4, 3)] * 3
    np.testing.assert_array_equal(stack.read([6]), FILE[:3, :, 1].T[None])


def test_volumes_beside_other_arrays(tmp_path: Path) -> None:
    saved(tmp_path / "a.nii")
    np.save(tmp_path / "b.npy", FILE)
    with pytest.raises(DataError, match="mixed: a.nii and b.npy"):
        open_stack(Source(file=str(tmp_path)), pictures=False, seed=0)
