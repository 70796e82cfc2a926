"""Arrays on pipes, one after another: what goes in and out of `es reconstruct -`. One frame is in memory at a time, and each is flushed.

npy: each frame says its shape and type. raw: bare values of one measurement after another, little-endian, in C order, of the operator's shape:
complex64 where it has complex images, else float32. cfl: what BART keeps in a .cfl, complex64 with the read-out fastest, without the .hdr, whose
dimensions are the operator's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from es_cli.data import readers, writers
from es_cli.data.npy import DAMAGED, read_exactly
from es_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from typing import IO

    from es_cli.data.layout import Layout

    Stream = BinaryIO | IO[bytes]

STDIN = "standard input"


class FrameFormat(ABC):
    """How arrays follow one another on a pipe."""

    hint: str

    @abstractmethod
    def read(self, stream: Stream) -> Iterator[np.ndarray]:
        """Every array, as it comes in. Raises DataError where one breaks off."""

    @abstractmethod
    def write(self, stream: Stream, image: np.ndarray) -> None:
        """One image, flushed, so that whoever reads the pipe has it at once. A closed pipe raises BrokenPipeError."""


class NpyFrames(FrameFormat):
    """Concatenated .npy."""

    hint = "pipe in what numpy.save writes"

    def read(self, stream: Stream) -> Iterator[np.ndarray]:
        return readers.read_npy_stream(stream)

    def write(self, stream: Stream, image: np.ndarray) -> None:
        writers.write_npy(stream, image)


class BareFrames(FrameFormat):
    """Values without a header, called raw or cfl, in the shape `layout` that the operator measures. Raises UsageError where that does not fix it."""

    def __init__(self, name: str, layout: Layout) -> None:
        if layout.free:
            raise UsageError(f"--format {name} has no shape, and this network takes measurements of any size", hint="use --format npy")
        if name == "cfl" and not layout.pair:
            raise UsageError("--format cfl holds complex numbers, and this network makes real images", hint="use --format npy or raw")
        self.bart = name == "cfl"
        whole = layout.shape[1:] if layout.pair or layout.shape[0] == 1 else layout.shape
        self.shape, self.dtype = whole, np.dtype("<c8" if layout.pair else "<f4")
        self.hint = f"pipe in {self.dtype.name} of shape {self.shape}, {math.prod(self.shape) * self.dtype.itemsize} bytes each"

    def read(self, stream: Stream) -> Iterator[np.ndarray]:
        count = math.prod(self.shape) * self.dtype.itemsize
        shape = (*self.shape[:-2], *self.shape[:-3:-1]) if self.bart else self.shape
        while raw := read_exactly(stream, count):
            if len(raw) < count:
                raise DataError(f"cut short: an array takes {count} bytes, and {len(raw)} came", where=STDIN, hint=DAMAGED)
            array = np.frombuffer(raw, self.dtype).reshape(shape)
            yield array.swapaxes(-1, -2) if self.bart else array

    def write(self, stream: Stream, image: np.ndarray) -> None:
        values = image.swapaxes(-1, -2) if self.bart else image
        stream.write(np.ascontiguousarray(values, self.dtype).data)
        stream.flush()


def read_frames(stream: Stream, form: FrameFormat, only_one: bool) -> Iterator[tuple[str, np.ndarray]]:
    """What to call each array, and the array, as they come in. Raises UsageError where there are several and `only_one` may be, DataError where
    nothing comes, or a frame breaks off."""
    frames = form.read(stream)
    first = next(frames, None)
    if first is None:
        raise DataError("nothing came in", where=STDIN, hint=form.hint)
    if only_one and next(frames, None) is not None:
        raise UsageError("standard input holds several arrays, and -o names one file", hint="give -o DIR/, or -o -")
    yield f"{STDIN}, array 1", first
    del first
    for number, frame in enumerate(frames, 2):
        yield f"{STDIN}, array {number}", frame
