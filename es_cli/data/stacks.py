"""A source of a spec → a stack of samples, read from disk only where they are asked for."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.data import images, readers, samples
from es_cli.data.conventions import default_key, holds_samples
from es_cli.data.files import find_files, is_picture, suffix_of
from es_cli.data.formats.base import ArrayReader
from es_cli.data.formats.dicom import find_series, patients_of
from es_cli.data.sample_files import SampleFile
from es_cli.data.shapes import Shape, runs, shape_of, where_they_differ
from es_cli.errors import DataError

if TYPE_CHECKING:
    from es_cli.data.measurements import Samples
    from es_cli.spec.schema import Source

SCAN = 1 << 26  # bytes that are looked at together
MOST_SAMPLES = 1 << 22  # in one file; each has a name
HELD = 2 << 30  # bytes of pictures of several shapes
VOLUMES = (".nii", ".nii.gz", ".dcm", ".cfl")  # they say themselves what their samples are; other arrays do not


class ArrayStack:
    """One array whose leading axis counts samples; memory-mapped where the file allows. `groups` are subjects where the file names them."""

    shapes: list[Shape] | None = None

    def __init__(self, array: np.ndarray, names: list[str], groups: np.ndarray | None = None) -> None:
        self.array, self.names, self.groups = array, names, groups

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, (n, *sample_shape), in the order asked for. Raises DataError where the file was cut short since it was opened."""
        _check_whole(self.array)
        return np.asarray(self.array[np.asarray(indices, dtype=np.int64)])


def _check_whole(array: np.ndarray) -> None:
    """DataError where a mapped file ends before its array does: reading there would end the process with SIGBUS."""
    held = array.base
    if isinstance(array, np.memmap) and isinstance(held, mmap.mmap) and held.size() < array.offset + array.nbytes:
        raise DataError("the file was cut short while it was in use", where=str(array.filename), hint="bring the whole file back, under the same name")


class ListStack:
    """Arrays of several shapes, one for each sample."""

    def __init__(self, arrays: Sequence[np.ndarray], names: list[str], groups: np.ndarray | None = None) -> None:
        self.arrays, self.names, self.groups = list(arrays), names, groups
        self.shapes: list[Shape] | None = [array.shape for array in arrays]
        self.sample_shape: Shape = arrays[0].shape
        self.dtype = np.result_type(*{array.dtype for array in arrays})

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, which have one shape, (n, …), in the order asked for. Raises DataError where they differ."""
        out = np.empty((len(indices), *shape_of(self, indices)), self.dtype)
        for place, i in enumerate(indices):
            out[place] = self.arrays[int(i)]
        return out


class RowStack:
    """One array of a file whose leading axis counts samples; they are read when they are asked for."""

    shapes: list[Shape] | None = None

    def __init__(self, file: ArrayReader, key: str | None, names: list[str] | None = None) -> None:
        self.file, self.key = file, key
        header = file.header(key)
        self.count = header.shape[0] if header.shape else 0
        self.sample_shape: tuple[int, ...] = header.shape[1:]
        self.dtype = header.dtype.newbyteorder("=")
        self.names = names or [f"{file.path}[{i}]" for i in range(self.count)]
        self.groups: np.ndarray | None = file.owners(key, self.count)

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, (n, *sample_shape), in the order asked for. Raises DataError where the file is broken there."""
        return self.file.read_rows(self.key, [int(i) for i in indices]).astype(self.dtype, copy=False)


class JoinedStack:
    """The samples of several stacks, one stack after the other; `groups` has a number for each stack, None: each is a group of its own."""

    def __init__(self, stacks: Sequence[ArrayStack | RowStack], groups: Sequence[int] | None = None) -> None:
        self.stacks = list(stacks)
        lengths = [len(stack) for stack in self.stacks]
        self.starts = np.cumsum([0, *lengths])
        self.names = [name for stack in self.stacks for name in stack.names]
        self.groups: np.ndarray | None = np.repeat(np.arange(len(lengths)) if groups is None else np.asarray(groups), lengths)
        self.sample_shape: tuple[int, ...] = tuple(self.stacks[0].sample_shape)
        self.dtype = np.result_type(*{stack.dtype for stack in self.stacks})
        shapes = [tuple(stack.sample_shape) for stack in self.stacks for _ in stack.names]
        self.shapes: list[Shape] | None = where_they_differ(shapes)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, (n, …), in the order asked for. Raises DataError where a file is broken or they differ in shape."""
        asked = np.asarray(indices, dtype=np.int64)
        held = np.searchsorted(self.starts, asked, side="right") - 1
        out = np.empty((len(asked), *shape_of(self, indices)), self.dtype)
        for number in np.unique(held):
            places = np.flatnonzero(held == number)
            out[places] = self.stacks[number].read((asked[places] - self.starts[number]).tolist())
        return out


class FileStack:
    """Files of one array each, read when they are asked for; every file is a group of its own.

    `forgiving`: one that is damaged is taken to be like the others until it is read.
    """

    def __init__(self, paths: Sequence[Path], key: str | None, forgiving: bool = False) -> None:
        self.paths, self.key = list(paths), key
        self.names = [str(path) for path in paths]
        self.groups: np.ndarray | None = np.arange(len(paths))
        headers = _headers(paths, key, forgiving)
        self.sample_shape: tuple[int, ...] = headers[0][0]
        self.dtype = np.result_type(*{dtype for _, dtype in headers})
        self.shapes: list[Shape] | None = where_they_differ([shape for shape, _ in headers])

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The arrays of the files at `indices`, (n, …). Raises DataError where a file is broken or they differ in shape."""
        shape = shape_of(self, indices)
        out = np.empty((len(indices), *shape), self.dtype)
        for place, i in enumerate(indices):
            array = readers.open_array(self.paths[i], self.key)
            if array.shape != shape:
                raise DataError(f"holds an array of shape {array.shape}, in place of {shape}", where=self.names[i], hint="the file is another than it was, or than its like")
            out[place] = array
        return out


def _headers(paths: Sequence[Path], key: str | None, forgiving: bool) -> list[tuple[Shape, np.dtype[Any]]]:
    """Shape and type of the array in each file. Raises DataError for one that is damaged, if `forgiving` only where all are."""
    found: list[tuple[Shape, np.dtype[Any]] | DataError] = []
    for path in paths:
        try:
            found.append(readers.array_header(path, key))
        except DataError as error:
            if not forgiving:
                raise
            found.append(error)
    like = next((one for one in found if not isinstance(one, DataError)), None)
    if like is None:
        raise next(one for one in found if isinstance(one, DataError))
    return [like if isinstance(one, DataError) else one for one in found]


class Chosen:
    """Some samples of a stack, `rows`, in this order."""

    def __init__(self, stack: Samples, rows: Sequence[int]) -> None:
        self.stack, self.rows = stack, [int(i) for i in rows]
        self.names = [stack.names[i] for i in self.rows]
        self.groups: np.ndarray | None = None if stack.groups is None else np.asarray(stack.groups)[self.rows]
        shapes = [stack.sample_shape if stack.shapes is None else stack.shapes[i] for i in self.rows]
        self.shapes: list[Shape] | None = where_they_differ(shapes)
        self.sample_shape, self.dtype = shapes[0], stack.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, (n, …), in the order asked for. Raises DataError where they differ in shape."""
        return self.stack.read([self.rows[int(i)] for i in indices])


Stack = ArrayStack | ListStack | RowStack | FileStack | JoinedStack


def stacked(arrays: Sequence[np.ndarray], names: list[str], groups: np.ndarray | None = None) -> ArrayStack | ListStack:
    """A stack of arrays in memory, one for each sample."""
    differ = where_they_differ([array.shape for array in arrays])
    return ListStack(arrays, names, groups) if differ else ArrayStack(np.stack(arrays), names, groups)


def open_stack(source: Source, *, pictures: bool, seed: int, part: str | None = None, keep: Path | None = None, forgiving: bool = False) -> Stack:
    """The samples of a source.

    One file of an array is a stack along its leading axis. In a folder or glob each .npy, .npz, .mat, .zarr and .h5 is one sample; formats
    that say what their axes are (NIfTI, DICOM, .cfl, the .h5 of fastMRI and deepinv) give all their samples, and each file, series or
    patient is a group.
    Pictures become float32 (C, H, W) in [0, 1], and each page of a TIFF is one.

    `pictures` says that images are wanted, which may be resized and cropped; `seed` places crops. `part`, train, validation or test, says
    which part of a data set of deepinv's is meant; None: the only one. `keep` is a path without suffix that decoded pictures are written to,
    as SampleFile does; None: they are held in memory. `forgiving`: of files that are a sample each some may be damaged, and then reading them fails.
    Samples may differ in shape, `shapes` then saying that of each. Raises DataError where there is nothing, or nothing that fits together.
    """
    if source.sample is not None:
        whole = samples.pictures(source.sample, source.part)
        return _framed(((f"{source.sample}-{source.part or 'all'}", i, picture) for i, picture in enumerate(whole)), source, seed, keep)
    paths = find_files(str(source.file))
    if is_picture(paths[0]):
        if source.key is not None:
            raise DataError("pictures hold no arrays under keys", where=str(paths[0]), hint="leave key out")
        return _framed(_pages(paths), source, seed, keep)
    stack = _arrays(paths, source.key, pictures, part, forgiving)
    if source.crop is None and source.resize is None and not source.grey:
        return stack
    if not pictures:
        raise DataError("measurements are not cropped, resized or made grey", where=stack.names[0], hint="their operator belongs to them as they are")
    return _framed(_images_of(stack, source), source, seed, keep)


def find_nonfinite(stack: Stack, limit_bytes: int = 2 << 30) -> int | None:
    """The first sample that holds NaN or infinity, None where none does or the stack is larger than `limit_bytes` and is not scanned."""
    shapes = stack.shapes or [stack.sample_shape] * len(stack)
    sizes = [math.prod(shape) * stack.dtype.itemsize for shape in shapes]
    if stack.dtype.kind in "biu" or sum(sizes) > limit_bytes:
        return None
    size = max(sizes)
    for rows in runs(stack, max(1, SCAN // max(size, 1))):
        chunk = stack.read(rows)
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(1)
        if not finite.all():
            return rows[int(np.flatnonzero(~finite)[0])]
    return None


def _arrays(paths: Sequence[Path], key: str | None, pictures: bool, part: str | None, forgiving: bool) -> Stack:
    """The samples of files of arrays, all of which give their slices, or are a sample each where there are several."""
    if all(suffix_of(path) == ".dcm" for path in paths):
        if key is not None:
            raise DataError("DICOM files hold no arrays under keys", where=str(paths[0]), hint="leave key out")
        series = find_series(paths)
        stacks = [RowStack(one, None, one.names) for one in series]
        return stacks[0] if len(stacks) == 1 else JoinedStack(stacks, patients_of(series))
    if len(paths) == 1:
        return _one_file(paths[0], key or default_key(paths[0], pictures, part))
    volumes = [path for path in paths if suffix_of(path) in VOLUMES or holds_samples(path)]
    if not volumes:
        return FileStack(paths, key or default_key(paths[0], pictures, part), forgiving)
    if len(volumes) < len(paths):
        other = next(path for path in paths if path not in volumes)
        what = f"volumes and other arrays are mixed: {volumes[0].name} and {other.name}"
        raise DataError(what, where=str(other.parent), hint=f"name one kind with a glob, such as *{suffix_of(volumes[0])}")
    return JoinedStack([_one_file(path, key or default_key(path, pictures, part)) for path in paths])


def _one_file(path: Path, key: str | None) -> ArrayStack | RowStack:
    """The array of one file, its leading axis as samples. Raises DataError where it has no such axis, or no sample."""
    reader = readers.reader_of(path)
    shape, _ = readers.array_header(path, key)
    if len(shape) < 2:
        raise DataError(f"an array of shape {shape} holds no samples", where=str(path), hint="wanted the samples first: (n, H, W) or (n, C, H, W)")
    if 0 in shape:
        raise DataError(f"the array of shape {shape} is empty", where=str(path), hint="it needs at least one sample")
    if shape[0] > MOST_SAMPLES:
        raise DataError(f"an array of shape {shape} would hold {shape[0]} samples", where=str(path), hint="the samples come first: (n, H, W) or (n, C, H, W)")
    if reader.by_rows:
        return RowStack(reader, key)
    groups = reader.owners(key, shape[0])
    return ArrayStack(readers.open_array(path, key), [f"{path}[{i}]" for i in range(shape[0])], groups)


def _pages(paths: Sequence[Path]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, group and picture (C, H, W) of every page of picture files."""
    for group, path in enumerate(paths):
        pages = images.read_pages(path)
        for number, page in enumerate(pages):
            name = str(path) if len(pages) == 1 else f"{path}[{number}]"
            yield name, group, images.to_picture(page, name)


def _images_of(stack: Stack, source: Source) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, group and image (C, H, W) of every sample of an array, in the units that it has."""
    for i, shape in enumerate(stack.shapes or [stack.sample_shape]):
        if len(shape) not in {2, 3}:
            raise DataError(f"samples of shape {shape} are no images", where=stack.names[i], hint="leave crop, resize and grey out")
    is_complex = stack.dtype.kind == "c"
    if is_complex and (source.resize is not None or source.grey):
        raise DataError("complex images are neither resized nor made grey", where=stack.names[0], hint="use crop, or magnitudes")
    for i, name in enumerate(stack.names):
        image = stack.read([i])[0]
        group = i if stack.groups is None else int(stack.groups[i])
        image = image if image.ndim == 3 else image[None]
        yield name, group, image.astype(np.complex64 if is_complex else np.float32)


def _framed(loaded: Iterable[tuple[str, int, np.ndarray]], source: Source, seed: int, keep: Path | None) -> Stack:
    """Images made grey, resized and cropped as the source says, on disk if `keep` says where. Raises DataError where those of several shapes are
    too many to be held in memory."""
    store = _InMemory() if keep is None else SampleFile(keep)
    names: list[str] = []
    groups: list[int] = []
    for name, group, image in loaded:
        image = images.to_grey(image) if source.grey else image
        image = image if source.resize is None else images.resize(image, source.resize)
        for part in [image] if source.crop is None else images.crops(image, source.crop, source.crops_per_image, seed, name):
            store.append(part, name)
            names.append(name)
            groups.append(group)
    owners = np.array(groups) if len(set(groups)) > 1 else None
    return stacked(store.made, names, owners) if isinstance(store, _InMemory) else _stored(store.close(), names, owners)


class _InMemory:
    """Images that are held."""

    def __init__(self) -> None:
        self.made: list[np.ndarray] = []
        self.held = 0

    def append(self, image: np.ndarray, name: str) -> None:
        self.made.append(image)
        self.held += image.nbytes
        if self.held > HELD and image.shape != self.made[0].shape:
            what = f"pictures of several shapes, such as {self.made[0].shape} and {image.shape}, are kept in memory, and these are more than {HELD >> 30} GiB"
            raise DataError(what, where=name, hint="add crop: 64 or resize: 64")


def _stored(path: Path, names: list[str], groups: np.ndarray | None) -> ArrayStack | FileStack:
    """The samples that a SampleFile wrote, under the names that they had."""
    if not path.is_dir():
        return ArrayStack(readers.open_array(path), names, groups)
    stack = FileStack(find_files(str(path)), None)
    stack.names, stack.groups = names, groups
    return stack
