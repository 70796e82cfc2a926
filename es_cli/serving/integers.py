"""Integer images come back as integers of the same type, rounded, and what the rounding did is said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.files import PICTURES, is_picture, series_files, suffix_of
from es_cli.data.images import FULL
from es_cli.data.piecewise import PiecewiseArray
from es_cli.serving.measured import Measured

VOLUMES = (".nii", ".nii.gz", ".dcm")  # with PICTURES, the kinds of files that hold images, and not just any numbers
ROWS = 512  # that are rounded at once


@dataclass
class Rounding:
    """What rounding to `dtype` did: values were multiplied by `scale`, rounded to the nearest integer (halves to even), and `clipped` of `values`
    lay outside of the type's range by more than that. `error` is the root mean square of the change, in units of the integers."""

    dtype: str
    scale: float
    values: int = 0
    clipped: int = 0
    error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": float(f"{self.error:.4g}")}

    def __str__(self) -> str:
        clipped = f", {self.clipped} of {self.values} values clipped to its range" if self.clipped else ""
        return f"rounded to {self.dtype} as the input is (by {self.error:.2g} r.m.s.{clipped}); --float keeps what was computed, where the format can"


def integers_for(measured: Measured, target: Path, image: np.ndarray) -> Rounding | None:
    """How an image is to be rounded for `target`: where both files hold images, and that of the measurements integers; None: it stays as it is."""
    dtype, source = measured.stored, measured.path
    if source is None or dtype is None or dtype.kind not in "iu" or image.dtype.kind != "f":
        return None
    if not (is_picture(source) or suffix_of(source) in VOLUMES or series_files(source)) or suffix_of(target) not in (*PICTURES, *VOLUMES):
        return None
    colour = image.ndim > 2 and image.shape[-3] == 3
    if suffix_of(target) == ".png" and dtype not in ((np.uint8,) if colour else (np.uint8, np.uint16)):
        return None
    return Rounding(dtype.name, FULL[dtype] if is_picture(source) else 1.0)


def rounded(image: np.ndarray | PiecewiseArray, rounding: Rounding, target: Path, within: Path | None) -> np.ndarray | PiecewiseArray:
    """The image as integers; `rounding` is told what that did. One in a file stays in one."""
    if isinstance(image, np.ndarray):
        return _round(image, rounding)
    values = image.read()
    out = PiecewiseArray(target, values.shape, None, np.dtype(rounding.dtype), within)
    for start in range(0, values.shape[-2], ROWS):
        rows = slice(start, min(start + ROWS, values.shape[-2]))
        out.put(0, rows, _round(np.asarray(values[..., rows, :]), rounding))
    del values
    image.discard()
    return out


def _round(image: np.ndarray, rounding: Rounding) -> np.ndarray:
    limits = np.iinfo(rounding.dtype)
    values = image.astype(np.float64) * rounding.scale
    nearest = np.rint(values)
    kept = np.clip(nearest, limits.min, limits.max)
    squares = rounding.error**2 * rounding.values + float(np.square(kept - values).sum())
    rounding.clipped += int((kept != nearest).sum())
    rounding.values += values.size
    rounding.error = (squares / rounding.values) ** 0.5
    # the greatest int64 is no float64
    return np.where(kept >= limits.max, limits.max, np.minimum(kept, np.nextafter(float(limits.max), 0)).astype(rounding.dtype)).astype(rounding.dtype)
