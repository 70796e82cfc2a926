"""Reading, computing and writing at the same time: one item is read ahead and one is written behind, and no more than that is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlapped(
    items: Iterable[Item], read: Callable[[Item], Read], make: Callable[[Item, Read], Made], write: Callable[[Item, Made], None], faults: tuple[type[BaseException], ...]
) -> Iterator[tuple[Item, BaseException | None]]:
    """Read, make and write each item, in order; (item, None) for each that was written, (item, fault) for each whose step raised one of `faults`.

    `read` and `write` run in a thread each, `make` in this one. Any other exception ends it, after what is being written was written.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        behind: tuple[Item, Future[None]] | None = None
        for item, ahead in _read_ahead(items, read, reader):
            fault: BaseException | None = None
            try:
                made = make(item, ahead.result())
            except faults as error:
                fault = error
            if behind is not None:
                yield behind[0], _fault(behind[1], faults)
            behind = None
            if fault is not None:
                yield item, fault
            else:
                behind = item, writer.submit(write, item, made)
                del made
        if behind is not None:
            yield behind[0], _fault(behind[1], faults)


def _read_ahead(items: Iterable[Item], read: Callable[[Item], Read], reader: ThreadPoolExecutor) -> Iterator[tuple[Item, Future[Read]]]:
    before: tuple[Item, Future[Read]] | None = None
    for item in items:
        following = item, reader.submit(read, item)
        if before is not None:
            yield before
        before = following
    if before is not None:
        yield before


def _fault(future: Future[None], faults: tuple[type[BaseException], ...]) -> BaseException | None:
    try:
        future.result()
    except faults as error:
        return error
    return None
