"""NIfTI, through nibabel. The file's axes (x, y, z, t, …) are the array's in reverse, (…, t, z, y, x), which is how they lie on disk.

So a volume's samples are its slices along z, rows y and columns x, and those of a series of volumes are the volumes. Nothing is
reoriented. Axes of length 1 after z are left out, and a file of one slice has a z axis of length 1.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from es_cli.data.files import suffix_of
from es_cli.data.formats.base import ArrayReader, check_claim, decoding, imported
from es_cli.data.geometry import MILLIMETRES, SPACES, Geometry, as_affine
from es_cli.data.npy import DAMAGED, Header, check_dtype
from es_cli.errors import DataError, OutputError

AXES = ("u", "w", "v", "t", "z", "y", "x")  # of a file with seven; v are vectors, w and u have no name in the standard
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
SHORT = 32767  # the longest axis that the first version of the format can hold
STORED = {np.dtype(np.bool_): np.uint8, np.dtype(np.float16): np.float32}  # what the format has no type for


class Nifti(ArrayReader):
    """A .nii, mapped from disk where its values are stored unscaled, or a .nii.gz, read whole.

    Scaled values are floats: 32 bit where they are stored in up to 16 bit or as such floats, else 64 bit.
    """

    @property
    def by_rows(self) -> bool:
        if suffix_of(self.path) != ".nii":
            return False  # it can only be unpacked from its beginning
        with self._opened(None) as image:
            return _scaled(image.dataobj) or not image.get_data_dtype().isnative

    def header(self, key: str | None) -> Header:
        with self._opened(key) as image:
            return Header(_shape(image)[::-1], _dtype(image), "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        with self._opened(key) as image:
            proxy = image.dataobj
            values = np.asarray(proxy).astype(_dtype(image), copy=False) if _scaled(proxy) else proxy.get_unscaled()
            return values.reshape(_shape(image), order="F").T

    def read_rows(self, key: str | None, rows: list[int]) -> np.ndarray:
        with self._opened(key) as image:
            shape, beyond = _shape(image), len(image.shape) - len(_shape(image))
            out = np.empty((len(rows), *shape[-2::-1]), _dtype(image))
            for place, row in enumerate(rows):
                # a file of two axes has one sample
                index = (..., row, *(0,) * beyond) if beyond >= 0 else ...
                out[place] = np.asarray(image.dataobj[index]).T
            return out

    def geometry(self, key: str | None) -> Geometry:
        with self._opened(key) as image:
            header = image.header
            length, time = header.get_xyzt_units()
            scale = MILLIMETRES.get({"meter": "m", "micron": "um"}.get(length, length), 1.0)
            zooms = [float(n) for n in header.get_zooms()] + [0.0]
            count = len(_shape(image))
            units = [scale] * 3 + [SECONDS.get(time, 1.0)] + [1.0] * 3
            spacing = tuple(abs(zoom) * unit for zoom, unit in zip(zooms[:count], units, strict=False))
            affine = np.asarray(image.affine, np.float64) * np.array([[scale], [scale], [scale], [1.0]])
            code = max(int(header["sform_code"]), int(header["qform_code"]) if int(header["sform_code"]) == 0 else 0)
            space = SPACES[code] if 0 <= code < len(SPACES) else "unknown"
            return Geometry("nifti", str(header.get_data_dtype()), AXES[-count:], spacing[::-1], as_affine(affine), space)

    @contextmanager
    def _opened(self, key: str | None) -> Iterator[Any]:
        """The image, its claims checked against what the file holds."""
        if key is not None:
            raise DataError("a NIfTI file holds one array, without a key", where=str(self.path), hint="leave key out")
        nibabel = imported("nibabel", self.path)
        with decoding(self.path), imported("nibabel.imageglobals", self.path).LoggingOutputSuppressor():
            image = nibabel.load(self.path, mmap="r")
            if not isinstance(image, nibabel.Nifti1Pair):
                raise DataError("not in NIfTI format", where=str(self.path), hint=DAMAGED)
            check_dtype(image.get_data_dtype(), str(self.path))
            shape, held = tuple(int(n) for n in image.shape), self.path.stat().st_size
            if len(shape) < 2 or min(shape) < 1:
                raise DataError(f"the header claims the shape {shape}", where=str(self.path), hint=DAMAGED)
            claimed = Header(shape, image.get_data_dtype(), "F", 0).nbytes
            if suffix_of(self.path) == ".nii.gz":
                check_claim(claimed, held, str(self.path))
                check_claim(image.dataobj.offset, held, str(self.path))
            elif image.dataobj.offset + claimed > held:
                what = f"cut short: shape {shape} and type {image.get_data_dtype()} need {claimed} bytes, and the file holds {held}"
                raise DataError(what, where=str(self.path), hint=DAMAGED)
            yield image


def write_nifti(file: IO[bytes], path: Path, array: np.ndarray, geometry: Geometry | None, comment: str = "") -> None:
    """Write an array (…, z, y, x), or (y, x) of one slice, with voxel size and position where they are known, else 1 mm.

    `comment` follows the header, "": none. Types stay, but bool becomes uint8 and float16 float32. Equal arrays give equal bytes. Raises OutputError for what the format cannot hold.
    """
    nibabel = imported("nibabel", path, writing=True)
    values = np.asarray(array)[None] if array.ndim == 2 else np.asarray(array)
    values = values.astype(STORED.get(values.dtype, values.dtype), copy=False)
    if not 3 <= values.ndim <= len(AXES) or values.dtype.itemsize > 16:
        raise OutputError(f"NIfTI has no {values.dtype} arrays of shape {array.shape}", where=str(path), hint="write it as .npy")
    with imported("nibabel.imageglobals", path).LoggingOutputSuppressor():
        kind = nibabel.Nifti2Image if max(values.shape) > SHORT else nibabel.Nifti1Image
        image = kind(values.T, _affine(geometry), dtype=values.dtype)
        image.header.set_xyzt_units("mm", "sec")
        if geometry is not None:
            space = SPACES.index(geometry.space) if geometry.affine is not None else 0
            image.set_sform(_affine(geometry), code=space or (1 if geometry.affine is not None else 0))
            if geometry.spacing is not None and len(geometry.spacing) == values.ndim:
                image.header.set_zooms([n if n > 0 else 1.0 for n in geometry.spacing[::-1]])
        if comment:
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", comment.encode()))
        if suffix_of(path) == ".nii.gz":
            # without name and clock
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def _affine(geometry: Geometry | None) -> np.ndarray:
    if geometry is not None and geometry.affine is not None:
        return np.array(geometry.affine)
    return np.diag([*((None if geometry is None else geometry.voxel_size) or (1.0, 1.0, 1.0)), 1.0])


def _shape(image: Any) -> tuple[int, ...]:
    """(x, y, z, …) without axes of length 1 at the end, at least three."""
    shape = [int(n) for n in image.shape]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape) if len(shape) >= 3 else (*shape, 1)


def _scaled(proxy: Any) -> bool:
    return bool(proxy.slope != 1 or proxy.inter != 0)


def _dtype(image: Any) -> np.dtype:
    stored = image.get_data_dtype()
    if not _scaled(image.dataobj):
        return stored
    if stored.kind == "c":
        return stored.newbyteorder("=")
    return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)
