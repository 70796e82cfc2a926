"""What is raised where the memory is too small for what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from es_cli.errors import out_of_memory, said


class NoRoom(Exception):
    """The memory is too small for what was tried, which changed nothing."""


@contextmanager
def short_of_memory() -> Iterator[None]:
    """Where the memory is too small for the block, NoRoom is what it raises."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise NoRoom(said(error)) from error
