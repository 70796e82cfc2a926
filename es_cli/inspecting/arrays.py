"""A file, a folder or a glob → the arrays and pictures in it, each with what a spec calls it by."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from es_cli.data import readers
from es_cli.data.conventions import default_key, holds_samples
from es_cli.data.files import ARRAYS, PICTURES, READABLE, find_files, is_picture, reading, suffix_of
from es_cli.data.stacks import Stack, open_stack
from es_cli.errors import DataError
from es_cli.inspecting.words import ASIDE, TEXTS, says_something, words_of
from es_cli.spec.schema import Source

LOOKED_AT = 48  # samples of each array
BYTES = 1 << 28  # of them, held together
FILES = 10_000  # in one folder; more are no folder of a person


@dataclass(frozen=True)
class Held:
    """One array, or the pictures or arrays of one folder: what a spec names as a source of samples.

    `words` are those of its path below the folder that was looked at, in lower case. `shape` is (n, …) with the number of samples first, or
    the array's own where it is none of samples; for pictures of several sizes that of the first. `uneven` where the samples differ in shape.
    """

    file: str
    key: str | None
    words: frozenset[str]
    shape: tuple[int, ...]
    dtype: np.dtype
    pictures: tuple[Path, ...] = ()
    uneven: bool = False
    part: str | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        path = Path(self.file).name
        return f"{path}[{self.key}]" if self.key else path

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def is_complex(self) -> bool:
        return self.dtype.kind == "c"

    @cached_property
    def _stack(self) -> Stack:
        return open_stack(Source(file=self.file, key=self.key), pictures=False, seed=0, part=self.part)

    def samples(self, limit: int = LOOKED_AT) -> list[np.ndarray]:
        """Up to `limit` samples, evenly spread; pictures as float32 (C, H, W). Raises DataError where one holds NaN or infinity."""
        if self.pictures:
            chosen = [self.pictures[i] for i in _spread(len(self.pictures), limit)]
            found = [sample for path in chosen for sample in open_stack(Source(file=str(path)), pictures=False, seed=0).read([0])]
        else:
            size = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
            found = [self._stack.read([i])[0] for i in _spread(self.count, max(1, min(limit, BYTES // size)))]
        if any(sample.dtype.kind in "fc" and not np.isfinite(sample).all() for sample in found):
            raise DataError("a sample holds NaN or infinity", where=self.file, hint="replace what was not measured by 0, or leave the sample out")
        return found

    def whole(self) -> np.ndarray:
        """The array as it lies on disk."""
        return np.asarray(readers.open_array(Path(self.file), self.key))


def find_arrays(pattern: str) -> tuple[list[Held], list[str]]:
    """All that a file, a folder (with its subfolders) or a glob holds, and a note on each file that was passed over.

    Raises DataError where nothing is there, or nothing that could be read.
    """
    path = Path(pattern)
    if path.is_dir() and suffix_of(path) != ".zarr":
        found, notes = _in_folder(path)
    elif path.exists() or not glob.has_magic(pattern):
        found, notes = _in_file(readers.check_file(path), path.parent)
    else:
        held = _series(find_files(pattern), pattern, path.parent)
        found, notes = held, []
    if found:
        return found, notes
    empty = notes[0] if notes else "the folder holds no file that es can read"
    raise DataError(empty, where=pattern, hint=READABLE)


def _in_folder(root: Path) -> tuple[list[Held], list[str]]:
    found: list[Held] = []
    notes: list[str] = []
    for folder in [root, *_subfolders(root)]:
        files = _readable(folder)
        pictures = [file for file in files if is_picture(file)]
        if pictures:
            found += _pictures(pictures, _pattern(pictures, folder), root)
        arrays = [file for file in files if not is_picture(file)]
        for group in _groups(arrays):
            pattern = _pattern(group, folder)
            try:
                if len(group) > 1 and pattern:
                    found += _series(group, pattern, root)
                    continue
            except DataError as error:
                notes.append(f"{group[0].name} and others are passed over: {error.fault.what}")
                continue
            for file in group:
                more, said = _in_file(file, root)
                found, notes = found + more, notes + said
    return found, notes


def _subfolders(root: Path) -> Iterator[Path]:
    """Those of a folder and of its subfolders, two deep, without the hidden ones, and without folders that are files to es."""
    with reading(root):
        below = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".") and suffix_of(child) != ".zarr")
    for child in below:
        yield child
        with reading(child):
            yield from sorted(one for one in child.iterdir() if one.is_dir() and not one.name.startswith(".") and suffix_of(one) != ".zarr")


def _readable(folder: Path) -> list[Path]:
    with reading(folder):
        found = sorted(file for file in folder.iterdir() if suffix_of(file) in ARRAYS + PICTURES and not file.name.startswith("."))
    if len(found) > FILES:
        raise DataError(f"{len(found)} files in one folder", where=str(folder), hint=f"name a folder or a glob of at most {FILES}")
    return [file for file in found if file.is_file() or suffix_of(file) == ".zarr"]


def _groups(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files whose names differ in their numbers only are samples of one kind; so are files of one suffix whose names say nothing, and DICOM files."""
    held: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        plain = suffix_of(file) == ".dcm" or not says_something(words_of(file.name.removesuffix(suffix_of(file))))
        held.setdefault(("" if plain else re.sub(r"\d+", "#", file.stem), suffix_of(file)), []).append(file)
    yield from held.values()


def _pattern(files: Sequence[Path], folder: Path) -> str | None:
    """What names these files of a folder and no others: the folder, or a glob; None where nothing does."""
    if len(files) == 1:
        return str(files[0])
    if sorted(files) == _readable(folder):
        return str(folder)
    start = os.path.commonprefix([file.name for file in files]).rstrip("0123456789")
    for suffix in sorted({file.suffix for file in files}, key=lambda one: -sum(file.suffix == one for file in files)):
        pattern = str(folder / f"{glob.escape(start)}*{suffix}")
        same = {file for file in files if file.suffix == suffix}
        if {Path(match) for match in glob.glob(pattern)} == same:
            return pattern
    return None


def _below(file: str, root: Path) -> str:
    return os.path.relpath(file, root) if Path(file).is_absolute() == root.is_absolute() else Path(file).name


def _pictures(files: list[Path], pattern: str | None, root: Path) -> list[Held]:
    """Pictures as one source; a single one that holds several pages is a stack of them."""
    if pattern is None:
        return []
    shown = files if Path(pattern).is_dir() or len(files) == 1 else [Path(match) for match in sorted(glob.glob(pattern))]
    looked = [open_stack(Source(file=str(shown[i])), pictures=False, seed=0) for i in _spread(len(shown), 12)]
    shapes = [tuple(stack.sample_shape) for stack in looked]
    words = words_of(_below(pattern, root))
    if len(shown) == 1:
        return [Held(pattern, None, words, (len(looked[0]), *shapes[0]), looked[0].dtype)]
    return [Held(pattern, None, words, (len(shown), *shapes[0]), looked[0].dtype, tuple(shown), len(set(shapes)) > 1)]


def _series(files: list[Path], pattern: str, root: Path) -> list[Held]:
    """Files of one sample, or of one volume, each: a source for every key that all of them hold."""
    if is_picture(files[0]):
        return _pictures(files, pattern, root)
    keys: list[str | None] = [None]
    if not any(holds_samples(file) for file in files):
        common = set.intersection(*[set(readers.reader_of(file).array_names()) for file in (files[0], files[-1])])
        keys = sorted(common) or [None]  # type: ignore[assignment]
    found = []
    for key in keys:
        if key is not None and len(readers.array_header(files[0], key)[0]) < 2:
            continue
        stack = open_stack(Source(file=pattern, key=key if len(keys) > 1 else None), pictures=False, seed=0, part="train")
        shape = (len(stack), *stack.sample_shape)
        words = words_of(_below(pattern, root)) | words_of(key or default_key(files[0], part="train") or "")
        found.append(Held(pattern, key if len(keys) > 1 else None, words, shape, stack.dtype, uneven=stack.shapes is not None, part="train"))
    return found


def _in_file(path: Path, root: Path) -> tuple[list[Held], list[str]]:
    """The numeric arrays of one file; a note on those that are none."""
    if is_picture(path):
        return _pictures([path], str(path), root), []
    found, notes = [], []
    words = words_of(_below(str(path), root).removesuffix(suffix_of(path)))
    try:
        keys: list[str | None] = list(readers.reader_of(path).array_names()) or [None]
    except DataError as error:
        return [], [f"{path.name} is passed over: {error.fault.what}"]
    for key in keys:
        try:
            shape, dtype = readers.array_header(path, key)
        except DataError as error:
            if not words_of(key or "") & (ASIDE | TEXTS):
                notes.append(f"{path.name}{f'[{key}]' if key else ''} is passed over: {error.fault.what}")
            continue
        if math.prod(shape) > 0 and len(shape) > 0:
            found.append(Held(str(path), key if len(keys) > 1 else None, words | words_of(key or ""), tuple(shape), dtype))
    return found, notes


def _spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` numbers, evenly spread."""
    return sorted({round(i * (count - 1) / max(1, min(count, limit) - 1)) for i in range(min(count, limit))})
