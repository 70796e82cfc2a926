"""What a command line names as inputs: files, folders, globs and lists → one input after another, each with the name that is mirrored."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from es_cli.data.files import ARRAYS, PICTURES, READABLE, is_picture, reading, series_files, suffix_of
from es_cli.errors import DataError, UsageError

STREAM = "-"
LIST = "@"
SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class Input:
    """`source` is a path, or - for standard input; `name` is where it lies below the folder, the pattern or the list that named it."""

    source: str
    name: Path

    @property
    def is_stream(self) -> bool:
        return self.source == STREAM


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1: every `count`-th input of the sorted ones, so that the parts are of one size and share nothing."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """From `i/n`. Raises UsageError."""
        found = SHARD.fullmatch(text.strip())
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--shard {text} is no part of a whole", hint="write --shard 2/8, the parts counted from 1")
        return cls(number, count)


def is_many(text: str) -> bool:
    """Whether an argument means as many files as there happen to be: a folder that is no series, a glob, or a list."""
    path = Path(text)
    if path.exists() or "\0" in text:
        return "\0" not in text and path.is_dir() and suffix_of(path) != ".zarr" and not series_files(path)
    return text.startswith(LIST) or glob.has_magic(text)


def find_inputs(arguments: Sequence[str], out: Path | None = None) -> list[Input]:
    """The inputs that arguments mean, in their order, sorted within a folder and a glob. What lies in `out`, below a folder of inputs, is none.

    Of folders and globs, all files that es reads, of one kind: arrays or pictures. A folder of .dcm files and a .zarr are one input. Raises
    DataError where a folder, a glob or a list means nothing, UsageError for what is read twice from standard input.
    """
    if sum(text in (STREAM, LIST + STREAM) for text in arguments) > 1:
        raise UsageError("standard input (-) can be read only once")
    found: list[Input] = []
    for text in arguments:
        if not is_many(text):
            found.append(Input(text, Path("stdin" if text == STREAM else Path(text).name)))
        elif Path(text).is_dir():
            found += _mirrored(list(_walk(Path(text), out)), Path(text), text)
        elif text.startswith(LIST):
            found += _listed(text[1:])
        else:
            matches = [Path(match) for match in glob.glob(text, recursive=True) if _counts(Path(match)) and not _within(Path(match), out)]
            found += _mirrored(matches, _fixed(text), text)
    return found


def _walk(folder: Path, out: Path | None) -> Iterator[Path]:
    """Everything in a folder and below it that is an input; what is hidden, and what a link leads to, is not looked at."""
    with reading(folder):
        held = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    for path in held:
        if path.name.startswith(".") or _within(path, out):
            continue
        if path.is_dir() and not path.is_symlink() and suffix_of(path) != ".zarr" and not series_files(path):
            yield from _walk(path, out)
        elif _counts(path):
            yield path


def _counts(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    suffix = suffix_of(path)
    return (suffix == ".zarr" or bool(series_files(path))) if path.is_dir() else suffix in ARRAYS + PICTURES and path.is_file()


def _within(path: Path, out: Path | None) -> bool:
    return out is not None and out.is_dir() and path.resolve().is_relative_to(out.resolve())


def _fixed(pattern: str) -> Path:
    """The folder of a glob above all that has magic in it."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[: min(first, len(parts) - 1)])


def _mirrored(paths: list[Path], root: Path, where: str) -> list[Input]:
    if not paths:
        raise DataError("nothing in it can be reconstructed" if root == Path(where) else "no file matches", where=where, hint=READABLE)
    pictures = [path for path in paths if is_picture(path)]
    if 0 < len(pictures) < len(paths):
        array = next(path for path in paths if not is_picture(path))
        hint = f"name one kind with a glob, such as '{root}/**/*{suffix_of(array)}'"
        raise DataError(f"arrays and pictures are mixed: {array.name} and {pictures[0].name}", where=where, hint=hint)
    return [Input(str(path), path.relative_to(root)) for path in sorted(paths, key=os.fsencode)]


def _listed(name: str) -> list[Input]:
    """The files that a list names, one a line, relative to the working directory; blank lines and those that begin with # are passed over."""
    where = "standard input" if name == STREAM else name
    if name != STREAM and not Path(name).is_file():
        raise DataError("there is no such list", where=where, hint="write @FILE, with one path a line in it")
    with reading(Path(name)):
        text = sys.stdin.buffer.read() if name == STREAM else Path(name).read_bytes()
    lines = [os.fsdecode(line).strip() for line in text.splitlines()]
    paths = [Path(line) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise DataError("the list names no file", where=where, hint="one path a line")
    if len({path.is_absolute() for path in paths}) > 1:
        raise DataError("relative and absolute paths are mixed", where=where, hint="write them all in one way, so that their folders can be mirrored")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    if any(".." in path.relative_to(common).parts for path in paths):
        raise DataError("a path goes up with .. in its middle", where=where, hint="write it without")
    return [Input(str(path), path.relative_to(common)) for path in paths]
