"""deepinv's transforms as groups, checked to be undone exactly; and groups as transforms, for losses of deepinv."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.transform import Rotate, RotateViaShear, Transform
from torch import Tensor

from es_cli.errors import LIBRARY_ERRORS, Fault, SpecError, said
from es_cli.splitting.actions import IDENTITY, Batch, Element
from es_cli.splitting.group import Group
from es_cli.streams import generator, reseed, stream_seed

# how much of an image a transform may change on the way there and back, and how far its inverse may be from its adjoint
TOLERANCE = 1e-3
# how many random elements are tried
TRIED = 6


class TransformGroup(Group):
    """Products of elements of deepinv transforms, the first of which acts first.

    In training one element of each is drawn; `elements` are those that one call of each transform's `get_params` yields, `n_trans` of them.
    They are drawn for images of `image_shape`, and act on others too where they are undone there, see `transform_group`.
    """

    def __init__(self, transforms: Sequence[Any], image_shape: Sequence[int], orthogonal: bool = True) -> None:
        self.transforms = list(transforms)
        self.orthogonal = orthogonal
        # deepinv reads sizes off an image; its values are never looked at
        self._image = torch.zeros(1, *image_shape)

    def sample(self, count: int, seed: int) -> list[Element]:
        return [self._drawn(stream_seed(seed, "element", i))[0] for i in range(count)]

    def elements(self) -> list[Element]:
        """All products of the elements that each transform yields."""
        return self._drawn(0)

    def _drawn(self, seed: int) -> list[Element]:
        factors = [_elements(one, self._image, stream_seed(seed, "transform", i)) for i, one in enumerate(self.transforms)]
        return [_product(combination) for combination in itertools.product(*factors)]


def _elements(transform: Any, image: Tensor, seed: int) -> list[Element]:
    """The `n_trans` elements of one draw. `iterate_params` combines each shift down with each shift right: nine for three (deepinv 0.5.0)."""
    reseed(transform, seed)
    params = transform.get_params(image)
    if not params:
        return [IDENTITY]
    count = max(len(value) for value in params.values())
    return [_element(transform, {key: value[i : i + 1] for key, value in params.items()}) for i in range(count)]


def _element(transform: Any, params: dict[str, Any]) -> Element:
    label = ", ".join(f"{key}={value.tolist()}" for key, value in params.items())
    return Element(lambda x: transform.transform(x, **params), lambda x: transform.inverse(x, **params), f"{type(transform).__name__} {label}")


def _product(factors: Sequence[Element]) -> Element:
    if len(factors) == 1:
        return factors[0]
    label = " · ".join(element.label for element in factors)
    return Element(_chained([e.act for e in factors]), _chained([e.inverse for e in reversed(factors)]), label)


def _chained(actions: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    return lambda x: functools.reduce(lambda made, action: action(made), actions, x)


@dataclass(frozen=True)
class Defects:
    """The largest relative errors among elements that were tried: ‖T⁻¹T x − x‖ / ‖x‖, and ‖T⁻¹z − Tᵀz‖ / ‖z‖. `worst` names the element."""

    round_trip: float
    adjoint: float
    worst: str


def defects(group: TransformGroup, image_shape: Sequence[int]) -> Defects:
    """How far elements of `group` are from being undone and from being orthogonal, on random images (C, …, H, W)."""
    return element_defects([*group.elements()[:TRIED], *group.sample(TRIED, stream_seed(0, "defects", 1))], image_shape)


def element_defects(elements: Sequence[Element], image_shape: Sequence[int], device: torch.device | str = "cpu") -> Defects:
    """How far these elements are from being undone and from being orthogonal, on random images (C, …, H, W)."""
    rng = generator(stream_seed(0, "defects"))
    x, z = torch.randn(2, 1, *image_shape, generator=rng).to(device)
    trips, adjoints, names = [], [], []
    for element in elements:
        moved = element.act(x)
        trips.append(_relative(element.inverse(moved), x) if moved.shape == x.shape else float("inf"))
        adjoints.append(_relative(element.inverse(z), _adjoint(element, z)) if moved.shape == x.shape else float("inf"))
        names.append(element.label)
    return Defects(max(trips), max(adjoints), names[trips.index(max(trips))])


def _adjoint(element: Element, z: Tensor) -> Tensor:
    """Tᵀz by automatic differentiation; zero where T cannot be differentiated."""
    with torch.enable_grad():
        x = torch.zeros_like(z, requires_grad=True)
        moved = element.act(x)
        return torch.autograd.grad(moved, x, z)[0] if moved.requires_grad else torch.zeros_like(z)


def _relative(made: Tensor, wanted: Tensor) -> float:
    error = float((made - wanted).norm() / wanted.norm().clamp(min=torch.finfo(wanted.dtype).tiny))
    return float("inf") if error != error else error


def transform_group(
    transforms: Sequence[Any], image_shape: Sequence[int], paths: Sequence[str], others: Sequence[Sequence[int]] = ()
) -> TransformGroup:
    """The products of `transforms` on images (C, …, H, W), each tried on random images first; `paths` are their places in the spec.

    `others` are the shapes of the other images where they have several: elements are drawn for the largest. Raises SpecError for a transform that is not undone to `TOLERANCE`, or cannot act at all, with what was measured and what would work.
    """
    faults = []
    orthogonal = True
    shapes = list(dict.fromkeys(tuple(shape) for shape in (image_shape, *others)))
    largest = max(shapes, key=math.prod)
    for (one, path), shape in itertools.product(zip(transforms, paths, strict=True), shapes):
        try:
            measured = _measured(one, largest, shape)
        except LIBRARY_ERRORS as error:
            why = "needs a package that is not installed" if isinstance(error, ImportError) else "cannot act on these images"
            faults.append(Fault(f"{type(one).__name__} {why}: {said(error)}", path, _what_would_work(one, shape)))
            continue
        orthogonal = orthogonal and measured.adjoint <= TOLERANCE
        if measured.round_trip > TOLERANCE:
            lost = "the shape" if measured.round_trip == float("inf") else f"{100 * measured.round_trip:.3g} %"
            what = f"{type(one).__name__} is not undone by its inverse: {lost} of a random image is lost ({measured.worst})"
            faults.append(Fault(what, path, _what_would_work(one, shape)))
    if faults:
        raise SpecError(faults)
    return TransformGroup(transforms, largest, orthogonal)


def _measured(transform: Any, drawn_for: Sequence[int], image_shape: Sequence[int]) -> Defects:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deepinv calls torch in ways that torch is about to change
        return defects(TransformGroup([transform], drawn_for), image_shape)


def _what_would_work(transform: Any, image_shape: Sequence[int]) -> str:
    if not isinstance(transform, (Rotate, RotateViaShear)):
        return "use group: D4, reflections or shifts"
    if image_shape[-2] != image_shape[-1]:
        return "crop to squares, or rotate by 180°, or use group: reflections or shifts"
    return "use group: rotations or D4"


class GroupTransform(Transform):
    """A group as a transform of deepinv: each call draws elements of `group`, one for each sample or one for all, as the group says.

    What it draws follows from its generator `rng`, which losses reseed before each use.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(flatten_video_input=False)
        self.group = group

    def _get_params(self, x: Tensor) -> dict[str, Tensor]:
        return {"seed": torch.randint(2**62, (1,), generator=self.rng)}

    def _transform(self, x: Tensor, seed: Any = None, **params: Any) -> Tensor:
        return self._batch(x, seed).act(x)

    def inverse(self, x: Tensor, batchwise: bool = True, seed: Any = None, **params: Any) -> Tensor:
        """T_g⁻¹x for the elements that `get_params` drew."""
        return self._batch(x, seed).inverse(x)

    def _batch(self, x: Tensor, seed: Any) -> Batch:
        return Batch(self.group.draw(len(x), int(seed)))
