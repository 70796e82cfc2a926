"""Eigenvalues of a symmetric operator N ≥ 0 that is known by its action alone: how many are above a tolerance, and what it leaves of an image.

Lanczos' method from a start vector v gives the nodes and weights of Gauss quadrature for the spectral measure of N at v: vᵀf(N)v / vᵀv ≈
Σ w f(θ). Averaged over Gaussian v it is the trace of f(N) over n (stochastic Lanczos quadrature). Source: Golub, Meurant, Matrices, moments and
quadrature, 1994; Ubaru, Chen, Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, 2017.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from es_cli.diagnostics.algebra import DAMPING

# eigenvalues of AᵀA below this part of the largest one count as zero, in `rank` as in what `residual` leaves of an image
TOLERANCE = DAMPING
# a Krylov space is exhausted where what is new is below this part of the largest eigenvalue found: rounding, in single precision
EXHAUSTED = 1e-5
EVERY = 8  # steps between two looks at whether it is enough
FEWEST = 6  # steps, whatever time is left
STRIDE = 3  # of the quadratures of several lengths that are averaged, each has so many nodes more than the one before


@dataclass(frozen=True)
class Quadrature:
    """Nodes θ (ascending) and weights w (sum 1), float64; `exact` where the Krylov space was exhausted."""

    nodes: Tensor
    weights: Tensor
    exact: bool


class Measure:
    """The spectral measure at one start vector, as Lanczos' tridiagonal matrix: `diagonal` (m,) and what is `beside` it (m − 1,), float64."""

    def __init__(self, diagonal: Tensor, beside: Tensor, exact: bool) -> None:
        self._matrix = torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
        self.exact = exact
        self._kept: dict[int, Quadrature] = {}

    @property
    def whole(self) -> Quadrature:
        """The quadrature of all steps."""
        return self._of_length(len(self._matrix))

    @property
    def several(self) -> list[Quadrature]:
        """The quadratures of the last third of the steps. A share of eigenvalues swings with their number; their average does not."""
        length = len(self._matrix)
        return [self.whole] if self.exact else [self._of_length(n) for n in range(length, max(1, 2 * length // 3) - 1, -STRIDE)]

    def _of_length(self, length: int) -> Quadrature:
        if length not in self._kept:
            nodes, vectors = torch.linalg.eigh(self._matrix[:length, :length])
            self._kept[length] = Quadrature(nodes, vectors[0] ** 2, self.exact and length == len(self._matrix))
        return self._kept[length]


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of the interval that holds it, with a confidence of 95 % where probes were drawn."""

    value: float
    low: float
    high: float


def lanczos(
    normal: Callable[[Tensor], Tensor],
    starts: Tensor,
    steps: int,
    enough: Callable[[Sequence[Measure]], bool] | None = None,
    until: float = math.inf,
) -> list[Measure]:
    """The spectral measures of `normal` at `starts` (P, …), one for each, after `steps` applications; fewer where all are exact or `enough` says so.

    `normal` acts on all P images at once. Directions are kept orthogonal to all before them, at the cost of `steps` images of memory each.
    After FEWEST steps it ends where the next one would not be done at the time `until`, of the clock `time.process_time`: that of this
    process, so that what else a machine does takes no accuracy.
    """
    lengths = starts.flatten(1).norm(dim=1)
    current = starts.flatten(1) / lengths.clamp(min=torch.finfo(starts.dtype).tiny)[:, None]
    basis = [current]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    alive = lengths > 0
    top = torch.zeros_like(lengths)
    for step in range(1, steps + 1):
        began = time.process_time()
        new = normal(current.view_as(starts)).flatten(1)
        diagonal.append((new * current).sum(1))
        for _ in range(2):  # once is not enough in single precision
            for one in basis:
                new = new - (new * one).sum(1, keepdim=True) * one
        beside.append(new.norm(dim=1))
        top = torch.maximum(top, diagonal[-1] + beside[-1])
        alive = alive & (beside[-1] > EXHAUSTED * top)
        beside[-1] = beside[-1] * alive
        late = step >= FEWEST and 2 * time.process_time() - began > until
        if late or not bool(alive.any()):
            break
        if enough is not None and step % EVERY == 0 and enough(_measures(diagonal, beside)):
            break
        current = new / beside[-1].clamp(min=torch.finfo(new.dtype).tiny)[:, None] * alive[:, None]
        basis.append(current)
    return _measures(diagonal, beside)


def _measures(diagonal: Sequence[Tensor], beside: Sequence[Tensor]) -> list[Measure]:
    """The measures from tridiagonal matrices, (P,) for each step, cut where its space was exhausted."""
    measures = []
    for alpha, beta in zip(torch.stack(list(diagonal), 1).double().cpu(), torch.stack(list(beside), 1).double().cpu(), strict=True):
        ended = (beta == 0).nonzero()
        length = int(ended[0]) + 1 if len(ended) else len(alpha)
        measures.append(Measure(alpha[:length], beta[: length - 1], bool(len(ended))))
    return measures


def largest(measures: Sequence[Measure]) -> float:
    """The largest eigenvalue that any of the start vectors has found; Lanczos finds it first."""
    return max(float(one.whole.nodes[-1]) for one in measures)


def smallest(measures: Sequence[Measure]) -> float:
    """The smallest eigenvalue found, at least 0: the true one is not above it."""
    return max(0.0, min(float(one.whole.nodes[0]) for one in measures))


def rank(measures: Sequence[Measure], size: int, threshold: float) -> Estimate:
    """The fraction of the `size` eigenvalues above `threshold`, from Gaussian start vectors.

    The interval has what quadrature leaves open, by the inequalities of Chebyshev, Markov and Stieltjes, and twice the standard deviation of
    the mean over start vectors, each of which sees a share of Beta distribution.
    """
    shares = [_above(one, threshold) for one in measures]
    value, low, high = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    drawn = 2 * math.sqrt(2 * max(0.0, value * (1 - value)) / ((size + 2) * len(shares)))
    return Estimate(value, max(0.0, low - drawn), min(1.0, high + drawn))


def left_open(measures: Sequence[Measure], threshold: float) -> float:
    """How much of `rank` quadrature leaves open, on average over the start vectors."""
    bounds = [_above(one, threshold) for one in measures]
    return sum(high - low for _, low, high in bounds) / len(bounds)


def _above(measure: Measure, threshold: float) -> tuple[float, float, float]:
    """The weight above `threshold`, and its least and greatest possible value: the node on either side may lie across."""
    values, lows, highs = [], [], []
    for rule in measure.several:
        first = int((rule.nodes <= threshold).sum())
        value = float(rule.weights[first:].sum())
        values.append(value)
        lows.append(value if rule.exact or first == len(rule.nodes) else value - float(rule.weights[first]))
        highs.append(value if rule.exact or first == 0 else value + float(rule.weights[first - 1]))
    low, high = max(lows), min(highs)
    return min(max(sum(values) / len(values), low), high), low, high


def residual(measure: Measure, ridge: float) -> float:
    """‖x − N(N + εI)⁻¹x‖² / ‖x‖² for the start vector x and the ridge ε > 0: the part of its energy that N does not cover, from below.

    As many steps of conjugate gradients come to the same. Gauss quadrature errs to one side, since the derivatives of (ε / (λ + ε))² alternate.
    """
    rule = measure.whole
    return float((rule.weights * (ridge / (rule.nodes.clamp(min=0) + ridge)) ** 2).sum())
