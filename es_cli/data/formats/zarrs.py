"""zarr, version 2 and 3, in a folder or in a zip. Axes are as stored, the leading one counts samples, and rows are read when they are asked for."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.archives import OWNERS, as_ids, choose
from es_cli.data.formats.base import FREE_CLAIM, FREE_ROWS, RATIO_LIMIT, UNTRUSTED, ArrayReader, check_claim, decoding, imported
from es_cli.data.formats.packed import unpacks_to
from es_cli.data.geometry import Geometry
from es_cli.data.npy import Header, check_dtype
from es_cli.errors import DataError

# what packs numbers and text and does nothing else: a file may also name a codec that unpickles
CODECS = {
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "endian", "fixedscaleoffset", "fletcher32", "gzip",
    "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "sharding_indexed", "shuffle", "transpose", "vlen-utf8", "zfpy", "zlib",
    "zstd",
}  # fmt: skip
METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
METADATA_LIMIT = 1 << 24  # bytes of one of them
DEPTH = 4  # of groups within groups that are looked into


class Zarr(ArrayReader):
    """A zarr array, or a group of them."""

    @property
    def by_rows(self) -> bool:
        return True

    def array_names(self) -> list[str]:
        """The names of the arrays in a group, none of an array alone. Raises DataError."""
        with self._opened() as arrays:
            return [name for name in arrays if name]

    def header(self, key: str | None) -> Header:
        with self._array(key) as array:
            return Header(tuple(array.shape), np.dtype(array.dtype), "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        with self._array(key) as array:
            check_claim(array.nbytes, self._held, self._where(key))
            return np.asarray(array[...])

    def read_rows(self, key: str | None, rows: list[int]) -> np.ndarray:
        with self._array(key) as array:
            check_claim(array.nbytes // max(array.shape[0], 1), self._held, self._where(key))
            distinct, place = np.unique(rows, return_inverse=True)
            return np.asarray(array.oindex[(distinct, *(slice(None),) * (array.ndim - 1))])[place]

    def owners(self, key: str | None, count: int) -> np.ndarray | None:
        with self._opened() as arrays:
            chosen = choose(self.path, arrays, key)
            for name in OWNERS:
                if name in arrays and name != chosen and tuple(arrays[name].shape) == (count,):
                    _check_codecs(arrays[name], self._where(name))
                    return as_ids(np.asarray(arrays[name][...]))
        return None

    def geometry(self, key: str | None) -> Geometry | None:
        """What es wrote beside the array, or the names of the axes alone; None where there are neither."""
        with self._array(key) as array:
            held = dict(array.attrs)
            names = getattr(array.metadata, "dimension_names", None) or held.get("_ARRAY_DIMENSIONS")  # so xarray calls them in version 2
            if "axes" not in held and names and all(names):
                held["axes"] = names
            return Geometry.from_attributes(held, "zarr", array.dtype, array.ndim)

    def _where(self, key: str | None) -> str:
        return f"{self.path}[{key}]" if key else str(self.path)

    @cached_property
    def _held(self) -> int:
        """Bytes on disk. Raises DataError where a file of the array lies elsewhere, or claims more than it can hold."""
        if self.path.is_file():
            _check_members(self.path)
            return self.path.stat().st_size
        held, root = 0, os.path.realpath(self.path)
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                entry = os.path.join(folder, name)
                if os.path.islink(entry) and not os.path.realpath(entry).startswith(root + os.sep):
                    raise DataError("a link leads out of the array's folder", where=entry, hint="copy what it leads to in its place")
            sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in files if os.path.isfile(os.path.join(folder, name))}
            for name in METADATA & sizes.keys():
                if sizes[name] > METADATA_LIMIT:
                    raise DataError(f"{sizes[name]} bytes of description", where=os.path.join(folder, name), hint=UNTRUSTED)
            held += sum(sizes.values())
        return held

    @contextmanager
    def _opened(self) -> Iterator[dict[str, Any]]:
        """The arrays by key; an array that is no member of a group has the key ''."""
        zarr = imported("zarr", self.path)
        with decoding(self.path):
            check_claim(0, self._held, str(self.path))
            bare = zarr.storage.ZipStore(self.path, mode="r") if self.path.is_file() else zarr.storage.LocalStore(self.path, read_only=True)
            store = _checked_store(zarr, bare, self.path)
            try:
                node = zarr.open(store, mode="r")
                group = isinstance(node, zarr.Group)
                yield {name: held for name, held in node.members(max_depth=DEPTH) if isinstance(held, zarr.Array)} if group else {"": node}
            finally:
                store.close()

    @contextmanager
    def _array(self, key: str | None) -> Iterator[Any]:
        with self._opened() as arrays:
            if key is not None and "" in arrays:
                raise DataError("is one array, without a key", where=str(self.path), hint="leave key out")
            array = arrays[choose(self.path, arrays, None if key is None else key.strip("/"))]
            where = self._where(key)
            check_dtype(np.dtype(array.dtype), where)
            _check_codecs(array, where)
            check_claim(array.nbytes, self._held, where, FREE_ROWS)
            # a chunk is unpacked as a whole, whatever is asked of it
            check_claim(math.prod(getattr(array, "shards", None) or array.chunks) * array.dtype.itemsize, self._held, where)
            yield array


def write_zarr(folder: Path, path: Path, array: np.ndarray, attributes: Mapping[str, Any], axes: tuple[str, ...] | None) -> None:
    """Write an array to an empty folder, a chunk for each sample, with its attributes and the names of its axes. `path` is its name in messages."""
    zarr = imported("zarr", path, writing=True)
    values = np.asarray(array)
    held = zarr.create_array(
        store=zarr.storage.LocalStore(folder),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *values.shape[1:]) if values.ndim > 1 else values.shape,
        dimension_names=axes,
        attributes=dict(attributes),
    )
    # one after another: of several at once, zarr goes on to write the others after one has failed, and they would be left behind
    if values.ndim > 1:
        for number, sample in enumerate(values):
            held[number] = sample
    else:
        held[...] = values


def _checked_store(zarr: Any, store: Any, path: Path) -> Any:
    """The same store, read-only, where no chunk unpacks to more than a file may claim."""

    class Checked(zarr.storage.WrapperStore):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            value = await super().get(key, prototype, byte_range)
            if value is not None and not key.endswith(tuple(METADATA)):
                packed = value.to_bytes()
                check_claim(unpacks_to(packed, FREE_CLAIM + RATIO_LIMIT * len(packed)), len(packed), f"{path}/{key}")
            return value

    return Checked(store)


def _check_members(path: Path) -> None:
    """DataError where a member of a zip would unpack to more than it can hold."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            where = f"{path}/{member.filename}"
            check_claim(member.file_size, member.compress_size, where)
            if member.file_size > METADATA_LIMIT and member.filename.rpartition("/")[2] in METADATA:
                raise DataError(f"{member.file_size} bytes of description", where=where, hint=UNTRUSTED)


def _check_codecs(array: Any, where: str) -> None:
    """DataError where the file names a codec that could do more than pack numbers."""
    described = array.metadata.to_dict()
    pipeline = [described.get(name) for name in ("codecs", "filters", "compressor", "storage_transformers")]
    strange = sorted(set(_names(pipeline)) - CODECS)
    if strange:
        raise DataError(f"is packed with {', '.join(strange)}, which es does not load", where=where, hint="write it anew with zstd, gzip or blosc")


def _names(described: Any) -> Iterator[str]:
    """The names of all codecs in a description, those within shards included."""
    if isinstance(described, (list, tuple)):
        for each in described:
            yield from _names(each)
    elif isinstance(described, Mapping):
        name = described.get("name", described.get("id"))
        if name is not None:
            yield str(name).removeprefix("numcodecs.")
        inner = described.get("configuration")
        if isinstance(inner, Mapping):
            yield from _names([inner.get("codecs"), inner.get("index_codecs")])
