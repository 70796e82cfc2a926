"""The error bar: the spread of the passes, times a factor that makes it as large as the error is on measurements that were held out.

Passes are the images of single (split, g) pairs, of which a reconstruction is the mean. They are no samples of a posterior: they agree where the
network is sure, and err together too, so that their spread s says where an image is uncertain, and not how much. What it lacks is one number
for a network and a test rule. Measurements know it: hold a part of y back, make the image from the rest by the same rule, and at what was
held back compare the error of Ax̂ with the spread of Ax over the same passes:

    c² = Σⱼ wⱼ Σᵢ (eᵢ² − vᵢ)  /  Σⱼ wⱼ Σᵢ sᵢ²,      error bar = c · s

with e = M₂(Ax̂ − y), s² the variance of M₂Ax over the passes, v the variance of the noise of y, which is in e and not in the image, and
wⱼ = 1 / Σ(M₂y)² for sample j, so that bright samples do not count for more. E[e²] = E[(Ax̂ − Ax)²] + v, since nothing that is compared was
seen by the network.

What this takes for granted: that error and spread of the image have the same ratio where nothing was measured as at entries that were measured and
held back. The network is given a fifth less than in use, which makes c rather too large than too small. The idea of comparing error bars with held-out data is
that of conformal prediction (Angelopoulos et al., ICML 2022); that a group gives the spread without further networks is the equivariant
bootstrap's (Tachella, Pereyra, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from es_cli.judging.held_out import HeldOut

SIGMAS = (1, 2)  # how many error bars a coverage is counted for


@dataclass(frozen=True)
class Calibration:
    """`factor` c is what the spread of the passes is multiplied by, `entries` how many held-out entries it was found on.

    `coverage` is the part of these whose error was within one and within two error bars, noise included: 0.68 and 0.95 if errors were normal.
    """

    factor: float
    entries: int
    coverage: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint and `--json` keep it."""
        return {**asdict(self), "coverage": list(self.coverage)}

    @classmethod
    def from_dict(cls, found: Any) -> Calibration:
        """What `to_dict` gave. Raises TypeError, ValueError or KeyError where it is none."""
        factor, entries, coverage = float(found["factor"]), int(found["entries"]), tuple(float(part) for part in found["coverage"])
        if not (math.isfinite(factor) and factor >= 0 and len(coverage) == len(SIGMAS)):
            raise ValueError(f"no calibration: factor {factor}, {len(coverage)} coverages")
        return cls(factor, entries, coverage)


def calibrate(parts: Sequence[HeldOut]) -> Calibration | None:
    """The factor for the spread of the passes, by the formula above; None where there is no spread, or the noise is not known."""
    above = below = 0.0
    entries = 0
    for held in parts:
        if held.noise is None:
            return None
        energy = _per_sample(held.rest * held.y**2)
        weight = (energy > 0) / energy.clamp(min=1e-30)
        above += float((weight * _per_sample(held.error**2 - held.noise)).sum())
        below += float((weight * _per_sample(held.spread)).sum())
        entries += int((held.rest > 0).sum())
    if not below > 0:
        return None
    factor = math.sqrt(max(above, 0.0) / below)
    return Calibration(factor, entries, coverage(parts, factor))


def coverage(parts: Sequence[HeldOut], factor: float) -> tuple[float, ...]:
    """The part of the held-out entries whose error is within one and within two error bars of this factor, the noise of y being added to them."""
    within = [0] * len(SIGMAS)
    entries = 0
    for held in parts:
        held_out = held.rest > 0
        bar = (factor**2 * held.spread + (0 if held.noise is None else held.noise)).sqrt()
        entries += int(held_out.sum())
        for i, sigmas in enumerate(SIGMAS):
            within[i] += int(((held.error.abs() <= sigmas * bar) & held_out).sum())
    return tuple(count / max(1, entries) for count in within)


def _per_sample(value: Tensor) -> Tensor:
    return value.flatten(1).double().sum(1)
