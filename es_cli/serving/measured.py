"""One input, read: the array as it lies on disk, in the form in which training reads it, and the SHA-256 of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from es_cli.data import images, readers
from es_cli.data.files import is_picture, reading, suffix_of
from es_cli.data.geometry import Geometry
from es_cli.serving.limits import HELD

CHUNK = 1 << 22


@dataclass(frozen=True)
class Measured:
    """The measurements of one input, `where` naming it in faults. `path` and `key` say where it lies, None: on standard input, as array `number`;
    `sha256` is that of the file, None: nobody asked; `stored` is the type of the values in it."""

    where: str
    array: np.ndarray
    path: Path | None = None
    key: str | None = None
    sha256: str | None = None
    stored: np.dtype | None = None
    number: int | None = None

    def opened(self) -> np.ndarray:
        """The array; where it is mapped, anew, so that the pages that were read before can go."""
        return readers.open_array(self.path, self.key) if isinstance(self.array, np.memmap) and self.path is not None else self.array

    def geometry(self, image: np.ndarray) -> Geometry | None:
        """Axes, voxel size and position for an image of the shape of these measurements; None for others, or where the file does not say."""
        return readers.read_geometry(self.path, self.key) if self.path is not None and image.shape == self.array.shape else None


def read_input(path: Path, key: str | None, hashed: bool) -> Measured:
    """A file, a series or a .zarr; pictures as training reads them: in [0, 1], without a channel axis if there was none. Raises DataError."""
    array = readers.open_array(path, key)
    stored = array.dtype
    if is_picture(path) and array.dtype.kind in "bu":
        picture = images.to_picture(array, str(path))
        array = picture[0] if array.ndim == 2 else picture
    if isinstance(array, np.memmap) and array.nbytes <= HELD:
        with reading(path):
            array = np.array(array)  # read here, where it does not keep the network waiting
    return Measured(str(path), array, path, key, sha256_of(path) if hashed else None, stored)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Of a folder, and of a .cfl with its .hdr, that of the lines `digest  name` of their files, as
    sha256sum prints them, sorted by name. Raises DataError."""
    files = [path, path.with_suffix(".hdr")] if suffix_of(path) == ".cfl" else sorted(_files(path)) if path.is_dir() else [path]
    digests = [_sha256(file) for file in files]
    if len(files) == 1 and not path.is_dir():
        return digests[0]
    folder = path if path.is_dir() else path.parent
    lines = sorted(f"{file.relative_to(folder).as_posix()}\0{digest}" for file, digest in zip(files, digests, strict=True))
    text = "".join(f"{digest}  {name}\n" for name, digest in (line.split("\0") for line in lines))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with reading(path), open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
