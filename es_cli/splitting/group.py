"""Groups of image transformations: elements that act on a batch of images and are undone exactly.

An element T_g acts on images of shape (B, C, H, W). The groups written here permute pixels, so they are orthogonal and bit-exact;
any other transformation comes from deepinv through `TransformGroup`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.errors import Fault, SpecError
from es_cli.streams import generator, reseed, stream_seed

Action = Callable[[Tensor], Tensor]
# the axes that the elements of a group flip, beside the turns by 90° of C4 and D4
FLIPS: dict[str, list[tuple[int, ...]]] = {"C4": [()], "D4": [(), (-1,)], "reflections": [(), (-1,), (-2,), (-2, -1)]}


@dataclass(frozen=True)
class Element:
    """One transformation T_g: `act` is T_g and `inverse` T_g⁻¹; both map (B, C, H, W) to the same shape."""

    act: Action
    inverse: Action
    label: str


IDENTITY = Element(lambda x: x, lambda x: x, "identity")


class Batch:
    """A transformation of a batch in which consecutive runs of samples each have their own element."""

    def __init__(self, elements: Sequence[Element], run: int = 1) -> None:
        runs = [(element, run * len(list(same))) for element, same in itertools.groupby(elements, key=lambda e: e)]
        self.elements = [element for element, _ in runs]
        self.counts = [count for _, count in runs]

    def act(self, x: Tensor) -> Tensor:
        """T_g x, each sample with the g of its run."""
        return self._map([element.act for element in self.elements], x)

    def inverse(self, x: Tensor) -> Tensor:
        """T_g⁻¹ x, each sample with the g of its run."""
        return self._map([element.inverse for element in self.elements], x)

    def _map(self, actions: list[Action], x: Tensor) -> Tensor:
        if len(actions) == 1:
            return actions[0](x)
        return torch.cat([action(part) for action, part in zip(actions, x.split(self.counts), strict=True)])


class Group(ABC):
    """A set of elements to draw from (training) and to average over (evaluation).

    `size` is the number of elements, None where there are too many to list. `orthogonal` says that T⁻¹ = Tᵀ holds exactly.
    """

    size: int | None
    orthogonal: bool = True

    @abstractmethod
    def draw(self, count: int, seed: int) -> list[Element]:
        """`count` random elements, independent and uniform."""

    @abstractmethod
    def elements(self) -> list[Element]:
        """Every element, once. Only where `size` is not None."""


class FiniteGroup(Group):
    """A group given by the list of its elements."""

    def __init__(self, elements: Sequence[Element], orthogonal: bool = True) -> None:
        self._elements = list(elements)
        self.size = len(self._elements)
        self.orthogonal = orthogonal

    def draw(self, count: int, seed: int) -> list[Element]:
        chosen = torch.randint(len(self._elements), (count,), generator=generator(seed))
        return [self._elements[i] for i in chosen.tolist()]

    def elements(self) -> list[Element]:
        return list(self._elements)


class ShiftGroup(Group):
    """All circular shifts of an image of H × W pixels."""

    size = None

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def draw(self, count: int, seed: int) -> list[Element]:
        rng = generator(seed)
        down = torch.randint(self.height, (count,), generator=rng).tolist()
        right = torch.randint(self.width, (count,), generator=rng).tolist()
        return [_shift(a, b) for a, b in zip(down, right, strict=True)]

    def elements(self) -> list[Element]:
        raise NotImplementedError("the shifts of an image are drawn, not listed")


class TransformGroup(Group):
    """Elements given by a deepinv transform, in training and at evaluation those that one call of its `get_params` yields."""

    def __init__(self, transform: Any, image_shape: Sequence[int], orthogonal: bool) -> None:
        self.transform = transform
        self.orthogonal = orthogonal
        # deepinv reads sizes off an image; its values are never looked at
        self._image = torch.zeros(1, *image_shape)
        self.size = None

    def draw(self, count: int, seed: int) -> list[Element]:
        return [self._drawn(stream_seed(seed, "element", i))[0] for i in range(count)]

    def elements(self) -> list[Element]:
        return self._drawn(0)

    def _drawn(self, seed: int) -> list[Element]:
        reseed(self.transform, seed)
        params = self.transform.get_params(self._image)
        return [self._element(one) for one in self.transform.iterate_params(params)] if params else [IDENTITY]

    def _element(self, params: dict[str, Any]) -> Element:
        label = ", ".join(f"{key}={value.tolist()}" for key, value in params.items())
        return Element(lambda x: self.transform.transform(x, **params), lambda x: self.transform.inverse(x, **params), label)


def named_group(name: str, image_shape: Sequence[int]) -> Group:
    """The group called `name` for images of shape (…, H, W).

    Raises SpecError where a rotation by 90° would change the shape of the image.
    """
    height, width = image_shape[-2:]
    if name in {"C4", "D4"} and height != width:
        raise SpecError(
            [
                Fault(
                    f"group {name} turns images by 90°, and these have {height} × {width} pixels",
                    "transforms.group",
                    "use group: reflections or shifts, or crop the images to squares",
                )
            ]
        )
    if name == "trivial":
        return FiniteGroup([IDENTITY])
    if name == "shifts":
        return ShiftGroup(height, width)
    turns = range(4) if name in {"C4", "D4"} else (0,)
    return FiniteGroup([_turn_and_flip(turn, flip) for turn in turns for flip in FLIPS[name]])


def _turn_and_flip(turn: int, flip: tuple[int, ...]) -> Element:
    if not turn and not flip:
        return IDENTITY

    def act(x: Tensor) -> Tensor:
        x = torch.rot90(x, turn, (-2, -1)) if turn else x
        return torch.flip(x, flip) if flip else x

    def inverse(x: Tensor) -> Tensor:
        x = torch.flip(x, flip) if flip else x
        return torch.rot90(x, -turn, (-2, -1)) if turn else x

    return Element(act, inverse, f"turn {90 * turn}°, flip {list(flip)}")


def _shift(down: int, right: int) -> Element:
    return Element(
        lambda x: torch.roll(x, (down, right), (-2, -1)), lambda x: torch.roll(x, (-down, -right), (-2, -1)), f"shift {down}, {right}"
    )
