"""BART's .cfl: its dimensions become the axes that the house has, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from es_cli.data.readers import array_header, open_array, read_geometry
from es_cli.data.stacks import open_stack
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError
from es_cli.spec.schema import Source

RNG = np.random.default_rng(6)


def save(path: Path, dims: dict[int, int]) -> np.ndarray:
    """A .cfl with these lengths of BART's 16 dimensions; its array, as BART's own reader for Python gives it."""
    shape = tuple(dims.get(n, 1) for n in range(16))
    array = (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)
    path.write_bytes(array.tobytes(order="F"))
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, shape)) + " \n# Command\nphantom -x5 k\n")
    return array.squeeze()


@pytest.mark.parametrize(
    ("dims", "axes", "order"),
    [
        ({0: 5, 1: 4}, ("slice", "read", "phs1"), (0, 1)),
        ({0: 5, 1: 4, 3: 3}, ("slice", "coil", "read", "phs1"), (2, 0, 1)),
        ({0: 5, 1: 4, 2: 6, 3: 3}, ("slice", "coil", "phs2", "read", "phs1"), (3, 2, 0, 1)),
        ({0: 5, 1: 4, 13: 7}, ("slice", "read", "phs1"), (2, 0, 1)),
        ({0: 5, 1: 4, 3: 3, 13: 7}, ("slice", "coil", "read", "phs1"), (3, 2, 0, 1)),
        ({0: 5, 1: 4, 3: 3, 10: 2, 13: 7}, ("slice", "time", "coil", "read", "phs1"), (4, 3, 2, 0, 1)),
        ({0: 5, 1: 4, 15: 2}, ("batch", "read", "phs1"), (2, 0, 1)),
        ({1: 4, 13: 7}, ("slice", "read", "phs1"), (1, 0)),
    ],
)
def test_dimensions_and_back(tmp_path: Path, dims: dict[int, int], axes: tuple[str, ...], order: tuple[int, ...]) -> None:
    raw = save(tmp_path / "a.cfl", dims)
    got, geometry = open_array(tmp_path / "a.cfl"), read_geometry(tmp_path / "a.cfl")
    assert got.dtype == np.complex64 and geometry is not None and geometry.axes == axes
    assert array_header(tmp_path / "a.cfl") == (got.shape, np.dtype(np.complex64))
    np.testing.assert_array_equal(got.squeeze(), raw.transpose(order))
    write_array(tmp_path / "b.cfl", got, geometry)
    assert (tmp_path / "b.cfl").read_bytes() == (tmp_path / "a.cfl").read_bytes()
    assert (tmp_path / "b.hdr").read_text().split("\n")[1].split() == [str(dims.get(n, 1)) for n in range(16)]


@pytest.mark.parametrize(
    ("shape", "dims"), [((6, 8), {0: 6, 1: 8}), ((5, 6, 8), {13: 5, 0: 6, 1: 8}), ((5, 3, 6, 8), {13: 5, 3: 3, 0: 6, 1: 8}), ((2, 3, 4, 6, 8), {13: 2, 3: 3, 2: 4, 0: 6, 1: 8})]
)
@pytest.mark.parametrize("dtype", ["f4", "u2", "c8", "c16"])
def test_arrays_without_geometry(tmp_path: Path, shape: tuple[int, ...], dims: dict[int, int], dtype: str) -> None:
    array = (RNG.random(shape) * 50).astype(dtype)
    write_array(tmp_path / "a.cfl", array)
    assert (tmp_path / "a.hdr").read_text().split("\n")[1].split() == [str(dims.get(n, 1)) for n in range(16)]
    got = open_array(tmp_path / "a.cfl")
    np.testing.assert_array_equal(got, array.reshape(got.shape).astype(np.complex64))
    assert got.shape == (shape if len(shape) > 2 else (1, *shape))


def test_it_is_mapped_and_read_only(tmp_path: Path) -> None:
    save(tmp_path / "a.cfl", {0: 5, 1: 4, 3: 3, 13: 7})
    base = got = open_array(tmp_path / "a.cfl")
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not got.flags.writeable


def test_a_folder_of_scans(tmp_path: Path) -> None:
    first, second = (save(tmp_path / name, {0: 5, 1: 4, 3: 3, 13: n}) for name, n in [("a.cfl", 2), ("b.cfl", 3)])
    stack = open_stack(Source(file=str(tmp_path)), pictures=False, seed=0)
    assert stack.groups is not None and stack.groups.tolist() == [0, 0, 1, 1, 1] and stack.sample_shape == (3, 5, 4)
    np.testing.assert_array_equal(stack.read([4, 1]), np.stack([second[..., 2].transpose(2, 0, 1), first[..., 1].transpose(2, 0, 1)]))


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("# Dimensions\n5 4 1 1\n", None),
        ("# Dimensions\n1000000 1000000 100\n", "claims 800000000000000 bytes, and the file holds 160"),
        ("# Dimensions\n5 3\n", "claims 120 bytes"),
        ("# Dimensions\n5 -4\n", "no line of dimensions"),
        ("# Dimensions\n5 0\n", "no line of dimensions"),
        ("# Dimensions\n" + "9" * 5000 + " 4\n", "no line of dimensions"),
        ("# Dimensions\n" + "1 " * 17 + "\n", "no line of dimensions"),
        ("# Dimensions\n", "no line of dimensions"),
        ("# Dimensions\n5 ٤\n", "no line of dimensions"),
        ("", "no line of dimensions"),
        (None, "header of the .cfl is missing"),
    ],
)
def test_headers(tmp_path: Path, header: str | None, word: str | None) -> None:
    save(tmp_path / "a.cfl", {0: 5, 1: 4})
    (tmp_path / "a.hdr").unlink()
    if header is not None:
        (tmp_path / "a.hdr").write_text(header, encoding="utf-8")
    if word is None:
        assert open_array(tmp_path / "a.cfl").shape == (1, 5, 4)
        return
    with pytest.raises(DataError, match=word) as caught:
        open_array(tmp_path / "a.cfl")
    assert caught.value.fault.where and caught.value.fault.hint


def test_names_that_are_not_meant(tmp_path: Path) -> None:
    save(tmp_path / "a.cfl", {0: 5, 1: 4})
    with pytest.raises(DataError, match="name a.cfl"):
        open_array(tmp_path / "a.hdr")
    with pytest.raises(DataError, match="without a key"):
        open_array(tmp_path / "a.cfl", "x")
    with pytest.raises(OutputError, match="name the .cfl"):
        write_array(tmp_path / "b.hdr", np.zeros((4, 4)))
    with pytest.raises(OutputError, match="no place in BART's dimensions"):
        write_array(tmp_path / "b.cfl", np.zeros(4))
    assert not (tmp_path / "b.cfl").exists() and not (tmp_path / "b.hdr").exists()
