"""Groups of image transformations, to draw from in training and to average over at evaluation.

The groups written here are orthogonal: C4, D4, reflections and shifts move pixels and are bit-exact, rotations are shears. Any other
transformation comes from deepinv (`transforms.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from es_cli.errors import Fault, SpecError
from es_cli.splitting.actions import IDENTITY, Action, Batch, Element, shift, turn_and_flip
from es_cli.splitting.rotations import rotation
from es_cli.streams import generator

__all__ = ["IDENTITY", "Action", "Batch", "Element", "FiniteGroup", "Group", "RotationGroup", "ShiftGroup", "named_group"]

# the axes that the elements of a group flip, beside the turns by 90° of C4 and D4
FLIPS: dict[str, list[tuple[int, ...]]] = {"C4": [()], "D4": [(), (-1,)], "reflections": [(), (-1,), (-2,), (-2, -1)]}


class Group(ABC):
    """A set of elements.

    `size` is the number of elements, None where there are too many to list. `orthogonal` says that T⁻¹ = Tᵀ holds exactly. `per_batch`:
    all samples of a training batch share one element.
    """

    size: int | None = None
    orthogonal: bool = True
    per_batch: bool = False

    @abstractmethod
    def sample(self, count: int, seed: int) -> list[Element]:
        """`count` random elements, independent and uniform."""

    def draw(self, count: int, seed: int) -> list[Element]:
        """The element of each of `count` samples of a training batch: independent, or the same for all if `per_batch`."""
        return self.sample(1, seed) * count if self.per_batch else self.sample(count, seed)

    def representatives(self, count: int, seed: int) -> list[Element]:
        """What stands for the whole group at evaluation: every element once, or `count` of them where they are too many to list."""
        return self.sample(count, seed)


class FiniteGroup(Group):
    """A group given by the list of its elements."""

    def __init__(self, elements: Sequence[Element], orthogonal: bool = True) -> None:
        self._elements = list(elements)
        self.size = len(self._elements)
        self.orthogonal = orthogonal

    def sample(self, count: int, seed: int) -> list[Element]:
        chosen = torch.randint(len(self._elements), (count,), generator=generator(seed))
        return [self._elements[i] for i in chosen.tolist()]

    def elements(self) -> list[Element]:
        """Every element, once."""
        return list(self._elements)

    def representatives(self, count: int, seed: int) -> list[Element]:
        return self.elements()


class ShiftGroup(Group):
    """All circular shifts by whole pixels; at evaluation, random ones."""

    def sample(self, count: int, seed: int) -> list[Element]:
        return [shift(*parts) for parts in torch.rand(count, 2, generator=generator(seed), dtype=torch.float64).tolist()]


class RotationGroup(Group):
    """All rotations of a square image; at evaluation, equally spaced angles that start at 0."""

    def sample(self, count: int, seed: int) -> list[Element]:
        return [rotation(360 * turn) for turn in torch.rand(count, generator=generator(seed), dtype=torch.float64).tolist()]

    def representatives(self, count: int, seed: int) -> list[Element]:
        return [rotation(360 * i / count) for i in range(count)]


def named_group(name: str, image_shape: Sequence[int]) -> Group:
    """The group called `name` for images of shape (…, H, W).

    Raises SpecError where its elements do not map these images to themselves exactly, and says which group or size would.
    """
    height, width = image_shape[-2:]
    if name in {"C4", "D4", "rotations"} and height != width:
        turns = "turns images by 90°" if name != "rotations" else "turns images"
        what = f"group {name} {turns}, and these have {height} × {width} pixels"
        raise SpecError([Fault(what, "transforms.group", "use group: reflections or shifts, or crop the images to squares")])
    if name == "rotations":
        return RotationGroup()
    if name == "trivial":
        return FiniteGroup([IDENTITY])
    if name == "shifts":
        return ShiftGroup()
    turns_of = range(4) if name in {"C4", "D4"} else (0,)
    return FiniteGroup([turn_and_flip(turn, flip) for turn in turns_of for flip in FLIPS[name]])
