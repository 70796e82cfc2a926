"""Arrays on pipes, one after another: what goes in and out of `es reconstruct -`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, BinaryIO

import numpy as np

from es_cli.data import readers, writers
from es_cli.errors import DataError, UsageError

Stream = BinaryIO | IO[bytes]
STDIN = "standard input"


def read_frames(stream: Stream, only_one: bool) -> Iterator[tuple[str, np.ndarray]]:
    """What to call each array, and the array, as they come in. Raises UsageError where there are several and `only_one` may be, DataError where
    nothing comes, or a frame breaks off."""
    frames = readers.read_npy_stream(stream)
    first = next(frames, None)
    if first is None:
        raise DataError("nothing came in", where=STDIN, hint="pipe in what numpy.save writes")
    if only_one and next(frames, None) is not None:
        raise UsageError("standard input holds several arrays, and -o names one file", hint="give -o DIR/, or -o -")
    yield f"{STDIN}, array 1", first
    for number, frame in enumerate(frames, 2):
        yield f"{STDIN}, array {number}", frame


def write_frame(stream: Stream, image: np.ndarray) -> None:
    """One image, flushed, so that whoever reads the pipe has it at once. A closed pipe raises BrokenPipeError."""
    writers.write_npy(stream, image)
