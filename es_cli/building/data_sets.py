"""A part of the data of a spec → measurements: those of its files, or images measured once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from es_cli.building.forward_operator import Operator, as_samples
from es_cli.building.parameters import open_parameters
from es_cli.building.sizes import sized
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements, SampleParameter, Samples, not_finite
from es_cli.data.parameters import look_through
from es_cli.data.shapes import one_of_each, runs
from es_cli.data.simulate import simulate
from es_cli.data.stacks import ArrayStack, ListStack, find_nonfinite, open_stack, stacked
from es_cli.errors import DataError
from es_cli.spec.schema import Pair, Source
from es_cli.splitting.parameters import with_parameters
from es_cli.streams import stream_seed


def open_samples(source: Source | None, pictures: bool, seed: int, part: str = "train", scan: bool = True) -> Samples:
    """The stack of a source, if `scan` looked through for what is not finite where that does not take long; else each batch is checked as it is read."""
    assert source is not None  # a Pair has measurements or images
    stack = open_stack(source, pictures=pictures, seed=stream_seed(seed, "pictures"), part=part)
    bad = find_nonfinite(stack) if scan else None
    if bad is not None:
        raise not_finite(bad, stack.names[bad])
    return stack


def open_measurements(pair: Pair, operator: Operator, seed: int, purpose: str, opened: Samples | None = None, scan: bool = True) -> Measurements:
    """The samples of one part of the data; measured once from images, with one operator and one noise draw each, where only images are given."""
    part = operator.part
    if pair.measurements is None:
        images = opened or as_samples(open_samples(pair.images, True, seed, purpose), part, pictures=True)
        x = _as_images(images, operator.image)
        params = open_parameters(pair.params, operator, x)
        y = stacked(_simulated(x, operator, params, stream_seed(seed, "simulate-" + purpose)), x.names, x.groups)
        return Measurements(y, operator.measurement, np.arange(len(y)), x, operator.image, params)
    y_stack = opened or as_samples(open_samples(pair.measurements, False, seed, purpose, scan), part)
    _check_shapes(y_stack, operator.measurement)
    x_stack = None if pair.images is None else as_samples(open_samples(pair.images, True, seed, purpose), part, pictures=True)
    if x_stack is not None and len(x_stack) != len(y_stack):
        raise DataError(f"{len(x_stack)} images for {len(y_stack)} measurements", where=x_stack.names[0], hint="give one image for each measurement, in the same order")
    if x_stack is not None:
        _check_shapes(x_stack, operator.image)
        _check_same_sizes(y_stack, x_stack, operator)
    params = open_parameters(pair.params, operator, y_stack)
    data = Measurements(y_stack, operator.measurement, np.arange(len(y_stack)), x_stack, None if x_stack is None else operator.image, params)
    look_through(data)
    return data


def _check_shapes(stack: Samples, layout: Layout) -> None:
    """DataError where samples of one of the shapes of a stack do not fit the operator."""
    for i in one_of_each(stack):
        layout.arrange(stack.read([i]), stack.names[i])


def _check_same_sizes(y: Samples, x: Samples, operator: Operator) -> None:
    """DataError where an image has not the size of its measurement; only measurements of several sizes are like their images."""
    for i in range(len(y)) if operator.image.free else ():
        sizes = [operator.image.fitted((stack.shapes or {i: stack.sample_shape})[i]).shape for stack in (y, x)]
        if sizes[0] != sizes[1]:
            raise DataError(f"an image of shape {sizes[1]} for a measurement of one of {sizes[0]}", where=x.names[i], hint="give one image for each measurement, in the same order")


def _simulated(images: Samples, operator: Operator, params: Mapping[str, SampleParameter], seed: int) -> list[np.ndarray]:
    """Images measured once, each with the operator of its size and the parameters that it has of its own."""

    def of_sample(number: int) -> Any:
        at, image = np.array([number]), images.read([number])
        own = {name: torch.from_numpy(one.read(at, image)) for name, one in params.items()}
        return with_parameters(sized(operator, image.shape).physics, own)

    return simulate(images, operator.physics, seed, of_sample=of_sample if params or images.shapes else None)


def _as_images(stack: Samples, layout: Layout) -> ArrayStack | ListStack:
    """All images of a stack, float32 (C, …) each; real pictures get a zero imaginary part where the operator measures complex ones."""
    parts = [_arranged(stack, rows, layout) for rows in runs(stack, len(stack))]
    if len(parts) == 1:
        return ArrayStack(parts[0], stack.names, stack.groups)
    return stacked([image for part in parts for image in part], stack.names, stack.groups)


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
