"""The image of least total variation: what needs neither network nor training, and is better than an adjoint."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.optim import L2, TVPrior
from deepinv.optim.optimizers import FISTA
from torch import Tensor

from es_cli.judging.held_out import held_back
from es_cli.splitting.masks import Splitter, sampling_mask
from es_cli.splitting.virtual import split_operator
from es_cli.streams import generator, stream_seed

WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1)  # of total variation, where the largest |Aᵀy| is 1
STEPS, INNER_STEPS = 100, 20


def least_variation(physics: Any, y: Tensor, weight: float) -> Tensor:
    """argmin_x ½ ‖Ax − y‖² + λ TV(x) for y (B, …) by deepinv's FISTA, which is slow; λ = `weight` · max |Aᵀy| for each sample."""
    largest = physics.A_adjoint(y).flatten(1).abs().amax(1).clamp(min=torch.finfo(y.dtype).tiny)
    scaled = y / largest.view(-1, *[1] * (y.ndim - 1))
    rng = generator(stream_seed(0, "norm"), y.device)
    probe = torch.randn(physics.A_adjoint(y[:1]).shape, generator=rng, device=y.device)
    step = 0.95 / max(float(physics.compute_sqnorm(probe, rng=rng, verbose=False).max()), torch.finfo(y.dtype).tiny)
    # a prior of its own for each call: deepinv's keeps the last image to start from
    solver = FISTA(data_fidelity=L2(), prior=TVPrior(n_it_max=INNER_STEPS), stepsize=step, lambda_reg=weight, max_iter=STEPS)
    with torch.no_grad():
        x = solver(scaled, physics)
    return x * largest.view(-1, *[1] * (x.ndim - 1))


def weight_for(physics: Any, y: Tensor, splitter: Splitter) -> float:
    """The weight of `WEIGHTS` that predicts best what is held back of y (B, …): TV is given as good a chance as can be without ground truth."""
    full = sampling_mask(physics)
    kept = held_back(splitter, tuple(y.shape), full, range(len(y)))
    rest = (1 - kept) if full is None else (full - kept)
    inside = split_operator(physics, kept, y)
    errors = {weight: float((rest * (physics.A(least_variation(inside, kept * y, weight)) - y)).square().sum()) for weight in WEIGHTS}
    return min(errors, key=lambda weight: errors[weight])
