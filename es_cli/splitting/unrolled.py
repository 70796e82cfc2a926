"""Unrolled networks that end in agreement with the measurements."""

from __future__ import annotations

from deepinv.optim import BaseOptim
from deepinv.optim.data_fidelity import L2
from deepinv.optim.optim_iterators import HQSIteration
from deepinv.optim.prior import PnP
from torch import nn


class DataConsistentMoDL(BaseOptim):
    """MoDL as published: each iteration applies the denoiser and then returns to the measurements.

    `deepinv.models.MoDL` has the two steps the other way round, so that its image leaves the denoiser and need not agree with what was
    measured, and starts with equal trust in both. Source: Aggarwal et al., MoDL, IEEE TMI 2019, eq. 11.

    :param torch.nn.Module denoiser: the network that is applied in every iteration, with the same weights.
    :param int num_iter: number of unrolled iterations.
    :param float data_weight: weight of data consistency before training; it is trained.
    """

    def __init__(self, denoiser: nn.Module, num_iter: int = 3, data_weight: float = 10.0) -> None:
        super().__init__(
            HQSIteration(g_first=True),
            max_iter=num_iter,
            trainable_params=["stepsize"],
            data_fidelity=L2(),
            prior=PnP(denoiser=denoiser),
            params_algo={"stepsize": [data_weight] * num_iter, "g_param": [0.01] * num_iter, "lambda_reg": [1.0] * num_iter},
            unfold=True,
            g_first=True,
        )
