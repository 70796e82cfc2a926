"""Which samples come together: batches of one shape, each sample once, in an order that follows from a seed or as they come."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from es_cli.data.measurements import Measurements
from es_cli.streams import generator, stream_seed


class Epochs:
    """The batches of a training: in each epoch every sample once, in an order of its own, at most `size` of one shape together.

    Every batch follows from seed and step alone, so that a resumed run goes on with the same ones.
    """

    def __init__(self, data: Measurements, size: int, seed: int) -> None:
        self.data, self.size, self.seed = data, size, seed
        self.steps = steps_per_epoch(data, size)
        self._epoch, self._batches = -1, [np.empty(0, np.int64)]

    def positions(self, step: int) -> list[int]:
        """The positions of the samples of a step, counted from 1."""
        epoch, number = divmod(step - 1, self.steps)
        if epoch != self._epoch:  # drawn once for the epoch, since a step must not cost more where there are more samples
            self._epoch, self._batches = epoch, self._drawn(stream_seed(self.seed, "order", epoch))
        return self._batches[number].tolist()

    def epoch(self, step: int) -> int:
        """The epoch of a step, counted from 0."""
        return (step - 1) // self.steps

    def _drawn(self, seed: int) -> list[np.ndarray]:
        order = torch.randperm(len(self.data), generator=generator(seed)).numpy()
        batches = list(_cut(self.data, order, self.size))
        if self.data.shapes is None:
            return batches
        # the shapes come mixed, and not one after the other
        return [batches[i] for i in torch.randperm(len(batches), generator=generator(stream_seed(seed, "batches"))).tolist()]


def steps_per_epoch(data: Measurements, size: int) -> int:
    """How many batches of at most `size` samples of one shape hold all samples."""
    counts = [len(data)] if data.shapes is None else np.unique(data.shapes, return_counts=True)[1].tolist()
    return sum(math.ceil(count / size) for count in counts)


def in_order(data: Measurements, size: int) -> Iterator[list[int]]:
    """The positions of all samples, at most `size` of one shape together, those of each shape as they come."""
    return (batch.tolist() for batch in _cut(data, np.arange(len(data)), size))


def ends_of_each(data: Measurements) -> list[list[int]]:
    """The first and the last sample of each shape, together."""
    return [sorted({int(of_shape[0]), int(of_shape[-1])}) for of_shape in _by_shape(data, np.arange(len(data)))]


def _cut(data: Measurements, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for of_shape in _by_shape(data, order):
        yield from (of_shape[start : start + size] for start in range(0, len(of_shape), size))


def _by_shape(data: Measurements, order: np.ndarray) -> list[np.ndarray]:
    shapes = data.shapes
    return [order] if shapes is None else [order[shapes[order] == number] for number in np.unique(shapes)]
