"""Several operators that measure the same image, as one whose measurement is one array."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import MRI, LinearPhysics, MultiCoilMRI
from torch import Tensor, nn

from es_cli.splitting.operators import sampling_mask


class StackedLinearPhysics(LinearPhysics):
    """Linear operators that measure the same image: their measurements, flattened row by row, one after the other in y (B, m).

    deepinv's stack measures a list of arrays, which masks, noise models and data sets cannot take as one. Each entry of y is split by itself.
    The noise is that of the stack; noise models of the operators in it mean nothing.

    :param list[deepinv.physics.LinearPhysics] physics_list: the operators, in the order of their measurements.
    :param tuple img_size: shape (C, H, W) of images.
    """

    def __init__(self, physics_list: list[LinearPhysics], img_size: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(img_size=tuple(img_size), **kwargs)
        for one in physics_list:
            if not isinstance(one, LinearPhysics):
                raise ValueError(f"{type(one).__name__} is not linear")  # noqa: TRY004 (a fault of the spec, not of a type)
            if any(isinstance(inner, (MRI, MultiCoilMRI)) for inner in one.modules()):
                raise ValueError("real and imaginary part of a point of k-space are measured together, and a stack is split entry by entry")
        self.physics_list = nn.ModuleList(physics_list)
        with torch.no_grad():
            self.shapes = [tuple(one.A(torch.zeros(1, *img_size)).shape[1:]) for one in physics_list]

    @property
    def sampled(self) -> Tensor | None:
        """Which entries of y are measured, 0/1 (1, m); None: all of them."""
        masks = [sampling_mask(one) for one in self.physics_list]
        known = next((mask for mask in masks if mask is not None), None)
        if known is None:
            return None
        whole = zip(masks, self.shapes, strict=True)
        return torch.cat([known.new_ones(1, math.prod(shape)) if mask is None else mask.expand(1, *shape).flatten(1) for mask, shape in whole], 1)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return torch.cat([one.A(x).flatten(1) for one in self.physics_list], 1)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        parts = y.split([math.prod(shape) for shape in self.shapes], 1)
        images = [one.A_adjoint(part.reshape(-1, *shape)) for one, part, shape in zip(self.physics_list, parts, self.shapes, strict=True)]
        return torch.stack(images).sum(0)

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Noise where something is measured, as Inpainting has it."""
        drawn, sampled = self.noise_model(x, **kwargs), self.sampled
        return drawn if sampled is None else sampled * drawn
