"""The distance between sinograms that weighs every frequency as the image does."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.loss.metric import Metric
from torch import Tensor


class SinogramMSE(Metric):
    """Mean squared error of sinograms after the ramp filter of filtered back-projection, so that it weighs frequencies as an error of the image does.

    Projection blurs: a plain squared error between sinograms hardly sees the fine detail of an image, and a network trained on it is slow to
    learn it. By the Fourier slice theorem the energy of an image is that of its projections weighted with |ω|. The filter acts within an angle, so
    that a term over the angles of a split stays unbiased. Weights have mean 1. Source: Kak, Slaney, Principles of Computerized Tomographic
    Imaging, 1988, section 3.3.
    """

    def metric(self, x_net: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """One value for each sample, shape (B,), of sinograms (B, C, detectors, angles)."""
        difference = x_net - x
        detectors = difference.shape[-2]
        length = 2 * detectors  # room enough that nothing wraps around
        # the mean of a projection counts as the lowest frequency that it can tell from the mean
        weights = torch.fft.rfftfreq(length, device=difference.device, dtype=difference.dtype).clamp(min=1 / (2 * length))
        weights = weights / weights.mean()
        filtered = torch.fft.irfft(torch.fft.rfft(difference, n=length, dim=-2) * weights.sqrt()[:, None], n=length, dim=-2)
        return (filtered**2).flatten(1).sum(1) / difference[0].numel()
