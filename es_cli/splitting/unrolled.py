"""Unrolled networks that start where the measurements are trusted."""

from __future__ import annotations

import torch
from deepinv.models import MoDL
from torch import nn


class DataConsistentMoDL(MoDL):
    """MoDL whose data-consistency weights start at `data_weight` instead of 1.

    With weight 1 the first reconstructions lie half-way between the measurements and what an untrained network makes of them, and
    learning starts from there. Source: Aggarwal et al., MoDL, IEEE TMI 2019; deepinv's class in all else.

    :param torch.nn.Module denoiser: the network that is applied in every iteration.
    :param int num_iter: number of unrolled iterations.
    :param float data_weight: weight of data consistency before training.
    """

    def __init__(self, denoiser: nn.Module, num_iter: int = 3, data_weight: float = 10.0) -> None:
        super().__init__(denoiser=denoiser, num_iter=num_iter)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("params_algo.stepsize"):
                    parameter.fill_(data_weight)
