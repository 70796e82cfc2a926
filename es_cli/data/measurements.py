"""A data set of measurements, with ground truth beside them only where somebody may see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from es_cli.data.layout import Layout
from es_cli.data.shapes import Shape
from es_cli.data.stacks import ArrayStack
from es_cli.errors import DataError


class Samples(Protocol):
    """What a Stack and a stack of one offer: random access to samples that may lie on disk. `shapes` is that of each where they differ, else None."""

    @property
    def names(self) -> list[str]: ...
    @property
    def groups(self) -> np.ndarray | None: ...
    @property
    def shapes(self) -> list[Shape] | None: ...
    @property
    def sample_shape(self) -> Shape: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __len__(self) -> int: ...
    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, which have one shape, (n, …)."""


class SampleParameter(Protocol):
    """A parameter of the operator that may differ from sample to sample."""

    def read(self, at: np.ndarray, y: np.ndarray) -> np.ndarray:
        """That of the samples numbered `at`, whose measurements are y (B, …): (B, …), or (1, …) where all samples share it."""


class WholeArray(ArrayStack):
    """An array that is one sample and not a stack of them."""

    def __init__(self, samples: Samples) -> None:
        array = samples.read(range(len(samples)))
        super().__init__(array[None], [samples.names[0]])


@dataclass(frozen=True)
class Measurements:
    """Measurements y and, or None, ground truth x of the same samples; `index` says which of them this data set is.

    `params` are the operator's parameters where the data have their own, by name.
    """

    y: Samples
    layout: Layout
    index: np.ndarray
    x: Samples | None = None
    x_layout: Layout | None = None
    params: Mapping[str, SampleParameter] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def groups(self) -> np.ndarray | None:
        """To whom each sample belongs (file, subject or patient), shape (n,); None where nobody said."""
        return None if self.y.groups is None else np.asarray(self.y.groups)[self.index]

    def names(self, positions: Sequence[int]) -> list[str]:
        return [self.y.names[i] for i in self.index[np.asarray(positions, dtype=np.int64)]]

    def keys(self, positions: Sequence[int]) -> list[int]:
        """The number of each sample in the whole data set, which keys its random draws."""
        return self.index[np.asarray(positions, dtype=np.int64)].tolist()

    def subset(self, positions: np.ndarray) -> Measurements:
        return replace(self, index=self.index[positions])

    def without_ground_truth(self) -> Measurements:
        return replace(self, x=None, x_layout=None)

    @cached_property
    def shapes(self) -> np.ndarray | None:
        """A number for the shape of each sample as the operator sees it, (n,); None where all have one."""
        if self.y.shapes is None:
            return None
        found = np.unique([self.shape_at(position) for position in range(len(self))], axis=0, return_inverse=True)[1]
        return None if not found.any() else found.reshape(-1)

    def shape_at(self, position: int) -> Shape:
        """The shape of the measurement of one sample as the operator sees it."""
        return self.layout.fitted(self.y.sample_shape if self.y.shapes is None else self.y.shapes[self.index[position]]).shape

    def batch(self, positions: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """y (B, *shape), x (B, *image shape) or None, and the operator's parameters (B or 1, …) that these samples, all of one shape, have, on `device`.

        y and x are float32. Raises DataError naming the sample that does not fit or holds NaN or infinity.
        """
        at = self.index[np.asarray(positions, dtype=np.int64)]
        y = self._read(self.y, self.layout, at)
        x = None if self.x is None or self.x_layout is None else self._read(self.x, self.x_layout, at)
        params = {name: torch.from_numpy(one.read(at, y)).to(device) for name, one in self.params.items()}
        return torch.from_numpy(y).to(device), None if x is None else torch.from_numpy(x).to(device), params

    @staticmethod
    def _read(samples: Samples, layout: Layout, at: np.ndarray) -> np.ndarray:
        # samples of one shape may lie on disk with or without an axis of channels
        parts = [at] if samples.shapes is None else np.split(at, len(at))
        arrays = [layout.arrange(samples.read(part.tolist()), samples.names[part[0]])[0] for part in parts]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        finite = np.isfinite(array).reshape(len(array), -1).all(1)
        if not finite.all():
            bad = int(at[np.flatnonzero(~finite)[0]])
            raise not_finite(bad, samples.names[bad])
        return array


def not_finite(number: int, where: str) -> DataError:
    """What to answer where a sample holds NaN or infinity."""
    hint = "replace what was not measured by 0, or leave the sample out"
    return DataError(f"sample {number} holds NaN or infinity", where=where, hint=hint)


def hold_out(data: Measurements, fraction: float, seed: int) -> tuple[Measurements, Measurements]:
    """Split into training and validation: whole files, subjects or patients where they are known, else a seeded choice of samples.

    At least one sample is held out; with one sample in all it is both, and its fixed split is what validates.
    """
    if len(data) == 1:
        return data, data
    held = held_out(data.groups, len(data), fraction, seed)
    return data.subset(np.flatnonzero(~held)), data.subset(np.flatnonzero(held))


def held_out(groups: np.ndarray | None, count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` > 1 samples are held out, bool (count,): whole groups where there are several, else single samples.

    `share` is a fraction of them if it is below 1, else their number. At least one is held out, and one is left.
    """
    if groups is None or len(np.unique(groups)) < 2:
        groups = np.arange(count)
    distinct = np.unique(groups)
    order = np.random.default_rng(seed).permutation(distinct)
    wanted = round(share * len(distinct)) if share < 1 else round(share)
    return np.isin(groups, order[: min(max(1, wanted), len(distinct) - 1)])
