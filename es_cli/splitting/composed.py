"""Operators one after the other, as a spec nests them."""

from __future__ import annotations

import deepinv.physics
from deepinv.physics import LinearPhysics


class ComposedLinearPhysics(deepinv.physics.ComposedLinearPhysics):
    """Linear operators one after the other: deepinv's composition, with the operators in a list. The noise is that of the last.

    :param list[deepinv.physics.LinearPhysics] physics: the operators, in the order in which they are applied.
    :param tuple img_size: shape (C, H, W) of images, where the data do not say it.
    """

    def __init__(self, physics: list[LinearPhysics], img_size: tuple[int, ...] | None = None) -> None:
        super().__init__(*physics)
        self.img_size = img_size
