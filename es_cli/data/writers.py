"""Arrays and bytes → files, whole or not at all, and standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np

from es_cli.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".npy", ".png", ".tif", ".tiff")
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, flushed and then renamed; the folder is made where it is missing.

    Raises OutputError, with nothing left behind and an older file untouched, where that fails.
    """
    with _whole_file(path) as file:
        file.write(content)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array by suffix, whole or not at all.

    .npy: as it is. .tif: as it is, (3, H, W) in colour, complex by magnitude. .png: one image (H, W), (1, H, W) or (3, H, W), with or without
    a batch axis of 1; floats are clipped to [0, 1] and scaled to 8 bit (NaN is black), 8 and 16 bit integers stay, complex numbers and pairs
    (2, H, W) become magnitudes. Raises OutputError for another suffix or type, and for several images in one PNG.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"no writer for {suffix or 'a name without suffix'}", where=str(path), hint=f"es writes {', '.join(SUFFIXES)}")
    if array.dtype.kind not in "biufc":
        raise OutputError(f"values of type {array.dtype} cannot be written", where=str(path), hint="give numbers")
    if suffix == ".npy":
        with _whole_file(path) as file:
            write_npy(file, array)
    elif suffix == ".png":
        picture = _picture(path, array)
        with _whole_file(path) as file:
            picture.save(file, format="PNG")
    else:
        _write_tiff(path, array)


def write_npy(stream: BinaryIO | IO[bytes], array: np.ndarray) -> None:
    """Write one .npy to a stream and flush it, so that whoever reads the pipe has it at once. A closed pipe raises BrokenPipeError."""
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    stream.flush()


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it does not. Raises OutputError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists() and not path.is_file():
            # a device or a pipe is written to; renaming a file over it would destroy it
            with open(path, "wb") as file:
                yield file
            return
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        # short, so that a name of the greatest length still fits
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # also when a signal ends us
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=str(path), hint=_remedy(error)) from error


def _remedy(error: OSError) -> str:
    if error.errno in FULL_DISK:
        return "make room on the disk, or write elsewhere with -o"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "write where you may with -o, or change the folder's permissions"
    return "check the folder's permissions and free space, or give another -o"


def _write_tiff(path: Path, array: np.ndarray) -> None:
    import tifffile

    values = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    if values.ndim < 2:
        raise OutputError(f"an array of shape {array.shape} is no picture", where=str(path), hint="write it as .npy")
    colour = values.ndim > 2 and values.shape[-3] == 3
    if colour:
        values = np.moveaxis(values, -3, -1)
    with _whole_file(path) as file:
        tifffile.imwrite(file, np.ascontiguousarray(values), photometric="rgb" if colour else "minisblack")


def _picture(path: Path, array: np.ndarray) -> Image:
    from PIL import Image

    image = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim == 3 and image.shape[0] == 2:
        image = np.hypot(image[0], image[1])
    if image.ndim == 3 and image.shape[0] in {1, 3}:
        image = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    if image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] != 3):
        raise OutputError(f"an array of shape {array.shape} is no single picture", where=str(path), hint="write it as .npy or .tif")
    if image.dtype.kind == "f":
        image = np.rint(np.clip(np.nan_to_num(image, nan=0.0), 0, 1) * 255).astype(np.uint8)
    if image.dtype not in (np.uint8, np.uint16, np.bool_) or (image.ndim == 3 and image.dtype != np.uint8):
        raise OutputError(f"a PNG cannot hold {image.dtype} pixels of shape {image.shape}", where=str(path), hint="write it as .npy or .tif")
    return Image.fromarray(np.ascontiguousarray(image))
