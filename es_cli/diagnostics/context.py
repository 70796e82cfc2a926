"""How near the input of a network is to what it predicts of a measurement, and to what was never measured: whether the two are the same task.

A network that was trained to fill gaps of one pixel has not learned to fill those of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import MRI, ComposedPhysics, DynamicMRI, MultiCoilMRI, NonCartesianMRI, SinglePixelCamera, Tomography
from torch import Tensor
from torch.nn import functional

from es_cli.splitting.operators import MaskedOperator

WIDTH = 5  # of the neighbourhood in which input is counted
FARTHEST = 16  # distances are counted up to this many positions
STEP = 0.5  # degrees between the directions that are asked how far they are from a measured one


@dataclass(frozen=True)
class Context:
    """How near the input is to what is held out and to what was never measured: mean distances, in positions or degrees, and the share of a
    neighbourhood that is input (None for angles)."""

    distance_held_out: float
    distance_never: float
    input_near_held_out: float | None = None
    input_near_never: float | None = None

    @property
    def easier(self) -> float:
        """How many times nearer to the input the held-out positions are."""
        return self.distance_never / max(self.distance_held_out, 1e-9)


def local_context(given: Tensor, measured: Tensor) -> Context | None:
    """The context of splits on a grid: `given` and `measured` are bool (n, planes, *grid), a grid of two or three axes.

    None where no position is held out, or none is without a measurement. Distances are of chessboards, and FARTHEST at most; neighbourhoods are
    WIDTH wide.
    """
    held_out, never = measured & ~given, ~measured
    if not held_out.any() or not never.any() or not given.any():
        return None
    flat = given.ndim == 4
    pool, mean = (functional.max_pool2d, functional.avg_pool2d) if flat else (functional.max_pool3d, functional.avg_pool3d)
    # padded by hand: the pools of torch refuse a grid that is smaller than their window
    sides = given.ndim * 2 - 4
    reached = given.float()
    near = mean(functional.pad(reached, [WIDTH // 2] * sides), WIDTH, 1)
    distance = torch.zeros_like(reached)
    for _ in range(FARTHEST):
        distance += 1 - reached
        reached = pool(functional.pad(reached, [1] * sides), 3, 1)
    return Context(*(float(value[sites].mean()) for value in (distance, near) for sites in (held_out, never)))


def angular_context(given: Tensor, angles: Tensor, period: float) -> Context | None:
    """The context of splits of a sinogram: `given` is bool (n, angles), `angles` are in degrees, alike after `period` of them.

    What was never measured are all directions between. None where no angle is held out.
    """
    if bool(given.all()) or not bool(given.any(1).all()):
        return None
    between = torch.arange(0, period, STEP)
    asked = torch.cat([angles.cpu(), between])
    apart = (asked[:, None] - angles.cpu()) % period
    apart = torch.minimum(apart, period - apart)
    nearest = torch.where(given.cpu()[:, None], apart, torch.inf).amin(2)
    of_angles, of_between = nearest.split([len(angles), len(between)], 1)
    return Context(float(of_angles[~given.cpu()].mean()), float(of_between.mean()))


def context_of(given: Tensor, mask: Tensor | None, physics: Any) -> tuple[Context | None, str]:
    """The context of splits M₁ (n, …) of measurements of `physics`, and in a word why there is none, or the unit of its distances."""
    last = last_operator(physics)
    if isinstance(last, Tomography):
        found = angular_context(given.flatten(1, -2).amax(1) > 0, last.radon.theta.flatten(), 360.0 if last.fan_beam else 180.0)
        return found, "degrees"
    if given.ndim < 4 or isinstance(last, (SinglePixelCamera, NonCartesianMRI)):
        return None, "these measurements have no neighbours"
    if mask is None or bool((mask > 0).all()):
        return None, "every position is measured"
    pair = isinstance(last, (MRI, MultiCoilMRI))
    volume = isinstance(last, DynamicMRI) or getattr(last, "three_d", False) or (not pair and given.ndim == 5)
    planes = given.ndim - (4 if volume else 3)
    kept, measured = ((side > 0).expand(given.shape).flatten(1, planes) for side in (given, mask))
    if pair:  # real and imaginary part and all coils share a point of k-space
        kept, measured = kept.any(1, keepdim=True), measured.any(1, keepdim=True)
    return local_context(kept, measured), "positions"


def last_operator(physics: Any) -> Any:
    """The operator that makes the measurement: the innermost of masked ones, the last of several one after the other."""
    if isinstance(physics, MaskedOperator):
        return last_operator(physics.physics)
    return last_operator(physics.physics_list[-1]) if isinstance(physics, ComposedPhysics) else physics


def mean_context(contexts: Sequence[Context]) -> Context | None:
    """The mean of the contexts of several splits of one kind; None where there are none."""
    if not contexts:
        return None

    def mean(name: str) -> float:
        return sum(getattr(one, name) for one in contexts) / len(contexts)

    distances = mean("distance_held_out"), mean("distance_never")
    if contexts[0].input_near_held_out is None:
        return Context(*distances)
    return Context(*distances, mean("input_near_held_out"), mean("input_near_never"))
