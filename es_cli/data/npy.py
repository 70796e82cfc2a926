"""The .npy format: its header, arrays mapped from disk, arrays from a pipe. Pickled objects are refused everywhere."""

from __future__ import annotations

import io
import math
import os
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy_format

from es_cli.data.files import reading
from es_cli.errors import DataError

HEADER_LIMIT = 10_000  # characters, as numpy's own loader has it; a numeric array's header has about 100
CHUNK = 1 << 24
MOST_AXES = 32  # what every numpy can hold
MOST_VALUES = 1 << 58  # zeros among the lengths of the axes not counted: numpy multiplies them before it looks
DAMAGED = "the file is not whole; copy or make it again"


@dataclass(frozen=True)
class Header:
    """What a .npy says about its array, and `offset`, the number of bytes before the first value."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def check_dtype(dtype: np.dtype, where: str) -> None:
    """DataError where values of `dtype` are not numbers."""
    if dtype.hasobject:
        raise DataError("holds pickled Python objects, which es never loads", where=where, hint="save numbers: np.save(FILE, array.astype('float32'))")
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        raise DataError(f"holds values of type {dtype}, which are no numbers", where=where, hint="save a float, complex or integer array")


def read_header(stream: BinaryIO | IO[bytes], where: str, numeric: bool = True) -> Header | None:
    """The header of the .npy that begins here, leaving `stream` at its first value; None where the stream is at its end.

    With `numeric` false, text passes; pickled objects never do. Raises DataError.
    """
    magic = read_exactly(stream, npy_format.MAGIC_LEN)
    if not magic:
        return None
    if not magic.startswith(npy_format.MAGIC_PREFIX[: len(magic)]):
        pickled = "; a pickle, which es never loads" if magic[:1] == b"\x80" else ""
        raise DataError(f"not in .npy format{pickled}", where=where, hint="write it with np.save(FILE, array)")
    if len(magic) < npy_format.MAGIC_LEN:
        raise DataError("cut short within its header", where=where, hint=DAMAGED)
    width = 2 if magic[6] == 1 else 4
    size = read_exactly(stream, width)
    length = int.from_bytes(size, "little")
    if length > HEADER_LIMIT:
        raise DataError(f"the header claims to be {length} bytes long", where=where, hint=DAMAGED)
    text = read_exactly(stream, length)
    if len(size) < width or len(text) < length:
        raise DataError("cut short within its header", where=where, hint=DAMAGED)
    shape, order, dtype = _parse(magic[6], bytes(size + text), where)
    if numeric or dtype.hasobject:
        check_dtype(dtype, where)
    return Header(shape, dtype, order, len(magic) + width + length)


def map_npy(path: Path) -> np.ndarray:
    """The array of a .npy, mapped read-only from disk: nothing is read but what is used. Raises DataError."""
    with reading(path), open(path, "rb") as stream:
        header = read_header(stream, str(path))
        held = os.fstat(stream.fileno()).st_size
    if header is None:
        raise DataError("the file is empty", where=str(path), hint=DAMAGED)
    if header.offset + header.nbytes > held:
        what = f"cut short: {_array(header)} needs {header.nbytes} bytes, and the file holds {held - header.offset}"
        raise DataError(what, where=str(path), hint=DAMAGED)
    if header.nbytes == 0:
        return np.empty(header.shape, header.dtype)
    with reading(path):
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, header.order)


def read_npy_stream(stream: BinaryIO | IO[bytes], where: str = "standard input") -> Iterator[np.ndarray]:
    """Every array of concatenated .npy frames, as they come in; `stream` may be a pipe, which cannot seek.

    Raises DataError where nothing comes, or a frame breaks off.
    """
    count = 0
    while (header := read_header(stream, where)) is not None:
        yield read_values(stream, header, where)
        count += 1
    if count == 0:
        raise DataError("nothing came in", where=where, hint="pipe a .npy into it: cat y.npy | es ...")


def read_values(stream: BinaryIO | IO[bytes], header: Header, where: str) -> np.ndarray:
    """The values that follow `header`. Memory grows with what comes in, not with what the header claims. Raises DataError."""
    raw = read_exactly(stream, header.nbytes)
    if len(raw) < header.nbytes:
        raise DataError(f"cut short: {_array(header)} needs {header.nbytes} bytes, and {len(raw)} came", where=where, hint=DAMAGED)
    if header.nbytes == 0:
        return np.empty(header.shape, header.dtype)
    return np.frombuffer(raw, header.dtype).reshape(header.shape, order=header.order)


def read_exactly(stream: BinaryIO | IO[bytes], count: int) -> bytearray:
    """`count` bytes, or fewer where the stream ends: a pipe hands out less at a time than is asked for."""
    held = bytearray()
    while len(held) < count:
        part = stream.read(min(count - len(held), CHUNK))
        if not part:
            break
        held += part
    return held


def _parse(version: int, header: bytes, where: str) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    # version 3 differs from 2 in how names of fields are encoded, and arrays with fields are refused
    parse = npy_format.read_array_header_1_0 if version == 1 else npy_format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a header that Python 2 wrote
            shape, fortran, dtype = parse(io.BytesIO(header))
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise DataError(f"the header cannot be understood: {str(error)[:80]}", where=where, hint=DAMAGED) from error
    if len(shape) > MOST_AXES or any(isinstance(n, bool) or n < 0 for n in shape) or math.prod(n or 1 for n in shape) > MOST_VALUES:
        raise DataError(f"the header claims the shape {str(shape)[:80]}", where=where, hint=DAMAGED)
    return shape, "F" if fortran else "C", dtype


def _array(header: Header) -> str:
    return f"an array of shape {header.shape} and type {header.dtype}"
