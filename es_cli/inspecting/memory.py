"""How many samples one training step can hold, from the size of the image and the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

BUDGET = 3 << 30  # bytes for one step, what a small machine has to spare
MAPS = 12  # feature maps of a scale that a U-Net keeps for the backward pass; 9 to 11.3 were measured on five sizes and widths
FLOAT = 4


def bytes_of_sample(size: Sequence[int], widths: Sequence[int], iterations: int = 1, coils: int = 1) -> int:
    """Bytes that a training step holds for one image (…, H, W) in a U-Net of `widths` channels per scale, run `iterations` times; `coils` see it each time."""
    pixels = math.prod(size[1:])
    maps = MAPS * sum(width / 4**scale for scale, width in enumerate(widths))
    return int(pixels * FLOAT * iterations * (maps + 12 * coils))


def fitting_batch(wanted: int, each: int, count: int, budget: int = BUDGET) -> int:
    """At most `wanted` and at least one sample, as many as `budget` bytes hold of `each` bytes, and no more than there are."""
    return max(1, min(wanted, budget // max(each, 1), count))
