"""Operator parameters that differ from sample to sample: masks, coil maps, noise levels, from files or read off the measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from es_cli.data import readers
from es_cli.data.files import find_files
from es_cli.data.measurements import Measurements, Samples, WholeArray
from es_cli.data.shapes import Shape
from es_cli.data.stacks import SCAN, ArrayStack, open_stack
from es_cli.errors import DataError
from es_cli.spec.schema import ArrayFile, Source

LIMIT = 2 << 30  # bytes of parameters that are looked through before training; beyond, each batch is checked as it is read


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operator and the shape that one sample's has as the operator takes it: (C, …) for a mask, (N, …) for N coil maps,
    () for sigma and gain. `pair` where the channels of a mask are those of complex numbers."""

    name: str
    shape: tuple[int, ...]
    pair: bool = False

    def arrange(self, array: np.ndarray, count: int, where: str) -> np.ndarray:
        """One array for all of `count` samples, or one for each, told apart by the shape: (1 or count, *shape), float32, or complex64 for coil maps.

        Raises DataError, naming the shapes that are wanted, where it is neither, or where its values are none of this parameter.
        """
        array = self._without_singletons(array)
        samples = array if self.counts_samples(array.shape, array.dtype, count, where) else array[None]
        return self.checked(samples, [where if len(samples) == 1 else f"{where}[{i}]" for i in range(len(samples))])

    def sized(self, like: Sequence[int]) -> Parameter:
        """The same for samples of another size: for those whose measurements or images have the shape `like` (…, H, W)."""
        spatial = len(self.shape) - 1
        return replace(self, shape=(self.shape[0], *like[-spatial:])) if spatial > 0 else self

    def fits(self, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        """Whether an array is that of one sample."""
        return shape in self._forms(dtype.kind == "c")

    def counts_samples(self, shape: tuple[int, ...], dtype: np.dtype, count: int, where: str) -> bool:
        """Whether the first axis of an array counts samples (1 or `count`), or the array is one for all. Raises DataError where it is neither."""
        single, stacked = self.fits(shape, dtype), len(shape) > 0 and self.fits(shape[1:], dtype)
        if stacked and shape[0] not in (1, count) and not single:
            raise self.too_many(shape[0], count, where)
        stacked = stacked and shape[0] in (1, count)
        if stacked and single and shape[0] > 1 and not self.pair:
            what = f"{self.name} of shape {shape} could be one for all, or one for each of {count} samples"
            raise DataError(what, where=where, hint=f"give shape {(1, *self.shape)} or {(count, *self.shape)}")
        if not stacked and not single:
            raise self.misfit(shape, dtype, count, where)
        return stacked

    def misfit(self, shape: tuple[int, ...], dtype: np.dtype, count: int, where: str) -> DataError:
        """What to answer where an array has another shape."""
        what = f"{self.name} of shape {shape} and type {dtype} does not fit the operator"
        return DataError(what, where=where, hint=f"wanted {self.wanted(count)}")

    def too_many(self, found: int, count: int, where: str) -> DataError:
        """What to answer where there are fewer or more than samples."""
        return DataError(f"{self.name} of {found} samples, but there are {count}", where=where, hint=f"wanted {self.wanted(count)}")

    def checked(self, samples: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Arrays (n, …) in one of the accepted forms as (n, *shape), after a look at their values. Raises DataError naming the sample at fault."""
        if self.name == "coil_maps":
            arranged = samples if np.iscomplexobj(samples) else samples[:, 0] + 1j * samples[:, 1]
            arranged = np.array(arranged, np.complex64)
        else:
            missing = len(self.shape) + 1 - samples.ndim
            aligned = samples.reshape(len(samples), *[1] * missing, *samples.shape[1:])
            arranged = np.array(np.broadcast_to(aligned, (len(samples), *self.shape)), np.float32)
        for value, name in zip(arranged, names, strict=True):
            self._check(value, name)
        return arranged

    def wanted(self, count: int) -> str:
        """The accepted shapes, in words."""
        kind = "complex" if self.name == "coil_maps" else "real"
        form = f"{self.shape}" if len(self.shape) < 2 or kind == "complex" else f"{self.shape[1:]} or {self.shape}"
        if not self.shape:
            return f"one number, or {count} of them, one for each sample"
        return f"{form}, {kind}, for all samples, or ({count}, …) of these, one for each"

    def _forms(self, is_complex: bool) -> list[tuple[int, ...]]:
        if self.name == "coil_maps":
            return [self.shape] if is_complex else [(2, *self.shape)]
        if is_complex:
            return []
        return [self.shape, self.shape[1:], (1, *self.shape[1:])] if len(self.shape) > 1 else [self.shape]

    def _without_singletons(self, array: np.ndarray) -> np.ndarray:
        """Numbers (n, 1, 1, 1) as (n,)."""
        return array.reshape(array.shape[:1]) if not self.shape and array.ndim > 1 and array.size == len(array) else array

    def _check(self, value: np.ndarray, where: str) -> None:
        if self.name == "mask":
            check_mask(value, where)
            if self.pair and not (value == value[:1]).all():
                raise DataError("the mask differs between real and imaginary part", where=where, hint=f"give masks of shape {self.shape[1:]}")
        elif not np.isfinite(value).all():
            raise DataError(f"{self.name} holds NaN or infinity", where=where, hint="every value must be a number")
        elif self.name == "coil_maps" and not value.any():
            raise DataError("the coil maps are 0 everywhere", where=where, hint="estimate them from the centre of k-space")
        elif not self.shape and (value < 0 or (self.name == "gain" and value == 0)):
            raise DataError(f"{self.name} is {float(value):g}", where=where, hint="it must be above 0")


def check_mask(mask: np.ndarray, where: str) -> None:
    """DataError where a mask holds anything but 0 and 1, or nothing but 0."""
    if not ((mask == 0) | (mask == 1)).all():
        raise DataError("the mask holds values other than 0 and 1", where=where, hint="give 1 where something was measured and 0 elsewhere")
    if not mask.any():
        raise DataError("the mask is 0 everywhere: nothing was measured", where=where, hint="leave the sample out, or give its mask")


class StoredParameter:
    """A parameter that lies in a file, read when it is asked for: one for each sample, or one for all of them."""

    def __init__(self, parameter: Parameter, samples: Samples, each: bool) -> None:
        self.parameter, self.samples, self.each = parameter, samples, each

    def read(self, at: np.ndarray, y: np.ndarray) -> np.ndarray:
        """That of the samples at `at`, (B or 1, *shape); of `y`, their measurements or images, only the size counts. Raises DataError."""
        rows = at.tolist() if self.each else [0]
        parameter = self.parameter.sized(y.shape) if y.size else self.parameter
        if self.samples.shapes is None:
            return parameter.checked(self.samples.read(rows), [self.samples.names[row] for row in rows])
        # masks of one size may lie on disk with or without an axis of channels
        return np.concatenate([parameter.checked(self.samples.read([row]), [self.samples.names[row]]) for row in rows])


class OwnZeros:
    """The mask of each sample, read off the zeros of its own measurement: what `mask: from-data` stands for among the parameters of samples."""

    def __init__(self, parameter: Parameter, names: Sequence[str]) -> None:
        self.parameter, self.names = parameter, names

    def read(self, at: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The masks of measurements y (B, …), which are those at `at`: (B, *shape). Raises DataError where a measurement is 0 everywhere."""
        return self.parameter.sized(y.shape).checked(self.seen(y), [self.names[i] for i in at])

    def seen(self, y: np.ndarray) -> np.ndarray:
        """1 where y (B, C, …) is not 0 in any of its coils, and either channel of a complex number: (B, C, …)."""
        seen = y != 0
        coils = tuple(range(2, 2 + seen.ndim - 1 - len(self.parameter.shape)))
        seen = seen.any(coils) if coils else seen
        return seen.any(1, keepdims=True) if self.parameter.pair else seen


def open_numbers(source: ArrayFile) -> np.ndarray:
    """Numbers, one for each sample, of a file or of several one after the other: (n,), or as the one file has them. Raises DataError."""
    arrays = [np.asarray(readers.open_array(path, source.key)) for path in find_files(source.file)]
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.atleast_1d(array) for array in arrays])


def open_parameter(source: ArrayFile, parameter: Parameter, count: int, sizes: Sequence[Shape] | None = None) -> StoredParameter:
    """The parameter of `count` samples in a file, a folder or a glob, in which each file is a sample; values are looked through where that is quick.

    `sizes` are the shapes (…, H, W) of the samples where they differ. Raises DataError, naming the shapes that are wanted, where the file does
    not hold it.
    """
    if not parameter.shape:
        array = parameter.arrange(open_numbers(source), count, source.file)
        names = [f"{source.file}[{i}]" if len(array) > 1 else source.file for i in range(len(array))]
        return StoredParameter(parameter, ArrayStack(array, names), each=len(array) == count)
    stack: Samples = open_stack(Source(file=source.file, key=source.key), pictures=False, seed=0)
    if len(find_files(source.file)) > 1:  # each file is a sample, so that their number is not taken for an axis
        if sizes is None and stack.shapes is None and not parameter.fits(stack.sample_shape, stack.dtype):
            raise parameter.misfit(stack.sample_shape, stack.dtype, count, stack.names[0])
        if len(stack) != count:
            raise parameter.too_many(len(stack), count, source.file)
        stacked = True
    elif sizes is not None:
        hint = "give a folder with one file for each sample, in the order of the samples"
        raise DataError(f"one array of {parameter.name} for samples of several sizes", where=source.file, hint=hint)
    else:
        stacked = parameter.counts_samples((len(stack), *stack.sample_shape), stack.dtype, count, source.file)
    each = stacked and len(stack) == count
    if sizes is not None or stack.shapes is not None:
        _check_each_size(stack, parameter, sizes or [parameter.shape] * count)
    stored = StoredParameter(parameter, stack if stacked else WholeArray(stack), each)
    for rows in _chunks(count if each else 1, parameter.shape, together=sizes is None):
        stored.read(rows, np.empty(0) if sizes is None else np.empty(sizes[rows[0]]))
    return stored


def _check_each_size(stack: Samples, parameter: Parameter, sizes: Sequence[Shape]) -> None:
    """DataError where one of the samples has a parameter of another size than its own."""
    for i, size in enumerate(sizes):
        shape = stack.sample_shape if stack.shapes is None else stack.shapes[i]
        if not parameter.sized(size).fits(shape, stack.dtype):
            raise parameter.sized(size).misfit(shape, stack.dtype, 1, stack.names[i])


def look_through(data: Measurements) -> None:
    """Read the parameters that are seen in the measurements themselves, where that is quick. Raises DataError for the sample that has none."""
    if any(isinstance(one, OwnZeros) for one in data.params.values()):
        for rows in _chunks(len(data), data.layout.shape, together=data.shapes is None):
            data.batch(rows.tolist())


def _chunks(count: int, shape: tuple[int, ...], together: bool) -> Iterator[np.ndarray]:
    """The numbers of `count` samples in runs that fit into memory, or one by one; none where looking at all of them would take long."""
    size = max(1, math.prod(shape) * 8)
    step = max(1, SCAN // size) if together else 1
    for start in range(0, count if count * size <= LIMIT else 0, step):
        yield np.arange(start, min(start + step, count))
