"""Samples of several shapes in one stack: which there are, what is said about them, and which of them are read together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from es_cli.errors import DataError

Shape = tuple[int, ...]
ONE_SHAPE = "give samples of one shape, one kind in a folder or glob"


class Shaped(Protocol):
    """Named samples; `shapes` says the shape of each where they differ, None: all have `sample_shape`."""

    @property
    def names(self) -> list[str]: ...
    @property
    def shapes(self) -> list[Shape] | None: ...
    @property
    def sample_shape(self) -> Shape: ...
    def __len__(self) -> int: ...


def where_they_differ(shapes: Sequence[Shape]) -> list[Shape] | None:
    """The shapes of samples, None where all are the same."""
    return list(shapes) if len(set(shapes)) > 1 else None


def several_shapes(samples: Shaped, why: str = "", hint: str = ONE_SHAPE) -> DataError:
    """What to answer where samples differ in shape and must not: up to five shapes, the most frequent first, and `why`."""
    shapes, names = samples.shapes or [samples.sample_shape] * len(samples), samples.names
    found = Counter(shapes)
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), 0)
    told = [f"{count} of {shape} ({Path(names[shapes.index(shape)]).name}{', …' if count > 1 else ''})" for shape, count in found.most_common(5)]
    more = f" and {len(found) - len(told)} more shapes" if len(found) > len(told) else ""
    what = f"the samples have {len(found)} shapes: {', '.join(told)}{more}"
    return DataError(f"{what}; {why}" if why else what, where=names[odd], hint=hint)


def shape_of(samples: Shaped, indices: Sequence[int]) -> Shape:
    """The shape that all samples at `indices` have. Raises DataError where they differ."""
    if samples.shapes is None or not len(indices):
        return samples.sample_shape
    found = {samples.shapes[int(i)] for i in indices}
    if len(found) > 1:
        raise several_shapes(samples)
    return found.pop()


def runs(samples: Shaped, longest: int) -> Iterator[list[int]]:
    """All samples in order, in lists of at most `longest` of one shape."""
    shapes, start = samples.shapes, 0
    while start < len(samples):
        end = min(start + longest, len(samples))
        if shapes is not None:
            end = next((i for i in range(start, end) if shapes[i] != shapes[start]), end)
        yield list(range(start, end))
        start = end


def one_of_each(samples: Shaped) -> list[int]:
    """The first sample of each shape."""
    return [0] if samples.shapes is None else [samples.shapes.index(shape) for shape in dict.fromkeys(samples.shapes)]
