"""A part of the data of a spec → measurements: those of its files, or images measured once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli.building.forward_operator import Operator, as_samples
from es_cli.building.parameters import open_parameters
from es_cli.building.sizes import sized
from es_cli.data import stacks
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements, SampleParameter, Samples, not_finite
from es_cli.data.parameters import look_through
from es_cli.data.shapes import Shape, one_of_each, runs, where_they_differ
from es_cli.data.simulate import measure_each
from es_cli.data.stacks import ArrayStack, ListStack, find_nonfinite, open_stack, stacked
from es_cli.errors import DataError
from es_cli.spec.schema import Pair, Source
from es_cli.splitting.parameters import with_parameters
from es_cli.streams import stream_seed


def open_samples(source: Source | None, pictures: bool, seed: int, part: str = "train", keep: Path | None = None, scan: bool = True) -> Samples:
    """The stack of a source, if `scan` looked through for what is not finite where that does not take long; else each batch is checked as it is read,
    and files may be damaged.

    `keep` is where pictures are decoded to, as in `open_stack`.
    """
    assert source is not None  # a Pair has measurements or images
    stack = open_stack(source, pictures=pictures, seed=stream_seed(seed, "pictures"), part=part, keep=keep, forgiving=not scan)
    bad = find_nonfinite(stack) if scan else None
    if bad is not None:
        raise not_finite(bad, stack.names[bad])
    return stack


def open_measurements(pair: Pair, operator: Operator, seed: int, purpose: str, opened: Samples | None = None, scan: bool = True) -> Measurements:
    """The samples of one part of the data; measured once from images, with one operator and one noise draw each, where only images are given."""
    part = operator.part
    if pair.measurements is None:
        images = opened or as_samples(open_samples(pair.images, True, seed, purpose), part, pictures=True)
        x = _held(ImageStack(images, operator.image))
        params = open_parameters(pair.params, operator, x)
        y = stacked(list(measured(x, operator, params, seed, purpose)), x.names, x.groups)
        return Measurements(y, operator.measurement, np.arange(len(y)), x, operator.image, params)
    y_stack = opened or as_samples(open_samples(pair.measurements, False, seed, purpose, scan=scan), part)
    _check_shapes(y_stack, operator.measurement, scan)
    x_stack = None if pair.images is None else as_samples(open_samples(pair.images, True, seed, purpose), part, pictures=True)
    if x_stack is not None and len(x_stack) != len(y_stack):
        raise DataError(f"{len(x_stack)} images for {len(y_stack)} measurements", where=x_stack.names[0], hint="give one image for each measurement, in the same order")
    if x_stack is not None:
        _check_shapes(x_stack, operator.image, True)
        _check_same_sizes(y_stack, x_stack, operator)
    params = open_parameters(pair.params, operator, y_stack)
    data = Measurements(y_stack, operator.measurement, np.arange(len(y_stack)), x_stack, None if x_stack is None else operator.image, params)
    look_through(data)
    return data


def _check_shapes(stack: Samples, layout: Layout, whole: bool) -> None:
    """DataError where samples of one of the shapes of a stack do not fit the operator; or cannot be read, if all should be `whole`."""
    for i in one_of_each(stack):
        try:
            sample = stack.read([i])
        except DataError:
            if whole:
                raise
            sample = np.zeros((1, *(stack.sample_shape if stack.shapes is None else stack.shapes[i])), stack.dtype)
        layout.arrange(sample, stack.names[i])


def _check_same_sizes(y: Samples, x: Samples, operator: Operator) -> None:
    """DataError where an image has not the size of its measurement; only measurements of several sizes are like their images."""
    for i in range(len(y)) if operator.image.free else ():
        sizes = [operator.image.fitted((stack.shapes or {i: stack.sample_shape})[i]).shape for stack in (y, x)]
        if sizes[0] != sizes[1]:
            raise DataError(f"an image of shape {sizes[1]} for a measurement of one of {sizes[0]}", where=x.names[i], hint="give one image for each measurement, in the same order")


def measured(images: Samples, operator: Operator, params: Mapping[str, SampleParameter], seed: int, purpose: str) -> Iterator[np.ndarray]:
    """Images of an ImageStack measured once, one after the other, each with the operator of its size and the parameters that it has of its own.

    The noise follows from the seed, from `purpose`, which is train, validation or test, and from the number of the image.
    """

    def of_sample(number: int) -> Any:
        shape = images.sample_shape if images.shapes is None else images.shapes[number]
        like = np.empty((1, *shape), np.float32)
        own = {name: torch.from_numpy(one.read(np.array([number]), like)) for name, one in params.items()}
        return with_parameters(sized(operator, shape).physics, own)

    largest = max(math.prod(shape) for shape in images.shapes or [images.sample_shape])
    together = min(32, max(1, stacks.SCAN // (4 * largest)))
    return measure_each(images, operator.physics, stream_seed(seed, "simulate-" + purpose), together, of_sample if params or images.shapes else None)


class ImageStack:
    """The images of a stack as an operator takes them, float32 (C, …) each, arranged when they are read.

    Real pictures get a zero imaginary part where the operator measures complex ones. Reading raises DataError for what it cannot measure.
    """

    def __init__(self, stack: Samples, layout: Layout) -> None:
        self.stack, self.layout = stack, layout
        self.names, self.groups, self.dtype = stack.names, stack.groups, np.dtype(np.float32)
        found = [layout.fitted(shape).shape for shape in stack.shapes or [stack.sample_shape]]
        self.shapes: list[Shape] | None = where_they_differ(found)
        self.sample_shape: Shape = found[0]

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The images at `indices`, which have one shape, (n, C, …)."""
        # images of one shape may lie on disk with or without an axis of channels
        parts = [indices] if self.stack.shapes is None else [[i] for i in indices]
        return np.concatenate([_arranged(self.stack, part, self.layout) for part in parts])


def _held(images: ImageStack) -> ArrayStack | ListStack:
    """All images in memory."""
    parts = [images.read(rows) for rows in runs(images, len(images))]
    if len(parts) == 1:
        return ArrayStack(parts[0], images.names, images.groups)
    return stacked([image for part in parts for image in part], images.names, images.groups)


def _arranged(stack: Samples, rows: Sequence[int], layout: Layout) -> np.ndarray:
    """The images at `rows`, which have one shape."""
    raw, layout = stack.read(rows), layout.fitted(stack.sample_shape if stack.shapes is None else stack.shapes[rows[0]])
    if layout.pair and not np.iscomplexobj(raw) and raw.shape[1:] != layout.shape:
        grey = raw.reshape(len(raw), *layout.shape[1:]) if raw.size == len(raw) * math.prod(layout.shape[1:]) else None
        if grey is None:
            raise DataError(f"pictures of shape {raw.shape[1:]} for complex images", where=stack.names[rows[0]], hint="add grey: true to data.train.images")
        raw = grey.astype(np.complex64)
    array, _ = layout.arrange(raw, stack.names[rows[0]])
    return array
