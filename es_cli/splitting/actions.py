"""Elements of groups, and how they act on a batch in which each sample has its own.

An element T_g acts on the last two axes of images (B, C, …, H, W): pictures, volumes and sequences alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Action = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Element:
    """One transformation T_g: `act` is T_g and `inverse` T_g⁻¹; both map (B, C, …, H, W) to the same shape.

    Elements of equal `label` are the same transformation. `joint` makes one element of the `parameter`s of many, which gives each
    sample of a batch its own in one pass; None: elements of this kind act one after the other.
    """

    act: Action
    inverse: Action
    label: str
    joint: Callable[[Sequence[Any]], Element] | None = None
    parameter: Any = None


IDENTITY = Element(lambda x: x, lambda x: x, "identity")


class Batch:
    """A transformation of a batch in which each sample has its own element, or each `run` of consecutive samples.

    `elements` lists the different ones, once each. One element alone acts on a batch of any size.
    """

    def __init__(self, elements: Sequence[Element], run: int = 1) -> None:
        runs = [(same, run * len(list(several))) for same, several in itertools.groupby(elements, key=lambda element: element.label)]
        by_label = {element.label: element for element in elements}
        self.elements = list(by_label.values())
        self._runs = [by_label[label] for label, _ in runs]
        self._counts = [count for _, count in runs]
        joint = elements[0].joint
        self._joint = None
        if len(self.elements) > 1 and joint is not None and all(element.joint is joint for element in self.elements):
            self._joint = joint([element.parameter for element in elements for _ in range(run)])

    def act(self, x: Tensor) -> Tensor:
        """T_g x, each sample with its own g."""
        return self._each([element.act for element in self._runs], x) if self._joint is None else self._joint.act(x)

    def inverse(self, x: Tensor) -> Tensor:
        """T_g⁻¹ x, each sample with its own g."""
        return self._each([element.inverse for element in self._runs], x) if self._joint is None else self._joint.inverse(x)

    def _each(self, actions: list[Action], x: Tensor) -> Tensor:
        if len(actions) == 1:
            return actions[0](x)
        return torch.cat([action(part) for action, part in zip(actions, x.split(self._counts), strict=True)])


def turn_and_flip(turn: int, flip: tuple[int, ...] = ()) -> Element:
    """`turn` quarter turns counterclockwise, then a reflection of the axes `flip`; bit-exact."""

    def act(x: Tensor) -> Tensor:
        x = torch.rot90(x, turn, (-2, -1)) if turn else x
        return torch.flip(x, flip) if flip else x

    def inverse(x: Tensor) -> Tensor:
        x = torch.flip(x, flip) if flip else x
        return torch.rot90(x, -turn, (-2, -1)) if turn else x

    label = f"turn {90 * turn}°, flip {list(flip)}" if turn or flip else IDENTITY.label
    return Element(act, inverse, label, _permutations, (act, inverse))


def shift(down: float, right: float) -> Element:
    """A circular shift by parts of the height and of the width, from 0 to 1, rounded down to whole pixels; bit-exact."""

    def pixels(x: Tensor) -> tuple[int, int]:
        return int(down * x.shape[-2]), int(right * x.shape[-1])

    def act(x: Tensor) -> Tensor:
        return torch.roll(x, pixels(x), (-2, -1))

    def inverse(x: Tensor) -> Tensor:
        return torch.roll(x, tuple(-n for n in pixels(x)), (-2, -1))

    return Element(act, inverse, f"shift {down!r}, {right!r}" if down or right else IDENTITY.label, _permutations, (act, inverse))


class _Permutations:
    """Elements that only move pixels, one for each sample of a batch, as one gather."""

    def __init__(self, ways: Sequence[tuple[Action, Action]]) -> None:
        self.ways = ways
        self._kept: dict[tuple[int, torch.Size, torch.device], Tensor] = {}

    def act(self, x: Tensor) -> Tensor:
        return self._gather(x, 0)

    def inverse(self, x: Tensor) -> Tensor:
        return self._gather(x, 1)

    def _gather(self, x: Tensor, way: int) -> Tensor:
        flat = x.flatten(-2)
        pixels = self._pixels(x, way)
        return flat.gather(-1, pixels.view(len(x), *[1] * (flat.ndim - 2), -1).expand_as(flat)).view_as(x)

    def _pixels(self, x: Tensor, way: int) -> Tensor:
        """Which pixel each pixel takes its value from, (B, H·W); what the elements make of an image of the pixels' numbers."""
        key = (way, x.shape[-2:], x.device)
        if key not in self._kept:
            numbers = torch.arange(x.shape[-2] * x.shape[-1], device=x.device).view(x.shape[-2:])
            made = {actions: actions[way](numbers).flatten() for actions in self.ways}
            self._kept[key] = torch.stack([made[actions] for actions in self.ways])
        return self._kept[key]


def _permutations(ways: Sequence[tuple[Action, Action]]) -> Element:
    made = _Permutations(ways)
    return Element(made.act, made.inverse, "permutations")
