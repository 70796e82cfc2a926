"""A source of a spec → a stack of samples, read from disk only where they are asked for."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.data import images, readers, samples
from es_cli.errors import DataError

if TYPE_CHECKING:
    from es_cli.spec.schema import Source


class ArrayStack:
    """One array whose leading axis counts samples; memory-mapped where the file allows. `groups` are subjects where the file names them."""

    def __init__(self, array: np.ndarray, name: str, groups: np.ndarray | None = None) -> None:
        self.array = array
        self.names = [f"{name}[{i}]" for i in range(len(array))]
        self.groups = groups

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The samples at `indices`, (n, *sample_shape), in the order asked for."""
        return np.asarray(self.array[np.asarray(indices, dtype=np.int64)])


class FileStack:
    """Files of one array each, read when they are asked for; every file is a group of its own."""

    def __init__(self, paths: Sequence[Path], key: str | None) -> None:
        self.paths, self.key = list(paths), key
        self.names = [str(path) for path in paths]
        self.groups = np.arange(len(paths))
        first = readers.open_array(self.paths[0], key)
        self.sample_shape: tuple[int, ...] = first.shape
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The arrays of the files at `indices`. Raises DataError, naming both files, where their shapes differ."""
        found = []
        for i in indices:
            array = readers.open_array(self.paths[i], self.key)
            if array.shape != self.sample_shape:
                raise DataError(
                    f"shape {array.shape}, but {self.paths[0].name} has {self.sample_shape}", where=str(self.paths[i]), hint="give samples of one shape"
                )
            found.append(array)
        return np.stack(found)


Stack = ArrayStack | FileStack


def open_stack(source: Source, *, pictures: bool, seed: int) -> Stack:
    """The samples of a source. Files of arrays are stacks, or with a folder or glob one sample each; pictures become float32 (C, H, W).

    `pictures` says that images are wanted, which PNG, JPEG and TIFF files, and the samples of es, may be; `seed` places crops.
    Raises DataError where there is nothing, or nothing that fits together.
    """
    if source.sample is not None:
        whole = samples.pictures(source.sample, source.part)
        return _pictures([(f"{source.sample}-{source.part or 'all'}", picture) for picture in whole], source, seed)
    paths = _paths(str(source.file))
    if all(path.suffix.lower() in readers.PICTURES for path in paths) and (pictures or len(paths) > 1 or paths[0].suffix.lower() not in {".tif", ".tiff"}):
        loaded = ((str(path), images.to_picture(readers.open_array(path), str(path), source.grey)) for path in paths)
        return _pictures(loaded, source, seed)
    if len(paths) > 1:
        return FileStack(paths, source.key)
    array = readers.open_array(paths[0], source.key)
    if array.ndim < 2:
        raise DataError(f"an array of shape {array.shape} holds no images", where=str(paths[0]), hint="wanted (n, H, W) or (n, C, H, W)")
    groups = readers.subjects(paths[0])
    if pictures and (source.crop is not None or source.resize is not None):
        stacked = array if array.ndim == 4 else array[:, None]
        return _pictures(((f"{paths[0]}[{i}]", np.asarray(image, np.float32)) for i, image in enumerate(stacked)), source, seed)
    return ArrayStack(array, str(paths[0]), groups if groups is not None and len(groups) == len(array) else None)


def find_nonfinite(stack: Stack, limit_bytes: int = 2 << 30) -> int | None:
    """The first sample that holds NaN or infinity, None where none does or the stack is larger than `limit_bytes` and is not scanned."""
    size = int(np.prod(stack.sample_shape)) * stack.dtype.itemsize
    if stack.dtype.kind in "biu" or size * len(stack) > limit_bytes:
        return None
    step = max(1, (1 << 26) // max(size, 1))
    for start in range(0, len(stack), step):
        chunk = stack.read(range(start, min(start + step, len(stack))))
        finite = np.isfinite(chunk).reshape(len(chunk), -1).all(1)
        if not finite.all():
            return start + int(np.flatnonzero(~finite)[0])
    return None


def _paths(text: str) -> list[Path]:
    """The files that a path, a folder or a glob stands for, sorted by name."""
    path = Path(text)
    known = readers.PICTURES | readers.ARRAYS
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in known and not p.name.startswith("."))
        if not found:
            raise DataError("the folder holds no file that es reads", where=text, hint=f"es reads {', '.join(sorted(known))}")
        return found
    if glob.has_magic(text) and not path.exists():
        found = sorted(Path(p) for p in glob.glob(text, recursive=True))
        if not found:
            raise DataError("no file matches", where=text, hint="check the pattern; paths in a spec are relative to the spec")
        return found
    return [path]


def _pictures(loaded: Any, source: Source, seed: int) -> ArrayStack:
    """Resize and crop pictures, and check that they end with one shape."""
    made: list[np.ndarray] = []
    names: list[str] = []
    groups: list[int] = []
    for number, (name, picture) in enumerate(loaded):
        if source.grey and len(picture) == 3:
            picture = np.tensordot(images.LUMINANCE, picture, 1)[None]
        if source.resize is not None:
            picture = images.resize(picture, source.resize)
        parts = [picture] if source.crop is None else images.crops(picture, source.crop, source.crops_per_image, seed, name)
        for part in parts:
            if made and part.shape != made[0].shape:
                hint = "add crop: 64 or resize: 64, or grey: true where only some are in colour"
                raise DataError(f"shape {part.shape}, but {names[0]} has {made[0].shape}", where=name, hint=hint)
            made.append(part)
            names.append(name)
            groups.append(number)
    stack = ArrayStack(np.stack(made), "pictures", np.array(groups) if len(set(groups)) > 1 else None)
    stack.names = names
    return stack
