"""How users' arrays and an operator's tensors correspond: batch axis, channel axis, complex numbers as two channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from es_cli.errors import DataError

RANK = 4  # of an image: channels, depth or time, height and width


@dataclass(frozen=True)
class Form:
    """What a user's array looked like: with a batch axis, complex, without the channel axis that the operator has."""

    batched: bool
    is_complex: bool
    bare: bool


@dataclass(frozen=True)
class Layout:
    """The shape (C, …, H, W) or (m,) of one sample as the operator sees it; `pair` where its two channels are real and imaginary part.

    `free` is how many of the last axes may have another length in other samples.
    """

    shape: tuple[int, ...]
    pair: bool
    free: int = 0

    def arrange(self, array: np.ndarray, where: str) -> tuple[np.ndarray, Form]:
        """One sample or a batch of one shape, told apart by the shape, as float32 (n, *shape), and the form to give it back in.

        Raises DataError, naming the shapes that are accepted, where the array is neither.
        """
        form = self.form(array.shape, array.dtype, where)
        return self.fitted(array.shape)._channels(array if form.batched else array[None]), form

    def form(self, shape: tuple[int, ...], dtype: np.dtype, where: str) -> Form:
        """The form that `arrange` finds an array of this shape in, without looking at its values. Raises DataError as it does."""
        is_complex = dtype.kind == "c"
        for form in self._forms(is_complex):
            for batched in (False, True):
                if len(shape) == len(form) + batched and self._has(form, shape[batched:]):
                    return Form(batched, is_complex, len(form) < len(self.shape))
        raise DataError(f"array of shape {shape} and type {dtype} does not fit the operator", where=where, hint=f"wanted {self.wanted}")

    def fitted(self, shape: Sequence[int]) -> Layout:
        """The layout of samples whose arrays have `shape`: this one, with the lengths of the free axes taken from it."""
        return replace(self, shape=(*self.shape[: -self.free], *shape[-self.free :])) if self.free else self

    def restore(self, samples: np.ndarray, form: Form) -> np.ndarray:
        """Images (n, *shape), float32, in the form in which the measurement came: complex if it was, no batch axis if it had none."""
        if form.is_complex and self.pair:
            samples = (samples[:, 0] + 1j * samples[:, 1]).astype(np.complex64)
        elif form.bare and not self.pair and self.shape[0] == 1:
            samples = samples[:, 0]
        return samples if form.batched else samples[0]

    @property
    def wanted(self) -> str:
        """The accepted shapes, in words."""
        forms = [f"{form} real" for form in self._forms(False)] + [f"{form} complex" for form in self._forms(True)]
        size = f", the last {self.free} axes of any length" if self.free else ""
        return " or ".join(forms) + f", or a batch (n, …) of these{size}"

    def _forms(self, is_complex: bool) -> list[tuple[int, ...]]:
        if is_complex:
            return [self.shape[1:], (1, *self.shape[1:])] if self.pair else []
        if len(self.shape) == 1:  # a vector, which may lie on disk with a channel axis
            return [self.shape, (1, *self.shape)]
        return [self.shape, self.shape[1:]] if self.shape[0] == 1 else [self.shape]

    def _has(self, form: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        fixed = len(form) - self.free
        return form[:fixed] == shape[:fixed]

    def _channels(self, samples: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(samples):
            samples = samples.reshape(len(samples), *self.shape[1:])
            samples = np.stack([samples.real, samples.imag], 1)
        # a copy: what lies on disk or in a pipe is read-only, and torch wants memory of its own
        return np.array(samples, dtype=np.float32, order="C").reshape(len(samples), *self.shape)


def infer_layout(sample_shape: Sequence[int], is_complex: bool, pair: bool, where: str, rank: int = 2) -> Layout:
    """The layout of images that an operator takes its size from, from the shape of one as it lies, or would lie, on disk.

    `rank` is the number of axes beside the channels: 3 for volumes and for frames.

    Raises DataError where the rank, or the number of channels, cannot be that of an image.
    """
    shape = tuple(int(n) for n in sample_shape)
    if is_complex and not pair:
        raise DataError("complex array, but this operator measures real images", where=where, hint="give the real part, or use an MRI")
    if pair:
        bare = shape if len(shape) == rank else shape[1:]
        full = (2, *bare) if is_complex else shape
        if len(full) != rank + 1 or full[0] != 2 or (is_complex and len(shape) > rank and shape[0] != 1):
            kind, axes = "complex" if is_complex else "real", "H, W" if rank == 2 else "D, H, W"
            raise DataError(
                f"samples of shape {shape}, {kind}", where=where, hint=f"wanted complex ({axes}), or two channels (2, {axes}): real and imaginary part"
            )
        return Layout(full, pair=True)
    if len(shape) == 2:
        return Layout((1, *shape), pair=False)
    if not 2 <= len(shape) <= RANK:
        raise DataError(f"samples of shape {shape} are no images", where=where, hint="wanted (H, W) or (C, H, W), the samples stacked first")
    return Layout(shape, pair=False)
