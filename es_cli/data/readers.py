"""Files and streams → arrays, by suffix. Nothing is ever unpickled, and no header is believed beyond the size of its file."""

from __future__ import annotations

import difflib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from es_cli.errors import DataError

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
ARRAYS = {".npy", ".npz", ".h5", ".hdf5"}
SUBJECTS = ("subject", "patient")
FRAME_LIMIT = 1 << 34  # bytes of one array of a stream, of which the length cannot be checked beforehand
MAGIC = b"\x93NUMPY"


def open_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array in a file: .npy memory-mapped and read-only, .npz and .h5 by `key`, pictures as (H, W) or (H, W, C) integers.

    `key` None is the only array of the file. Raises DataError where the file is missing, broken, of another kind, or holds no numbers.
    """
    if not path.exists():
        raise DataError("there is no such file", where=str(path), hint="check the path; paths in a spec are relative to the spec")
    if path.is_dir():
        raise DataError("this is a folder, and one array was wanted", where=str(path), hint="name a file in it")
    suffix = path.suffix.lower()
    try:
        array = _OPENERS[suffix](path, key)
    except KeyError:
        known = ", ".join(sorted(_OPENERS))
        raise DataError(f"no reader for {suffix or 'a file without suffix'}", where=str(path), hint=f"es reads {known}") from None
    except PermissionError as error:
        raise DataError("not allowed to read this file", where=str(path), hint="check its permissions") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SyntaxError, MemoryError) as error:
        reason = " ".join(str(error).split())[:140]
        raise DataError(f"not a whole {suffix} file: {reason}", where=str(path), hint="write or copy it again") from error
    return _numbers(array, path)


def subjects(path: Path) -> np.ndarray | None:
    """The array `subject` or `patient` (n,) beside the data in an .npz or .h5 file, as integers; None where there is none."""
    if path.suffix.lower() not in {".npz", ".h5", ".hdf5"}:
        return None
    for name in SUBJECTS:
        if name in _keys(path):
            return np.unique(open_array(path, name), return_inverse=True)[1]
    return None


def read_npy_stream(stream: BinaryIO) -> Iterator[np.ndarray]:
    """The arrays of a stream of .npy files, one after another; works on pipes, which cannot seek. Raises DataError where one is cut short."""
    number = 0
    while head := _exactly(stream, len(MAGIC), number, may_end=True):
        number += 1
        if head != MAGIC:
            raise DataError(f"array {number} of the stream is no .npy", where="standard input", hint="pipe in what numpy.save writes")
        version = _exactly(stream, 2, number)
        length_bytes = _exactly(stream, 2 if version[0] == 1 else 4, number)
        header = _exactly(stream, int.from_bytes(length_bytes, "little"), number)
        shape, fortran, dtype = _npy_header(io.BytesIO(head + version + length_bytes + header), "standard input")
        count = math.prod(shape)
        if count * dtype.itemsize > FRAME_LIMIT:
            raise DataError(f"array {number} claims {count * dtype.itemsize} bytes", where="standard input", hint="send smaller arrays")
        flat = np.frombuffer(_exactly(stream, count * dtype.itemsize, number), dtype)
        yield _numbers(flat.reshape(shape, order="F" if fortran else "C"), Path("standard input"))


def _exactly(stream: BinaryIO, size: int, number: int, may_end: bool = False) -> bytes:
    parts: list[bytes] = []
    missing = size
    while missing:
        part = stream.read(min(missing, 1 << 20))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    if missing and not (may_end and missing == size):
        raise DataError(f"array {number} ends {missing} bytes too early", where="standard input", hint="the command before the pipe was cut short")
    return b"".join(parts)


def _open_npy(path: Path, key: str | None) -> np.ndarray:
    with path.open("rb") as file:
        shape, _, dtype = _npy_header(file, str(path))
        start = file.tell()
    wanted, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - start
    if wanted > held:
        raise DataError(f"the file is cut short: {held} bytes of {wanted}", where=str(path), hint="write or copy it again")
    if not wanted:
        raise DataError(f"the array of shape {shape} is empty", where=str(path))
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npy_header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError("the file holds pickled objects, which could run code; it is not read", where=where, hint="save a plain array of numbers")
    return shape, fortran, dtype


def _open_npz(path: Path, key: str | None) -> np.ndarray:
    name = _choose(_keys(path), key, path)
    with zipfile.ZipFile(path) as archive:
        member = next(m for m in archive.infolist() if m.filename in {name, name + ".npy"})
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file, str(path))  # type: ignore[arg-type]
            wanted = math.prod(shape) * dtype.itemsize
            if wanted > member.file_size:
                raise DataError(f"{name} claims {wanted} bytes and holds {member.file_size}", where=str(path), hint="write it again")
            if member.file_size > 1000 * max(member.compress_size, 1) and member.file_size > 1 << 28:
                raise DataError(f"{name} unpacks to {member.file_size} bytes, over 1000 times its size", where=str(path), hint="save it with numpy.save")
            flat = np.frombuffer(file.read(wanted), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _open_h5(path: Path, key: str | None) -> np.ndarray:
    import h5py

    name = _choose(_keys(path), key, path)
    with h5py.File(path, "r") as file:
        return np.asarray(file[name][()])


def _open_picture(path: Path, key: str | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.load()
        turned = ImageOps.exif_transpose(image)
        if turned.mode in {"P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "PA"}:
            turned = turned.convert("RGB")
        elif turned.mode in {"LA", "1"}:
            turned = turned.convert("L")
        return np.asarray(turned)


def _open_tiff(path: Path, key: str | None) -> np.ndarray:
    import tifffile

    try:
        return np.asarray(tifffile.imread(path))
    except (tifffile.TiffFileError, KeyError) as error:
        raise ValueError(str(error)) from error


_OPENERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".h5": _open_h5,
    ".hdf5": _open_h5,
    ".png": _open_picture,
    ".jpg": _open_picture,
    ".jpeg": _open_picture,
    ".tif": _open_tiff,
    ".tiff": _open_tiff,
}


def _keys(path: Path) -> list[str]:
    """Names of the arrays in an .npz or .h5 file."""
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    import h5py

    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _choose(names: list[str], key: str | None, path: Path) -> str:
    arrays = [name for name in names if name.split("/")[-1] not in SUBJECTS]
    if key is None and len(arrays) == 1:
        return arrays[0]
    if key in names:
        return str(key)
    listed = ", ".join(names[:8]) or "nothing"
    if key is None:
        raise DataError(f"the file holds {listed}", where=str(path), hint="say which: {file: …, key: NAME}")
    close = difflib.get_close_matches(key, names, 1)
    raise DataError(f"no array {key}; the file holds {listed}", where=str(path), hint=f"did you mean {close[0]}?" if close else "name one of these")


def _numbers(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "biufc":
        raise DataError(f"the array holds {array.dtype}, no numbers", where=str(path), hint="save real or complex numbers")
    return array
