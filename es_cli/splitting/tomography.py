"""Tomography whose pseudoinverse is filtered back-projection, for the whole sinogram and for splits of it alike."""

from __future__ import annotations

from typing import Any

import deepinv.physics
from torch import Tensor


class Tomography(deepinv.physics.Tomography):
    """Tomography operator, parallel or fan beam: deepinv's, with filtered back-projection as pseudoinverse.

    deepinv's solves least squares by default, which takes tens of projections, and calls the filtered back-projection what is meant; a network
    must see the same kind of image from a split and from the whole sinogram.
    """

    def A_dagger(self, y: Tensor, fbp: bool = True, **kwargs: Any) -> Tensor:
        """The image (B, C, W, W) of a sinogram y (B, C, detectors, angles); least squares where `fbp` is false."""
        return super().A_dagger(y, fbp=fbp, **kwargs)
