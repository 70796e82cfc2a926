"""How much of the image space, and of the energy of pictures, the virtual operators A T_g reach together, against what A reaches alone."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from es_cli.diagnostics.algebra import probe_images, unseen_part
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.quadrature import TOLERANCE, Estimate, Measure, lanczos, largest, left_open, rank, residual, smallest
from es_cli.streams import generator, stream_seed

ENOUGH = 0.01  # of the rank that quadrature may leave open
# steps of conjugate gradients into the null space: with a ridge of TOLERANCE each leaves at most (1 − √TOLERANCE) / (1 + √TOLERANCE) of the error
NULL_STEPS = 60
NOTHING = 1e-3  # of a random image, where a null space is none
LARGE = 1 << 19  # entries of an image, of which fewer elements are taken


@dataclass(frozen=True)
class Effort:
    """How many `white` probes for ranks and `pictures` for energies, how many `elements` of a group too large to list, how many `steps`, and how many
    `seconds` of this process at most, beyond the few steps that are always taken.

    Numbers of elements are prime, so that equal steps of a rotation never fall into step with the angles of an acquisition.
    """

    white: int
    pictures: int
    elements: int
    steps: int
    seconds: float

    @classmethod
    def of(cls, shape: Sequence[int], quick: bool, operators: int = 1) -> Effort:
        """What images of `shape` (C, …, H, W) take, seen by that many operators of their own.

        A share of a large space is known from few probes, its variance being that of one pixel in n. Steps are bounded by the pixels that go through
        the operator, so that 320 × 320 pixels take minutes; `quick`: 64 × 64 take a second.
        """
        size = math.prod(shape)
        most, fewest, elements, pixels, seconds = (40, 8, 13, 1 << 23, 15.0) if quick else (96, 24, 31, 1 << 27, 90.0)
        elements = elements if operators == 1 and size <= LARGE else 7
        white = min(32, max(1, math.ceil((4096 if quick else 16384) / size)))
        pictures = 2 if quick or size > 65536 else 8
        return cls(white, pictures, elements, min(most, max(fewest, pixels // (white * size * elements * operators))), seconds)


@dataclass(frozen=True)
class Reach:
    """Fractions between 0 and 1.

    `rank` is that of Q = E_g[(A T_g)ᵀ A T_g] over the dimension of the image space, `alone` that of AᵀA. `missed` is the energy of pictures
    that Q does not cover, ‖x − Q(Q + εI)⁻¹x‖² / ‖x‖² for ε = TOLERANCE · the largest eigenvalue, and `missed_alone` the same for A; `energy_reached` is
    the part of the energy missed by A that Q covers, 0 where A misses none. `exposure` is the energy with which T_g shows A a direction of its null
    space, over that with which A sees a direction of any kind: 1 where g mixes well. `smallest` is an eigenvalue of Q over the largest one,
    which the smallest is not above. `norm` is ‖A‖. `steps` are those that Q took.
    """

    rank: Estimate
    alone: Estimate
    missed: Estimate
    missed_alone: Estimate
    energy_reached: Estimate
    exposure: float
    smallest: float
    norm: float
    steps: int

    @property
    def null_reached(self) -> Estimate:
        """(rank Q − rank AᵀA) / (n − rank AᵀA); 0 where A has no null space."""
        ends = [(self.rank.value, self.alone.value), (self.rank.low, self.alone.high), (self.rank.high, self.alone.low)]
        return Estimate(*[min(1.0, max(0.0, (q - a) / (1 - a))) if a < 1 else 0.0 for q, a in ends])


def reach(alone: ExpectedNormal, together: ExpectedNormal, shape: Sequence[int], effort: Effort, seed: int, device: torch.device | str = "cpu") -> Reach:
    """What `together`, Q, reaches of images of `shape` (C, …, H, W) beyond `alone`, AᵀA of one operator."""
    until = time.process_time() + effort.seconds
    white = white_images(effort.white, shape, seed, device)
    pictures = probe_images(effort.pictures, shape, stream_seed(seed, "pictures"), device)
    found = [_spectrum(one, white, effort.steps, until) for one in (alone, together)]
    tops = [largest(measures) for measures in found]
    ranks = [rank(measures, math.prod(shape), TOLERANCE * top) for measures, top in zip(found, tops, strict=True)]
    missed = [_missed(one, pictures, max(12, effort.steps // 3), top, until) for one, top in zip((alone, together), tops, strict=True)]
    hidden = unseen_part(alone.operators[0], white, math.sqrt(tops[0]), NULL_STEPS)
    return Reach(
        rank=ranks[1], alone=ranks[0], missed=_mean(missed[1]), missed_alone=_mean(missed[0]), energy_reached=_part_reached(*missed),
        exposure=exposure(alone, together, white, hidden), smallest=smallest(found[1]) / tops[1] if tops[1] > 0 else 0.0,
        norm=math.sqrt(tops[0]), steps=max(len(one.whole.nodes) for one in found[1]),
    )  # fmt: skip


def white_images(count: int, shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Gaussian noise (count, C, …, H, W), which has as much of every direction; the same on every device."""
    return torch.randn(count, *shape, generator=generator(stream_seed(seed, "white"))).to(device)


def rank_of(normal: ExpectedNormal, shape: Sequence[int], effort: Effort, seed: int, device: torch.device | str = "cpu") -> Estimate:
    """The rank of an operator over the dimension of images of `shape`, eigenvalues below TOLERANCE of its largest counting as zero."""
    measures = _spectrum(normal, white_images(effort.white, shape, seed, device), effort.steps, time.process_time() + effort.seconds)
    return rank(measures, math.prod(shape), TOLERANCE * largest(measures))


def exposure(alone: ExpectedNormal, together: ExpectedNormal, white: Tensor, hidden: Tensor) -> float:
    """E‖A T_g x₀‖² / E‖A x‖² for `white` x and their parts x₀ in the null space of A, `hidden`, as if both had unit length.

    Unlike a rank it does not depend on a tolerance, and it is small where what is reached is hardly seen. 0 where A has no null space.
    """
    seen = _energy(alone, white)
    if seen <= 0 or float(hidden.norm()) <= NOTHING * float(white.norm()):
        return 0.0
    return max(0.0, (_energy(together, hidden) - _energy(alone, hidden)) / seen)


def _spectrum(normal: ExpectedNormal, white: Tensor, steps: int, until: float) -> list[Measure]:
    return lanczos(normal, white, steps, lambda measures: left_open(measures, TOLERANCE * largest(measures)) < ENOUGH, until)


def _missed(normal: ExpectedNormal, pictures: Tensor, steps: int, top: float, until: float) -> list[float]:
    """The part of the energy of each of `pictures` that is not covered."""
    if top <= 0:  # an operator that sees nothing at all
        return [1.0] * len(pictures)
    return [residual(measure, TOLERANCE * top) for measure in lanczos(normal, pictures, steps, until=until)]


def _mean(parts: Sequence[float]) -> Estimate:
    """Their mean, with twice its standard error."""
    value, spread = statistics.fmean(parts), 2 * statistics.stdev(parts) / math.sqrt(len(parts))
    return Estimate(value, max(0.0, value - spread), min(1.0, value + spread))


def _part_reached(alone: Sequence[float], together: Sequence[float]) -> Estimate:
    """1 − the ratio of the two means, with twice its standard error: each picture is missed by both, so that their differences tell more than each."""
    mean = statistics.fmean(alone)
    if mean <= 0:
        return Estimate(0.0, 0.0, 0.0)
    ratio = statistics.fmean(together) / mean
    spread = 2 * statistics.stdev([t - ratio * a for a, t in zip(alone, together, strict=True)]) / (math.sqrt(len(alone)) * mean)
    return Estimate(max(0.0, 1 - ratio), max(0.0, 1 - ratio - spread), min(1.0, max(0.0, 1 - ratio + spread)))


def _energy(normal: ExpectedNormal, x: Tensor) -> float:
    """xᵀNx / xᵀx, on average over the images x (P, …)."""
    return float((x * normal(x)).sum() / (x * x).sum())
