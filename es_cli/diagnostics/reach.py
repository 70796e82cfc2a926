"""How much of the image space, and of the energy of pictures, the virtual operators A T_g reach together, against what A reaches alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from es_cli.diagnostics import probes
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.spectrum import TOLERANCE, Estimate, Measure, lanczos, largest, left_open, rank, residual, smallest
from es_cli.splitting.conjugate_gradients import conjugate_gradients

ENOUGH = 0.01  # of the rank that quadrature may leave open
# steps of conjugate gradients into the null space: with a ridge of TOLERANCE each leaves at most (1 − √TOLERANCE) / (1 + √TOLERANCE) of the error
NULL_STEPS = 60
NOTHING = 1e-3  # of a random image, where a null space is none


@dataclass(frozen=True)
class Effort:
    """How many `white` probes for ranks and `pictures` for energies, how many `elements` of a group too large to list, and how many `steps`.

    Numbers of elements are prime, so that equal steps of a rotation never fall into step with the angles of an acquisition.
    """

    white: int
    pictures: int
    elements: int
    steps: int

    @classmethod
    def of(cls, shape: Sequence[int], quick: bool) -> Effort:
        """What images of `shape` (C, …, H, W) take: a share of a large space is known from few probes, its variance being that of one pixel in n.

        Steps are bounded by the pixels that go through the operator, so that 320 × 320 pixels take minutes; `quick`: 64 × 64 take a second.
        """
        size = math.prod(shape)
        most, fewest, elements, pixels = (40, 12, 13, 1 << 23) if quick else (96, 24, 31, 1 << 27)
        white = min(32, max(1, math.ceil((4096 if quick else 16384) / size)))
        pictures = 2 if quick or size > 65536 else 8
        return cls(white, pictures, elements, min(most, max(fewest, pixels // (white * size * elements))))


@dataclass(frozen=True)
class Reach:
    """Fractions between 0 and 1.

    `rank` is that of Q = E_g[(A T_g)ᵀ A T_g] over the dimension of the image space, `alone` that of AᵀA. `missed` is the energy of pictures
    that Q does not cover, ‖x − Q(Q + εI)⁻¹x‖² / ‖x‖² for ε = TOLERANCE · the largest eigenvalue, and `missed_alone` the same for A. `exposure` is the
    energy with which T_g shows A a direction of its null space, over that with which A sees a direction of any kind: 1 where g mixes
    well. `smallest` is an eigenvalue of Q over the largest one, which the smallest is not above. `steps` are those that Q took.
    """

    rank: Estimate
    alone: Estimate
    missed: Estimate
    missed_alone: Estimate
    exposure: float
    smallest: float
    steps: int

    @property
    def null_reached(self) -> Estimate:
        """(rank Q − rank AᵀA) / (n − rank AᵀA); 0 where A has no null space."""
        ends = [(self.rank.value, self.alone.value), (self.rank.low, self.alone.high), (self.rank.high, self.alone.low)]
        return Estimate(*[min(1.0, max(0.0, (q - a) / (1 - a))) if a < 1 else 0.0 for q, a in ends])

    @property
    def energy_reached(self) -> float:
        """The part of the energy missed by A that Q covers; 0 where A misses none."""
        return max(0.0, 1 - self.missed.value / self.missed_alone.value) if self.missed_alone.value > 0 else 0.0


def reach(alone: ExpectedNormal, together: ExpectedNormal, shape: Sequence[int], effort: Effort, seed: int, device: torch.device | str = "cpu") -> Reach:
    """What `together`, Q, reaches of images of `shape` (C, …, H, W) beyond `alone`, AᵀA."""
    size = math.prod(shape)
    white = probes.white(effort.white, shape, seed, device)
    pictures = probes.pictures(effort.pictures, shape, seed, device)
    found = [_spectrum(one, white, effort.steps) for one in (alone, together)]
    tops = [largest(measures) for measures in found]
    ranks = [rank(measures, size, TOLERANCE * top) for measures, top in zip(found, tops, strict=True)]
    missed = [_missed(one, pictures, max(12, effort.steps // 2), top) for one, top in zip((alone, together), tops, strict=True)]
    return Reach(
        rank=ranks[1], alone=ranks[0], missed=missed[1], missed_alone=missed[0], exposure=exposure(alone, together, white, tops[0]),
        smallest=smallest(found[1]) / tops[1], steps=max(len(one.whole.nodes) for one in found[1]),
    )  # fmt: skip


def rank_of(normal: ExpectedNormal, shape: Sequence[int], effort: Effort, seed: int, device: torch.device | str = "cpu") -> Estimate:
    """The rank of an operator over the dimension of images of `shape`, eigenvalues below TOLERANCE of its largest counting as zero."""
    measures = _spectrum(normal, probes.white(effort.white, shape, seed, device), effort.steps)
    return rank(measures, math.prod(shape), TOLERANCE * largest(measures))


def exposure(alone: ExpectedNormal, together: ExpectedNormal, white: Tensor, top: float) -> float:
    """E‖A T_g x₀‖² / E‖A x‖² for white x and their parts x₀ in the null space of A, in unit length each; `top` is the largest eigenvalue of AᵀA.

    Unlike a rank it does not depend on a tolerance, and it is small where what is reached is hardly seen. 0 where A has no null space.
    """
    ridge = TOLERANCE * top
    hidden = white - conjugate_gradients(lambda v: alone(v) + ridge * v, alone(white), torch.zeros_like(white), NULL_STEPS)
    if float(hidden.norm()) <= NOTHING * float(white.norm()):
        return 0.0
    gained = _energy(together, hidden) - _energy(alone, hidden)
    return max(0.0, gained / _energy(alone, white))


def _spectrum(normal: ExpectedNormal, white: Tensor, steps: int) -> list[Measure]:
    return lanczos(normal, white, steps, lambda measures: left_open(measures, TOLERANCE * largest(measures)) < ENOUGH)


def _missed(normal: ExpectedNormal, pictures: Tensor, steps: int, top: float) -> Estimate:
    """The energy of `pictures` that is not covered, with twice the standard error of its mean over them."""
    parts = [residual(measure, TOLERANCE * top) for measure in lanczos(normal, pictures, steps)]
    value, spread = statistics.fmean(parts), 2 * statistics.stdev(parts) / math.sqrt(len(parts))
    return Estimate(value, max(0.0, value - spread), min(1.0, value + spread))


def _energy(normal: ExpectedNormal, x: Tensor) -> float:
    """xᵀNx / xᵀx, on average over the images x (P, …)."""
    return float((x * normal(x)).sum() / (x * x).sum())
