"""Tomography whose pseudoinverse is filtered back-projection refined by least squares, for the whole sinogram and for splits of it alike."""

from __future__ import annotations

from typing import Any

import deepinv.physics
from torch import Tensor

from es_cli.splitting.conjugate_gradients import least_squares


class Tomography(deepinv.physics.Tomography):
    """Tomography operator, parallel or fan beam: deepinv's, with a pseudoinverse that agrees with the sinogram and costs a few projections.

    Filtered back-projection takes the angles for evenly spaced and many. A split has few of them, with gaps, and its image is wrong at the lowest
    frequencies too, where every angle has measured; a network that learns to mend that spoils the image of the whole sinogram. A few steps of
    least squares from there mend it for splits and sinogram alike. deepinv starts least squares from nothing, which takes tens of steps.
    ValueError for a number of steps below 0.

    :param int refine_steps: steps of least squares after filtered back-projection; 0: filtered back-projection alone.
    """

    def __init__(self, *args: Any, refine_steps: int = 4, **kwargs: Any) -> None:
        if refine_steps < 0:
            raise ValueError(f"refine_steps must be 0 or more, got {refine_steps}")
        super().__init__(*args, **kwargs)
        self.refine_steps = refine_steps

    def A_dagger(self, y: Tensor, fbp: bool = True, **kwargs: Any) -> Tensor:
        """The image (B, C, W, W) of a sinogram y (B, C, detectors, angles); deepinv's least squares where `fbp` is false."""
        if not fbp:
            return super().A_dagger(y, fbp=False, **kwargs)
        return least_squares(self, y, self.fbp(y), self.refine_steps)
