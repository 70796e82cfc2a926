"""Files and pipes → arrays, by suffix. Values, type and axes stay as they are on disk; nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from es_cli.data.archives import Hdf5, Npz
from es_cli.data.files import ARRAYS, PICTURES, check_file, is_picture
from es_cli.data.images import read_pages
from es_cli.data.npy import map_npy, read_npy_stream
from es_cli.errors import DataError

__all__ = ["ARRAYS", "PICTURES", "array_header", "open_archive", "open_array", "read_npy_stream"]


def open_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array in a file, any numeric dtype in the machine's byte order; .npy is mapped read-only from disk.

    `key` names one of several arrays in .npz and .h5; None: the only one. PNG and JPEG are (H, W) or (H, W, 3) integers, TIFF
    (pages, H, W) where it has several pages. Raises DataError where the file is missing, broken, empty, or holds no numbers.
    """
    check_file(path)
    if is_picture(path):
        pages = read_pages(path)
        array = pages[0] if len(pages) == 1 else pages
    else:
        archive = open_archive(path)
        array = map_npy(path) if archive is None else archive.read(key)
    if array.size == 0:
        raise DataError(f"the array of shape {array.shape} is empty", where=str(path), hint="it needs at least one sample")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def array_header(path: Path, key: str | None = None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array in a .npy, .npz or .h5, without reading its values. Raises DataError."""
    archive = open_archive(check_file(path))
    if archive is not None:
        header = archive.header(key)
        return header.shape, header.dtype
    array = map_npy(path)
    return array.shape, array.dtype


def open_archive(path: Path) -> Npz | Hdf5 | None:
    """The file as one that holds arrays under keys; None for a .npy."""
    kinds: dict[str, type[Npz] | type[Hdf5]] = {".npz": Npz, ".h5": Hdf5, ".hdf5": Hdf5}
    kind = kinds.get(path.suffix.lower())
    return None if kind is None else kind(path)
