"""MATLAB's .mat: numeric arrays of version 5 to 7, and of version 7.3, which is HDF5. Axes are as MATLAB has them; the first one counts samples.

Our own code up to version 7: scipy's reader writes outside its memory where a file is damaged (1.17). Source: MathWorks, "MAT-File Format".
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from es_cli.data.archives import Hdf5, choose
from es_cli.data.formats.base import ArrayReader, check_claim, decoding
from es_cli.data.npy import CHUNK, DAMAGED, Header, check_dtype, read_exactly
from es_cli.errors import DataError

OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function", 17: "opaque"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
NUMERIC = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
# values are stored in the smallest type that holds them
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
COMPLEX, LOGICAL = 0x0800, 0x0200
START = 128  # bytes of text and version
PART_LIMIT = 4096  # bytes of a name, or of the lengths of the axes
NO_NUMBERS = "only numeric arrays are read: no cell, struct, char, sparse or function"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512  # where HDF5 begins in a file of MATLAB's


@dataclass(frozen=True)
class _Variable:
    """One array: where its element begins, and what it holds. `dtype` is None for what is no numeric array."""

    offset: int
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype | None


class Mat(ArrayReader):
    """A .mat of version 5 to 7, read whole."""

    def array_names(self) -> list[str]:
        """The names of the numeric arrays in the file. Raises DataError."""
        with self._opened() as (file, order):
            return [name for name, variable in self._variables(file, order).items() if variable.dtype is not None]

    def header(self, key: str | None) -> Header:
        with self._opened() as (file, order):
            _, variable = self._chosen(file, order, key)
            assert variable.dtype is not None
            return Header(variable.shape, variable.dtype, "F", 0)

    def read(self, key: str | None) -> np.ndarray:
        with self._opened() as (file, order):
            name, variable = self._chosen(file, order, key)
            where, dtype = f"{self.path}[{name}]", variable.dtype
            assert dtype is not None
            check_claim(math.prod(variable.shape) * dtype.itemsize, self.path.stat().st_size, where)
            stream, _ = _element(file, order, variable.offset)
            _describe(stream, order, variable.offset)
            values = _values(stream, order, variable.shape)
            if dtype.kind == "c":
                values = values + 1j * _values(stream, order, variable.shape)
            return values.astype(dtype).reshape(variable.shape, order="F")

    @staticmethod
    def _variables(file: IO[bytes], order: str) -> dict[str, _Variable]:
        held: dict[str, _Variable] = {}
        offset, end = START, os.fstat(file.fileno()).st_size
        while offset < end:
            stream, following = _element(file, order, offset)
            name, variable = _describe(stream, order, offset)
            held[name] = variable
            offset = following
        return held

    def _chosen(self, file: IO[bytes], order: str, key: str | None) -> tuple[str, _Variable]:
        held = self._variables(file, order)
        numeric = {name: variable for name, variable in held.items() if variable.dtype is not None}
        if key is not None and key in held and key not in numeric:
            raise DataError(f"is of class {held[key].kind}", where=f"{self.path}[{key}]", hint=NO_NUMBERS)
        if held and not numeric:
            raise DataError("the file holds no numeric array", where=str(self.path), hint=NO_NUMBERS)
        name = choose(self.path, numeric, key)
        return name, numeric[name]

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], str]]:
        """The file, and its order of bytes as `struct` has it."""
        with decoding(self.path), open(self.path, "rb") as file:
            ending = file.read(START)[-2:]
            if ending not in (b"IM", b"MI"):
                raise DataError("not a whole .mat of version 5 or later", where=str(self.path), hint="save it in MATLAB with -v7 or -v7.3")
            yield file, "<" if ending == b"IM" else ">"


class Mat73(Hdf5):
    """A .mat of version 7.3. MATLAB writes axes in reverse, complex numbers as pairs, and truth values as bytes."""

    @property
    def by_rows(self) -> bool:
        return False  # the first axis is the last one on disk

    def header(self, key: str | None) -> Header:
        with self._opened() as (_, held):
            dataset = held[self._chosen(held, key)]
            return Header(tuple(dataset.shape)[::-1], self._dtype(dataset), "F", 0)

    def read(self, key: str | None) -> np.ndarray:
        with self._opened() as (_, held):
            dataset = held[self._chosen(held, key)]
            self._check(dataset)
            check_claim(dataset.nbytes, dataset.id.get_storage_size(), self._where(dataset))
            values = np.asarray(dataset[()]).T
            if values.dtype.names:
                values = values["real"] + 1j * values["imag"]
            return values.astype(self._dtype(dataset), copy=False)

    def array_names(self) -> list[str]:
        """The names of the arrays in the file, without what lies below #refs#, the parts of cells. Raises DataError."""
        return [name for name in super().array_names() if not name.startswith("#")]

    def owners(self, key: str | None, count: int) -> np.ndarray | None:
        return None

    def geometry(self, key: str | None) -> None:
        return None

    def _chosen(self, held: dict[str, object], key: str | None) -> str:
        # what lies below #refs# are the parts of cells
        return choose(self.path, {name: dataset for name, dataset in held.items() if not name.startswith("#")}, key)

    def _dtype(self, dataset: object) -> np.dtype:
        where = f"{self.path}[{dataset.name}]"  # type: ignore[attr-defined]
        stored, kind = dataset.dtype, dataset.attrs.get("MATLAB_class", b"")  # type: ignore[attr-defined]
        kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
        if kind and kind not in NUMERIC:
            raise DataError(f"is of class {kind}", where=where, hint=NO_NUMBERS)
        if stored.names == ("real", "imag") and stored["real"].kind == "f":
            return np.result_type(stored["real"], np.complex64).newbyteorder("=")
        check_dtype(stored, where)
        return np.dtype(np.bool_) if kind == "logical" else stored


def mat_reader(path: Path) -> Mat | Mat73:
    """The reader that the file's version needs. Raises DataError where the file cannot be opened."""
    with decoding(path), open(path, "rb") as file:
        file.seek(USER_BLOCK)
        return Mat73(path) if file.read(len(SIGNATURE)) == SIGNATURE else Mat(path)


class _Inflated:
    """What a zlib stream of `length` bytes unpacks to, as much at a time as is asked for."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self.file, self.left, self.packed = file, length, b""
        self.unpacker = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        while not self.unpacker.eof:
            if not self.packed:
                self.packed = self.file.read(min(self.left, CHUNK))
                self.left -= len(self.packed)
            if not self.packed:
                break
            part = self.unpacker.decompress(self.packed, count)
            self.packed = self.unpacker.unconsumed_tail
            if part:
                return part
        return b""


def _element(file: IO[bytes], order: str, offset: int) -> tuple[IO[bytes], int]:
    """The contents of the matrix at `offset`, and where the next element begins. Raises ValueError where there is none."""
    file.seek(offset)
    kind, length = struct.unpack(order + "II", read_exactly(file, 8))
    stream: IO[bytes] = file
    if kind == COMPRESSED:
        stream = _Inflated(file, length)  # type: ignore[assignment]
        kind = struct.unpack(order + "II", read_exactly(stream, 8))[0]
    if kind != MATRIX:
        raise ValueError(f"an element of type {kind} at byte {offset}")
    return stream, offset + 8 + length


def _describe(stream: IO[bytes], order: str, offset: int) -> tuple[str, _Variable]:
    """Name and description of a matrix, leaving `stream` at its values."""
    flags = struct.unpack(order + "II", _part(stream, order)[1])[0]
    number = flags & 0xFF
    if number not in CLASSES:
        kind = OTHER_CLASSES.get(number, str(number))
        # an opaque object is laid out in another way
        name = "(opaque)" if kind == "opaque" else _describe_name(stream, order)[1]
        return name, _Variable(offset, kind, (), None)
    shape, name = _describe_name(stream, order)
    stored = np.dtype(CLASSES[number])
    dtype = np.dtype(np.bool_) if flags & LOGICAL else np.result_type(stored, np.complex64) if flags & COMPLEX else stored
    return name, _Variable(offset, "numeric", shape, dtype)


def _describe_name(stream: IO[bytes], order: str) -> tuple[tuple[int, ...], str]:
    lengths = _part(stream, order)[1]
    shape = struct.unpack(f"{order}{len(lengths) // 4}i", lengths)
    if not shape or min(shape) < 0:
        raise ValueError(f"the shape {shape}")
    return shape, _part(stream, order)[1].decode("ascii", "replace")


def _part(stream: IO[bytes], order: str, limit: int = PART_LIMIT) -> tuple[int, bytes]:
    """Type and bytes of one part of a matrix. Raises ValueError where it is cut short or longer than `limit`."""
    tag = read_exactly(stream, 8)
    kind, length = struct.unpack(order + "II", tag)
    if kind >> 16:  # up to four bytes lie in the tag itself
        kind, length = kind & 0xFFFF, kind >> 16
        return kind, bytes(tag[4 : 4 + length])
    if length > limit:
        raise ValueError(f"a part of {length} bytes, where {limit} are left for it")
    content = read_exactly(stream, length)
    read_exactly(stream, -length % 8)
    if len(content) < length:
        raise ValueError(DAMAGED)
    return kind, bytes(content)


def _values(stream: IO[bytes], order: str, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    kind, content = _part(stream, order, 8 * count)
    values = np.frombuffer(content, np.dtype(STORED[kind]).newbyteorder(order))  # type: ignore[arg-type]
    if len(values) != count:
        raise ValueError(f"{len(values)} values for the shape {shape}")
    return values
