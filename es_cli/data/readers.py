"""Files and pipes → arrays, by suffix. Values, type and axes stay as they are on disk; nothing is ever unpickled.

The leading axis counts samples. What the others are is said where each format is read: `formats/nifti.py` (…, z, y, x), `formats/dicom.py`
(z, y, x), `formats/cfl.py` (slice, coil, read, phs1); in .npy, .npz, .h5, .zarr and .mat they are as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from es_cli.data.archives import Hdf5, Npz
from es_cli.data.conventions import default_key
from es_cli.data.files import ARRAYS, PICTURES, check_file, is_picture, series_files, suffix_of
from es_cli.data.formats.base import ArrayReader
from es_cli.data.formats.cfl import Cfl
from es_cli.data.formats.dicom import DicomSeries
from es_cli.data.formats.matlab import mat_reader
from es_cli.data.formats.nifti import Nifti
from es_cli.data.formats.tiffs import tiff_geometry
from es_cli.data.formats.zarrs import Zarr
from es_cli.data.geometry import Geometry
from es_cli.data.images import read_pages
from es_cli.data.npy import Header, map_npy, read_npy_stream
from es_cli.errors import DataError

__all__ = ["ARRAYS", "PICTURES", "array_header", "open_array", "read_geometry", "read_npy_stream", "reader_of", "suffix_of"]


class Npy(ArrayReader):
    """A .npy, mapped from disk."""

    def header(self, key: str | None) -> Header:
        array = map_npy(self.path)
        return Header(array.shape, array.dtype, "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        return map_npy(self.path)


def open_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array in a file, any numeric dtype in the machine's byte order; .npy, .cfl and unscaled .nii are mapped read-only from disk.

    `key` names one of several arrays in .npz, .h5, .zarr and .mat; None: the only one, or the measurements of fastMRI and deepinv. PNG and
    JPEG are (H, W) or (H, W, 3) integers, TIFF (pages, H, W) where it has several pages. A folder of .dcm files is a series.
    Raises DataError where the file is missing, broken, empty, or holds no numbers, or where the package that reads it is not installed.
    """
    check_file(path)
    if is_picture(path):
        pages = read_pages(path)
        array = pages[0] if len(pages) == 1 else pages
    else:
        array = reader_of(path).read(key or default_key(path))
    if array.size == 0:
        raise DataError(f"the array of shape {array.shape} is empty", where=str(path), hint="it needs at least one sample")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def array_header(path: Path, key: str | None = None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array in a file that is no picture, without reading its values where the format says them. Raises DataError."""
    header = reader_of(check_file(path)).header(key or default_key(path))
    return header.shape, header.dtype


def read_geometry(path: Path, key: str | None = None) -> Geometry | None:
    """Axes, voxel size and position of the array that `open_array` gives; None where the file does not say. Raises DataError."""
    check_file(path)
    if is_picture(path):
        return tiff_geometry(path) if suffix_of(path) in {".tif", ".tiff"} else None
    return reader_of(path).geometry(key or default_key(path))


def reader_of(path: Path) -> ArrayReader:
    """The reader of a file that is no picture, or of a folder of .dcm files. Raises DataError where its kind cannot be told."""
    kinds: dict[str, Callable[[Path], ArrayReader]] = {
        ".npy": Npy,
        ".npz": Npz,
        ".h5": Hdf5,
        ".hdf5": Hdf5,
        ".mat": mat_reader,
        ".nii": Nifti,
        ".nii.gz": Nifti,
        ".cfl": Cfl,
        ".dcm": DicomSeries,
        ".zarr": Zarr,
        ".zarr.zip": Zarr,
    }
    return (DicomSeries if suffix_of(path) not in kinds and series_files(path) else kinds[suffix_of(path)])(path)
