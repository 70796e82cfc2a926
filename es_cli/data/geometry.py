"""Where an array's values lie in space: what its axes count, how far apart they are, and where the first one is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MILLIMETRES = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "nm": 1e-6, "inch": 25.4}
SPACES = ("unknown", "scanner", "aligned", "talairach", "mni", "template")  # the names that NIfTI has
AXES_LIMIT = 16  # as many as BART has
Affine = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Geometry:
    """What a file says about its array beside the values. It names no person, no institution and no date.

    `format` is the kind of file, `dtype` the type of the values in it, before any rescaling. `axes` names what each axis of the array
    counts, such as ("z", "y", "x"). `spacing` is the distance between neighbours along each axis, mm in space and s in time, 0 where
    the file does not say; None where it says nothing. `affine`, 4 × 4, takes (x, y, z, 1) in voxels to mm, x to the right, y to the front,
    z upwards (RAS+, as in NIfTI); `space` is one of SPACES. None: the file does not say.
    """

    format: str
    dtype: str
    axes: tuple[str, ...]
    spacing: tuple[float, ...] | None = None
    affine: Affine | None = None
    space: str = "unknown"

    @property
    def voxel_size(self) -> tuple[float, float, float] | None:
        """mm along x, y and z; None where one of them is not known."""
        if self.spacing is None:
            return None
        held = dict(zip(self.axes, self.spacing, strict=True))
        x, y, z = (held.get(axis, 0.0) for axis in "xyz")
        return (x, y, z) if x and y and z else None

    def fits(self, array: np.ndarray) -> bool:
        """Whether the array has the axes that this describes."""
        return array.ndim == len(self.axes)

    def attributes(self) -> dict[str, Any]:
        """As attributes of an HDF5 or zarr array: lists of names and numbers."""
        held: dict[str, Any] = {"axes": list(self.axes), "space": self.space}
        if self.spacing is not None:
            held["spacing"] = [float(n) for n in self.spacing]
        if self.affine is not None:
            held["affine"] = [[float(n) for n in row] for row in self.affine]
        return held

    @classmethod
    def from_attributes(cls, held: Mapping[str, Any], form: str, array_dtype: np.dtype, ndim: int) -> Geometry | None:
        """The geometry that `attributes` wrote; None where there is none, or where it makes no sense for an array of `ndim` axes."""
        try:
            axes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in held["axes"])
            spacing = tuple(float(n) for n in held["spacing"]) if "spacing" in held else None
            affine = as_affine(held["affine"]) if "affine" in held else None
            space = str(held.get("space", "unknown"))
        except (KeyError, TypeError, ValueError):
            return None
        if len(axes) != ndim or ndim > AXES_LIMIT or (spacing is not None and not (len(spacing) == ndim and all(map(math.isfinite, spacing)))):
            return None
        return cls(form, str(array_dtype), axes, spacing, affine, space if space in SPACES else "unknown")


def as_affine(matrix: Any) -> Affine:
    """A 4 × 4 matrix as nested tuples. Raises ValueError where it is none, or not finite."""
    values = np.asarray(matrix, np.float64)
    if values.shape != (4, 4) or not np.isfinite(values).all():
        raise ValueError("wanted a finite matrix of 4 × 4")
    return tuple(tuple(float(n) for n in row) for row in values)  # type: ignore[misc]
