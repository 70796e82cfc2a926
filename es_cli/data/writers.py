"""Arrays and bytes → files, whole or not at all, and standard output."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from es_cli.errors import OutputError

SUFFIXES = (".npy", ".png", ".tif", ".tiff")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, flushed and then renamed; the folder is made where it is missing.

    Raises OutputError, with nothing left behind and an older file untouched, where that fails.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise OutputError(f"cannot be written: {error.strerror}", where=str(path), hint="check the folder's permissions and free space, or give another -o") from error


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array by suffix: .npy as it is; .tif as float32 or as it is; .png one image, floats clipped to [0, 1] and scaled to 8 bit,
    complex ones by magnitude. Raises OutputError for another suffix, and for several images in one PNG.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"no writer for {suffix or 'a name without suffix'}", where=str(path), hint=f"es writes {', '.join(SUFFIXES)}")
    content = io.BytesIO()
    if suffix == ".npy":
        np.save(content, array, allow_pickle=False)
    elif suffix == ".png":
        _picture(path, array).save(content, format="PNG")
    else:
        import tifffile

        tifffile.imwrite(content, np.abs(array) if np.iscomplexobj(array) else array)
    write_bytes(path, content.getvalue())


def write_npy(stream: BinaryIO, array: np.ndarray) -> None:
    """Write one .npy to a stream and flush it, so that whoever reads the pipe has it at once."""
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    stream.flush()


def _picture(path: Path, array: np.ndarray):  # type: ignore[no-untyped-def]
    from PIL import Image

    image = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    if image.ndim == 3 and image.shape[0] == 2:
        image = np.hypot(image[0], image[1])
    if image.ndim == 3 and image.shape[0] in {1, 3}:
        image = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    if image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] != 3):
        raise OutputError(f"an array of shape {array.shape} is no single picture", where=str(path), hint="write it as .npy or .tif")
    if image.dtype.kind == "f":
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(image)
