"""Equivariant splitting as deepinv publishes it: the model that its loss adapts, around a network of ours, and its virtual operator."""

from __future__ import annotations

from typing import Any

from deepinv.loss import EquivariantSplittingLoss
from deepinv.loss.measplit import SplittingLoss
from deepinv.physics import MRI
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, GaussianMaskGenerator, MultiplicativeSplittingMaskGenerator
from deepinv.physics.virtual import VirtualLinearPhysics
from deepinv.transform import Reflect, Rotate
from torch import Tensor, nn

SPLITS = 5


def adapted(network: nn.Module, physics: Any, consistency: nn.Module | None = None) -> nn.Module:
    """What deepinv reconstructs with: in evaluation mode the average over 5 splits and D4, 40 calls of `network` for one image.

    `consistency` None is MCLoss. Source: deepinv's demo of the loss.
    """
    loss = EquivariantSplittingLoss(
        mask_generator=_splits(physics), transform=_d4(1, 1), eval_transform=_d4(4, 2), eval_n_samples=SPLITS, consistency_loss=consistency
    )
    return loss.adapt_model(network).eval()


def virtual(physics: Any, mask: Tensor, y: Tensor, element: Any = None) -> VirtualLinearPhysics:
    """M A T_g as deepinv makes it: with a random g of its own, or with `element`, one of ours."""
    _, split = SplittingLoss.split(mask, y, physics)
    if element is not None:
        return VirtualLinearPhysics(physics=split, transform=_Given(element), g_params={})
    transform = _d4(1, 1)
    return VirtualLinearPhysics(physics=split, transform=transform, g_params=transform.get_params(y))


class _Given:
    """An element of ours where deepinv wants a transform."""

    def __init__(self, element: Any) -> None:
        self.transform, self.inverse = element.act, element.inverse


def _d4(rotations: int, flips: int) -> Any:
    return Rotate(n_trans=rotations, multiples=90, positive=True) * Reflect(n_trans=flips, dim=[-1])


def _splits(physics: Any) -> Any:
    height, width = physics.mask.shape[-2:]
    if not isinstance(physics, MRI):
        return BernoulliSplittingMaskGenerator((1, height, width), split_ratio=0.9, pixelwise=True)
    inner = GaussianMaskGenerator((2, height, width), acceleration=2, center_fraction=0.0)
    return MultiplicativeSplittingMaskGenerator((1, height, width), inner)
