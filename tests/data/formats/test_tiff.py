"""TIFF: pixel sizes of microscopes are read, and survive a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from es_cli.data.geometry import Geometry
from es_cli.data.readers import open_array, read_geometry
from es_cli.data.writers import write_array
from es_cli.errors import DataError

RNG = np.random.default_rng(10)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize(("axes", "shape"), [("yx", (6, 8)), ("zyx", (5, 6, 8)), ("zyx", (3, 6, 8)), ("tzyx", (2, 3, 6, 8))])
def test_a_round_trip_keeps_pixel_sizes(tmp_path: Path, dtype: str, axes: str, shape: tuple[int, ...]) -> None:
    array = (RNG.random(shape) * 200).astype(dtype)
    geometry = Geometry("tiff", array.dtype.name, tuple(axes), (1.5, 2.0, 0.5, 0.25)[-len(axes) :])
    for name in ["a.tif", "b.tif"]:
        write_array(tmp_path / name, array, geometry)
    got = open_array(tmp_path / "a.tif")
    assert got.dtype == array.dtype and (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    np.testing.assert_array_equal(got.reshape(shape), array)
    if axes == "tzyx":  # pages have one axis, whatever they count
        assert read_geometry(tmp_path / "a.tif") == Geometry("tiff", array.dtype.name, ("page", "y", "x"), (0.0, 0.5, 0.25))
    else:
        assert read_geometry(tmp_path / "a.tif") == geometry


@pytest.mark.parametrize(
    ("options", "spacing"),
    [
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.75, "PhysicalSizeZ": 2}}, (0.002, 0.00075, 0.0005)),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 3}}, (0.003, 0.00025, 0.0005)),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"axes": "ZYX", "unit": "pixel"}}, None),
    ],
)
def test_sizes_that_microscopes_write(tmp_path: Path, options: dict[str, Any], spacing: tuple[float, ...] | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 8), np.uint16), photometric="minisblack", **options)
    geometry = read_geometry(tmp_path / "a.tif")
    assert geometry is not None and geometry.axes == ("z", "y", "x")
    assert geometry.spacing is None if spacing is None else geometry.spacing == pytest.approx(spacing)


def test_the_resolution_of_a_printer_is_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 8), np.uint8), resolution=(72, 72), resolutionunit="inch")
    assert read_geometry(tmp_path / "a.tif") is None


def test_a_damaged_description(tmp_path: Path) -> None:
    write_array(tmp_path / "a.tif", np.zeros((2, 6, 8), np.float32), Geometry("tiff", "float32", ("z", "y", "x"), (1.0, 1.0, 1.0)))
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content.replace(b"<Pixels", b"<Pixies"))
    with pytest.raises(DataError, match="not a whole .tif"):
        read_geometry(tmp_path / "a.tif")


def test_types_that_ome_lacks_are_written_without_sizes(tmp_path: Path) -> None:
    array = RNG.integers(0, 9, (2, 6, 8))
    write_array(tmp_path / "a.tif", array, Geometry("tiff", "int64", ("z", "y", "x"), (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(open_array(tmp_path / "a.tif"), array)
    assert read_geometry(tmp_path / "a.tif") is None
