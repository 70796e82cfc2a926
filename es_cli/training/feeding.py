"""How batches reach the device: data that fit are kept there; others are read ahead of the steps and copied while the device computes.

On a CPU a batch is read when its step begins: reading takes a thousandth of a step there, and a thread would take a core from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

SHARE = 0.25  # of the free memory of a device that one data set may take
AHEAD = 2  # batches that are read before they are needed
CHUNK = 1 << 26  # bytes that are copied at once

Batch = tuple[Tensor, Tensor | None, dict[str, Tensor]]


class Readable(Protocol):
    """What is read from the disk: batches of samples, and how many there are; `shapes` is None where all have one."""

    @property
    def shapes(self) -> Any: ...
    def __len__(self) -> int: ...
    def batch(self, positions: Sequence[int], device: torch.device | str = "cpu") -> Batch: ...


class Batches(Protocol):
    """Where batches come from: y (B, …), x (B, …) or None, and the operator's parameters (B or 1, …), on a device."""

    def batch(self, positions: Sequence[int], device: torch.device) -> Batch: ...


class Kept:
    """A data set that lies on a device whole; a batch is gathered there."""

    def __init__(self, data: Readable, device: torch.device) -> None:
        self.device, count = device, len(data)
        first = data.batch(range(min(2, count)))
        size = max(1, CHUNK // max(1, _bytes_of_one(first)))
        self._y = _room(first[0], count, device)
        self._x = None if first[1] is None else _room(first[1], count, device)
        # one array for all samples stays one: it has no axis to gather along
        shared = {name: value for name, value in first[2].items() if len(value) == 1}
        self._shared = {name: value.to(device) for name, value in shared.items()}
        self._own = {name: _room(value, count, device) for name, value in first[2].items() if name not in shared}
        for start in range(0, count, size):
            rows = range(start, min(start + size, count))
            y, x, params = data.batch(rows)
            self._y[rows.start : rows.stop] = y.to(device)
            if self._x is not None and x is not None:
                self._x[rows.start : rows.stop] = x.to(device)
            for name, held in self._own.items():
                held[rows.start : rows.stop] = params[name].to(device)

    def batch(self, positions: Sequence[int], device: torch.device) -> Batch:
        """The samples at `positions`, in that order; `device` is where they lie."""
        at = _to(torch.tensor(positions, dtype=torch.int64), self.device)
        own = {name: held.index_select(0, at) for name, held in self._own.items()}
        return self._y.index_select(0, at), None if self._x is None else self._x.index_select(0, at), {**self._shared, **own}


class Ahead:
    """Batches of the steps from the one that is asked for to `last`, a few of which are read before they are needed, by a thread."""

    def __init__(self, data: Readable, positions: Callable[[int], Sequence[int]], last: int, device: torch.device) -> None:
        self.data, self.positions, self.last, self.device = data, positions, last, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="es-reader")
        self._read: dict[int, Future[Batch]] = {}

    def get(self, step: int) -> Batch:
        """The batch of a step on the device. Raises what reading it raised."""
        for coming in range(step, min(step + AHEAD, self.last) + 1):
            if coming not in self._read:
                self._read[coming] = self._reader.submit(self._on_host, self.positions(coming))
        y, x, params = self._read.pop(step).result()
        return _to(y, self.device), None if x is None else _to(x, self.device), {name: _to(value, self.device) for name, value in params.items()}

    def settle(self) -> None:
        """Wait until nothing is being read, so that somebody else can: not every decoder may be used by two at once."""
        wait(self._read.values())

    def close(self) -> None:
        """Read no more."""
        self._reader.shutdown(cancel_futures=True)

    def _on_host(self, positions: Sequence[int]) -> Batch:
        y, x, params = self.data.batch(positions)
        return _pinned(y, self.device), None if x is None else _pinned(x, self.device), {name: _pinned(value, self.device) for name, value in params.items()}


class Feed:
    """The batches of a training: of each step, `get`, and of validation, `held_out`. `settle` comes before `held_out` is read."""

    def __init__(self, get: Callable[[int], Batch], held_out: Batches, settle: Callable[[], None] = lambda: None) -> None:
        self.get, self.held_out, self.settle = get, held_out, settle


@contextmanager
def feeding(
    train: Readable, held_out: Readable, positions: Callable[[int], Sequence[int]], last: int, device: torch.device
) -> Iterator[Feed]:
    """The feed of a training to step `last` on `device`; `positions` says which samples of `train` a step sees.

    Batches are the same, to the last bit and in the same order, whichever way they come. Raises DataError for a sample that is damaged.
    """
    if device.type == "cpu":
        yield Feed(lambda step: train.batch(positions(step)), held_out)
        return
    kept, kept_out = keep(train, device), keep(held_out, device)
    with ExitStack() as stack:
        if kept is not None:
            yield Feed(lambda step: kept.batch(positions(step), device), kept_out or held_out)
            return
        ahead = Ahead(train, positions, last, device)
        stack.callback(ahead.close)
        yield Feed(ahead.get, kept_out or held_out, ahead.settle)


def keep(data: Readable, device: torch.device, room: int | None = None) -> Kept | None:
    """`data` on the device, None where they take more than `room` bytes, by default a share of its free memory, or differ in shape."""
    if room is None:
        room = int(SHARE * torch.cuda.mem_get_info(device)[0])
    if data.shapes is not None:
        return None  # samples of several shapes make no array
    return Kept(data, device) if len(data) * _bytes_of_one(data.batch(range(min(2, len(data))))) <= room else None


def _bytes_of_one(batch: Batch) -> int:
    y, x, params = batch
    return sum(one[0].nbytes for one in (y, x, *params.values()) if one is not None)


def _room(like: Tensor, count: int, device: torch.device) -> Tensor:
    return torch.empty((count, *like.shape[1:]), dtype=like.dtype, device=device)


def _pinned(value: Tensor, device: torch.device) -> Any:
    return value.pin_memory() if device.type == "cuda" else value


def _to(value: Tensor, device: torch.device) -> Tensor:
    """`value` on the device, without waiting for it."""
    return _pinned(value, device).to(device, non_blocking=True)
