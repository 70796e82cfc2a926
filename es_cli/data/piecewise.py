"""An array that is made piece by piece in a file: no more than the piece is in memory, whatever the array's size."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from es_cli.data.files import suffix_of
from es_cli.data.geometry import Geometry
from es_cli.data.npy import map_npy
from es_cli.data.writers import beside, check_within, write_array, writing


class PiecewiseArray:
    """Zeros of `shape` and `dtype`, in a .npy without a name in the folder of `target`, None: in that of temporary files.

    `axis` counts samples, None: it is one. The file goes when the array does, unless `save` gave it its name. Raises OutputError where the disk has no room for it.
    """

    def __init__(self, target: Path | None, shape: tuple[int, ...], axis: int | None, dtype: np.dtype, within: Path | None = None) -> None:
        self.axis, self.within = axis, within
        if target is not None:
            check_within(target, within)
        with writing(target or Path(tempfile.gettempdir())):
            self.file = Path(tempfile.gettempdir()) / f"es-{os.getpid()}-{id(self)}.npy" if target is None else beside(target)
            self._end = weakref.finalize(self, self.file.unlink, missing_ok=True)
            with open(self.file, "xb") as stream:
                header = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                npy_format.write_array_header_1_0(stream, header)
                _reserve(stream.fileno(), stream.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)

    def put(self, samples: slice | int, rows: slice | None, values: np.ndarray) -> None:
        """Fill some samples, or some rows (the last axis but one) of one sample."""
        # mapped anew each time: what was written leaves the memory of this process
        mapped = npy_format.open_memmap(self.file, "r+")
        view = mapped if self.axis is None else np.moveaxis(mapped, self.axis, 0)[samples]
        view[... if rows is None else (..., rows, slice(None))] = values
        mapped.flush()

    def read(self) -> np.ndarray:
        """The array, mapped from its file."""
        return map_npy(self.file)

    def save(self, target: Path, geometry: Geometry | None) -> None:
        """Write it to `target`, by suffix; to .npy at no cost. Raises OutputError."""
        if suffix_of(target) != ".npy" or (target.exists() and not target.is_file()):
            write_array(target, self.read(), geometry, self.within)
        else:
            with writing(target):
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "it is a folder")
                with open(self.file, "rb") as stream:
                    os.fsync(stream.fileno())
                os.replace(self.file, os.path.realpath(target))
        self.discard()

    def discard(self) -> None:
        """Remove the file, if it is still there."""
        self._end()


def _reserve(file: int, size: int) -> None:
    """Take `size` bytes of the disk now: a mapped file that cannot grow ends the process that writes to it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
