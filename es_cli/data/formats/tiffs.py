"""Pixel sizes of TIFF files: OME and ImageJ say them, other files merely have a resolution of printing. Pixels are read in `images.py`."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from es_cli.data.formats.base import decoding
from es_cli.data.geometry import MILLIMETRES, Geometry

OME_AXES = "tzyx"
OME_TYPES = {"u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"}
OME_LENGTH = "µm"  # where an OME file names no unit
ACROSS, DOWN = 282, 283  # the tags of the resolution


def tiff_geometry(path: Path) -> Geometry | None:
    """Axes and pixel size, (page, y, x) or (y, x) and c for colour, as `open_array` gives the pixels; None where the file is of another kind.

    Raises DataError where the file is broken.
    """
    import tifffile

    with decoding(path), open_tiff(path) as file:
        series = file.series[0]
        if file.ome_metadata is not None:
            size = _ome_size(tifffile.xml2dict(file.ome_metadata))
        elif file.imagej_metadata is not None:
            size = _imagej_size(file.imagej_metadata, file.pages[0].tags)
        else:
            return None
        outer = [axis.lower() for axis in series.axes if axis not in "YXS"]
        leading = [] if len(file.pages) == 1 else outer if len(outer) == 1 else ["page"]
        axes = (*leading, "y", "x", *(["c"] if "S" in series.axes else []))
        spacing = tuple(size.get(axis, 0.0) for axis in axes)
        return Geometry("tiff", str(series.dtype), axes, spacing if any(spacing) else None)


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """A TIFF by tifffile, its pages counted."""
    import tifffile

    # an OME file may name others, wherever they lie
    with tifffile.TiffFile(path, _multifile=False) as file:
        len(file.pages)  # or else pages that follow each other in a circle would never end
        yield file


def write_ome(file: IO[bytes], array: np.ndarray, geometry: Geometry) -> None:
    """Write (t, z, y, x), or the last of these, as OME-TIFF with pixel sizes in mm. Equal arrays give equal bytes."""
    import tifffile

    held = dict(zip(geometry.axes, geometry.spacing or (), strict=False))
    metadata: dict[str, Any] = {"axes": "".join(geometry.axes).upper()}
    for axis in "xyz":
        if held.get(axis):
            metadata |= {f"PhysicalSize{axis.upper()}": held[axis], f"PhysicalSize{axis.upper()}Unit": "mm"}
    if held.get("t"):
        metadata |= {"TimeIncrement": held["t"], "TimeIncrementUnit": "s"}
    pixels = np.ascontiguousarray(array)
    # an OME file wants a number that no other has; a random one would make equal runs differ
    metadata["UUID"] = str(uuid.UUID(bytes=hashlib.blake2b(pixels.data, digest_size=16).digest()))
    tifffile.imwrite(file, pixels, photometric="minisblack", ome=True, metadata=metadata)


def is_ome(array: np.ndarray, geometry: Geometry | None) -> bool:
    """Whether OME can hold the array with this geometry."""
    axes = None if geometry is None or geometry.spacing is None else "".join(geometry.axes)
    return axes is not None and OME_AXES.endswith(axes) and array.ndim == len(axes) and array.dtype.str[1:] in OME_TYPES


def _ome_size(described: dict[str, Any]) -> dict[str, float]:
    image = described["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    size = {axis: _length(pixels.get(f"PhysicalSize{axis.upper()}"), pixels.get(f"PhysicalSize{axis.upper()}Unit", OME_LENGTH)) for axis in "xyz"}
    return size | ({"t": float(pixels["TimeIncrement"])} if pixels.get("TimeIncrementUnit", "s") == "s" and "TimeIncrement" in pixels else {})


def _imagej_size(described: dict[str, Any], tags: Any) -> dict[str, float]:
    unit = str(described.get("unit", "")).replace("\\u00B5", "µ")
    size = {"z": _length(described.get("spacing"), unit)}
    for axis, tag in (("x", ACROSS), ("y", DOWN)):
        pixels, units = tags[tag].value if tag in tags else (0, 1)
        size[axis] = _length(units / pixels, unit) if pixels else 0.0
    return size


def _length(value: Any, unit: str) -> float:
    """mm; 0 where value or unit are not known."""
    try:
        length = float(value) * MILLIMETRES.get(unit, 0.0)
    except (TypeError, ValueError):
        return 0.0
    return length if np.isfinite(length) and length > 0 else 0.0
