"""A disk that fails at any moment: what is asked of it under one folder is counted, and the n-th time it refuses."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FULL, FORBIDDEN, BROKEN = errno.ENOSPC, errno.EACCES, errno.EIO
REAL_OPEN = builtins.open


class Failing:
    """Counts openings for writing, writes, flushes, closings, renames, new folders and syncs below `root`, and fails those that `at` holds."""

    def __init__(self, root: Path, code: int, at: Callable[[int], bool]) -> None:
        self.root, self.code, self.at, self.steps = str(root), code, at, list[str]()

    def step(self, name: str) -> None:
        self.steps.append(name)
        if self.at(len(self.steps)):
            raise OSError(self.code, os.strerror(self.code))

    def of(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            if isinstance(args[0], int) or (self._ours(args[0]) and not (name == "mkdir" and os.path.exists(args[0]))):
                self.step(name)
            return function(*args, **kwargs)

        return called

    def opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not any(letter in mode for letter in "xwa+") or not self._ours(file):
            return REAL_OPEN(file, mode, *args, **kwargs)
        self.step("open")
        return File(REAL_OPEN(file, mode, *args, **kwargs), self)

    def _ours(self, file: Any) -> bool:
        return not isinstance(file, int) and os.path.abspath(os.fspath(file)).startswith(self.root)


class File:
    """A file of which writing, flushing and closing can fail; what was written by then is there."""

    def __init__(self, file: Any, failing: Failing) -> None:
        self.file, self.failing = file, failing

    def write(self, held: Any) -> Any:
        self.failing.step("write")
        return self.file.write(held)

    def flush(self) -> None:
        self.failing.step("flush")
        self.file.flush()

    def close(self) -> None:
        closed = self.file.closed
        self.file.close()
        if not closed:
            self.failing.step("close")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def failing(root: Path, code: int = FULL, at: Callable[[int], bool] = lambda number: False) -> Iterator[Failing]:
    """A disk that answers `code` where `at` says so, of the number of what is asked of it; left out: never, and it only counts."""
    made = Failing(root, code, at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", made.opened)
        patch.setattr(io, "open", made.opened)
        for name in ("fsync", "replace", "mkdir"):
            patch.setattr(os, name, made.of(name))
        yield made


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
