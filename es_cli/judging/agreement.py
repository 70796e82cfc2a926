"""What of an image the measurements say, what was made up beside it, and the nearest image that agrees with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import DecomposablePhysics
from torch import Tensor

from es_cli.errors import UsageError
from es_cli.experiment import Reconstruction
from es_cli.judging.noise import noise_variance
from es_cli.splitting.conjugate_gradients import conjugate_gradients, proximal
from es_cli.splitting.gram import gram_matrix
from es_cli.splitting.operators import sampling_mask
from es_cli.splitting.parameters import of_one_sample

STEPS = 100  # of conjugate gradients where an operator has no closed form; what they do not reach is not measured well enough to count
TRIALS = 40  # of the weight of the measurements
PRECISION = 1e-3  # of the discrepancy against the noise, relative


def measured_part(physics: Any, x: Tensor) -> Tensor:
    """A†A x of images (B, C, …): all that a noiseless measurement tells of x; (I − A†A) x is what it cannot, and what a network made up.

    In closed form where the operator has it, else by conjugate gradients from 0, which stay in the row space of A.
    """
    return pseudoinverse(physics, physics.A(x))


def pseudoinverse(physics: Any, y: Tensor) -> Tensor:
    """A†y, the smallest image that measures nearest to y (B, …)."""
    if _is_closed(physics):
        return physics.A_dagger(y)
    start = physics.A_adjoint(y)
    return conjugate_gradients(physics.A_adjoint_A, start, torch.zeros_like(start), STEPS)


def consistent(made: Reconstruction, physics: Any, x: Tensor, y: Tensor) -> Tensor:
    """The image nearest to each x (B, C, …) whose measurement agrees with y (B, …) to the noise level: ‖M(y − Ax)‖² ≤ Σᵢ vᵢ, v the noise's variance.

    Without noise x + A†(y − Ax), the projection onto {Ax = y}. With noise of known variance an image that agrees stays as it is; another is moved
    to argmin_x' γ/2 ‖Ax' − y‖² + ½ ‖x' − x‖² with the γ whose residual is the noise's (Morozov's discrepancy principle, 1966): less would
    disagree, more would copy noise. Where no image agrees so well, the nearest to agreeing. Raises UsageError where the variance is not known.
    """
    variance = noise_variance(made, physics, physics.A(x))
    if variance is None:
        what = f"the size of {type(physics.noise_model).__name__} is not known"
        raise UsageError(what, where="--consistent", hint="name a Gaussian or Poisson noise_model in the spec's physics, or leave --consistent out")
    full = sampling_mask(physics)
    wanted = (variance if full is None else full * variance).flatten(1).sum(1)
    rest = y - physics.A(x)
    rest = rest if full is None else full * rest
    moved = pseudoinverse(physics, rest)
    steps = []
    for i, allowed in enumerate(wanted.tolist()):
        energy = float(rest[i].square().sum())
        if energy <= allowed:
            steps.append(torch.zeros_like(x[i : i + 1]))
        elif allowed == 0:
            steps.append(moved[i : i + 1])
        else:
            steps.append(_moved_to(of_one_sample(physics, i), rest[i : i + 1], math.sqrt(allowed), moved[i : i + 1]))
    return x + torch.cat(steps)


def _moved_to(physics: Any, rest: Tensor, allowed: float, farthest: Tensor) -> Tensor:
    """The smallest v with ‖Av − rest‖ = `allowed`; `farthest` is A†rest, whose residual no other undercuts."""
    low, high = 0.0, math.inf
    # exact where the rows of A are orthonormal: the residual is ‖rest‖ / (1 + γ)
    gamma = float(rest.norm()) / allowed - 1
    step = farthest
    for _ in range(TRIALS):
        step = _proximal(physics, rest, gamma)
        ratio = float((physics.A(step) - rest).norm()) / allowed
        if abs(ratio - 1) <= PRECISION:
            return step
        low, high = (gamma, high) if ratio > 1 else (low, gamma)
        gamma = 4 * gamma if math.isinf(high) else (low + high) / 2
    return step if math.isfinite(high) else farthest


def _proximal(physics: Any, rest: Tensor, gamma: float) -> Tensor:
    zero = torch.zeros_like(physics.A_adjoint(rest))
    return physics.prox_l2(zero, rest, gamma) if _is_closed(physics) else proximal(physics, zero, rest, gamma, STEPS)



def _is_closed(physics: Any) -> bool:
    return gram_matrix(physics) is not None or isinstance(physics, DecomposablePhysics)
