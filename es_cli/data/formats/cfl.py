"""BART's .cfl with its .hdr: complex64, 16 dimensions in Fortran order, mapped from disk.

The array is (…, coil, phs2, read, phs1): read-out along the rows and phase encoding along the columns, as in fastMRI. Axes of length 1 are
left out, but read and phs1 stay, and the array begins with an axis of samples: of `slice` with length 1 where no dimension beyond the
coils is longer. So images and k-space of one slice are (1, read, phs1) or (1, coil, read, phs1); of a volume, whose third direction
is phs2, (1, phs2, read, phs1). Source: https://mrirecon.github.io/bart and the files `doc/` and `src/misc/mri.h` of BART.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np

from es_cli.data.files import reading
from es_cli.data.formats.base import ArrayReader
from es_cli.data.geometry import Geometry
from es_cli.data.npy import DAMAGED, Header
from es_cli.errors import DataError, OutputError

DIMENSIONS = (
    "read", "phs1", "phs2", "coil", "maps", "te", "coeff", "coeff2", "iter", "cshift", "time", "time2", "level", "slice", "avg", "batch",
)  # fmt: skip
# what the axes of an array mean that does not come from a .cfl, by their number
PLAIN = {
    2: ("read", "phs1"),
    3: ("slice", "read", "phs1"),
    4: ("slice", "coil", "read", "phs1"),
    5: ("slice", "coil", "phs2", "read", "phs1"),
}
HEADER_LIMIT = 1 << 20  # bytes; BART adds the commands that made the file
BEYOND_COILS = 4


class Cfl(ArrayReader):
    """A .cfl, whose .hdr lies beside it."""

    def header(self, key: str | None) -> Header:
        dims, axes = self._layout(key)
        return Header(_shape(dims, axes), np.dtype("<c8"), "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        dims, axes = self._layout(key)
        with reading(self.path):
            mapped = np.memmap(self.path, "<c8", "r", 0, dims, "F")
        kept = [DIMENSIONS.index(axis) for axis in axes]
        others = tuple(n for n in range(len(dims)) if n not in kept)
        return np.transpose(mapped, (*others, *kept)).reshape(_shape(dims, axes))

    def geometry(self, key: str | None) -> Geometry:
        return Geometry("cfl", "complex64", self._layout(key)[1])

    def _layout(self, key: str | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The 16 dimensions, and the names of those that are the array's axes."""
        if key is not None:
            raise DataError("a .cfl holds one array, without a key", where=str(self.path), hint="leave key out")
        dims = _read_dimensions(self.path.with_suffix(".hdr"))
        with reading(self.path):
            held = self.path.stat().st_size
        if 8 * math.prod(dims) != held:
            what = f"its .hdr claims {8 * math.prod(dims)} bytes, and the file holds {held}"
            raise DataError(what, where=str(self.path), hint="the two do not belong together, or the file is cut short")
        outer = [n for n in range(len(dims) - 1, 1, -1) if dims[n] > 1]
        if not any(n >= BEYOND_COILS for n in outer):
            outer.insert(0, DIMENSIONS.index("slice"))
        return dims, (*(DIMENSIONS[n] for n in outer), "read", "phs1")


def write_cfl(values: IO[bytes], header: IO[bytes], path: Path, array: np.ndarray, geometry: Geometry | None) -> None:
    """Write an array as complex64, and its dimensions. Its axes are those of a `geometry` read from a .cfl, else (read, phs1) with samples
    (slice) before them, coils between the two, and phs2 after the coils.

    Raises OutputError for more than five axes without such a geometry.
    """
    axes = geometry.axes if geometry is not None and set(geometry.axes) <= set(DIMENSIONS) else PLAIN.get(array.ndim)
    if axes is None or len(axes) != array.ndim:
        raise OutputError(f"an array of shape {array.shape} has no place in BART's dimensions", where=str(path), hint="write it as .npy")
    dims = [1] * len(DIMENSIONS)
    for axis, length in zip(axes, array.shape, strict=True):
        dims[DIMENSIONS.index(axis)] = length
    # Fortran order of BART's dimensions is C order of their reverse
    order = sorted(range(array.ndim), key=lambda n: -DIMENSIONS.index(axes[n]))
    values.write(np.ascontiguousarray(np.transpose(array, order), "<c8").data)
    header.write(f"# Dimensions\n{' '.join(map(str, dims))}\n".encode())


def _read_dimensions(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        raise DataError("the header of the .cfl is missing", where=str(path), hint="BART keeps the two files together: copy the .hdr too")
    with reading(path), open(path, "rb") as file:
        lines = file.read(HEADER_LIMIT).decode("ascii", "replace").splitlines()
    for line, after in zip(lines, lines[1:], strict=False):
        words = after.split()
        if line.strip() != "# Dimensions" or not 2 <= len(words) <= len(DIMENSIONS):
            continue
        if all(word.isdecimal() and len(word) < 19 and int(word) > 0 for word in words):
            return (*map(int, words), *(1,) * (len(DIMENSIONS) - len(words)))
    raise DataError("the header holds no line of dimensions", where=str(path), hint=DAMAGED)


def _shape(dims: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(dims[DIMENSIONS.index(axis)] for axis in axes)
