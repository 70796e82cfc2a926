"""What is made at once, and what is looked at before: how large measurements are, and what the user says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from es_cli.reconstruct import Reconstructor

HELD = 1 << 28  # bytes of measurements that are read as a whole; larger arrays stay on the disk
PLENTY = 1 << 20  # pixels of an image, or values of measurements, that are made at once without looking at the memory


@dataclass(frozen=True)
class Limits:
    """`axis` counts the samples, None: the first one does, if the operator's shape leaves one. `memory` is what the user allows in bytes, None: half
    of what is free. `plan` are the tiles of an image that is made again: side, margin, reach, how many at once; None: as the memory has it."""

    axis: int | None = None
    memory: int | None = None
    plan: tuple[int, int, int, int] | None = None


def is_plain(model: Reconstructor, array: np.ndarray, limits: Limits) -> bool:
    """Whether measurements are made into images at once, without further thought."""
    return limits == Limits() and array.size <= PLENTY and model.takes(array.shape, array.dtype)
