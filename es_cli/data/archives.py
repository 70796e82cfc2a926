"""Files that hold several arrays under keys: .npz and HDF5."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import numpy as np

from es_cli.data.files import listed, reading
from es_cli.data.formats.base import FREE_ROWS, UNTRUSTED, ArrayReader, check_claim
from es_cli.data.geometry import Geometry
from es_cli.data.npy import DAMAGED, Header, check_dtype, read_header, read_values
from es_cli.errors import DataError

OWNERS = ("subject", "patient")  # arrays of these names say to whom each sample belongs
FILTERS = {1, 2, 3, 4, 5, 6, 32000}  # deflate, shuffle, fletcher32, szip, nbit, scaleoffset and lzf, which HDF5 and h5py bring along
OVERHEAD = 4096  # bytes by which packing may lengthen a small chunk
MOST_NODES = 10_000  # that are looked at in a file
LONGEST_NAME = 1000  # characters, those of the groups above included


class Npz(ArrayReader):
    """An .npz file."""

    def array_names(self) -> list[str]:
        """The names of the arrays in the file. Raises DataError."""
        with self._opened() as archive:
            return list(_npy_members(archive))

    def header(self, key: str | None) -> Header:
        """Shape and type of one array. Raises DataError."""
        with self._opened() as archive, self._member(archive, key) as (_, header):
            return header

    def read(self, key: str | None) -> np.ndarray:
        """One array, whole. Raises DataError."""
        with self._opened() as archive, self._member(archive, key) as (stream, header):
            return read_values(stream, header, self._where(key))

    def owners(self, key: str | None, count: int) -> np.ndarray | None:
        """To whom each of `count` samples belongs, an int id each; None where the file does not say."""
        with self._opened() as archive:
            chosen = choose(self.path, _npy_members(archive), key)
            for name in OWNERS:
                if name not in _npy_members(archive) or name == chosen:
                    continue
                with self._member(archive, name, numeric=False) as (stream, header):
                    if header.shape == (count,):
                        return as_ids(read_values(stream, header, self._where(name)))
        return None

    def _where(self, key: str | None) -> str:
        return f"{self.path}[{key}]" if key else str(self.path)

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with reading(self.path), zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"not a whole .npz: {error}", where=str(self.path), hint=DAMAGED) from error
        except (RuntimeError, NotImplementedError) as error:
            raise DataError(f"cannot be unpacked: {error}", where=str(self.path), hint="write it with np.savez") from error

    @contextmanager
    def _member(self, archive: zipfile.ZipFile, key: str | None, numeric: bool = True) -> Iterator[tuple[IO[bytes], Header]]:
        chosen = choose(self.path, _npy_members(archive), key)
        where, member = self._where(chosen), _npy_members(archive)[chosen]
        check_claim(member.file_size, member.compress_size, where)
        with archive.open(member) as stream:
            header = read_header(stream, where, numeric)
            if header is None:
                raise DataError("the array is empty", where=where, hint=DAMAGED)
            if header.offset + header.nbytes > member.file_size:
                what = f"cut short: shape {header.shape} and type {header.dtype} need {header.nbytes} bytes, and {member.file_size - header.offset} are there"
                raise DataError(what, where=where, hint=DAMAGED)
            yield stream, header


class Hdf5(ArrayReader):
    """An HDF5 file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._trusted: set[str] = set()  # arrays whose chunks were looked at

    @property
    def by_rows(self) -> bool:
        return True

    def header(self, key: str | None) -> Header:
        """Shape and type of one array. Raises DataError."""
        with self._dataset(key) as dataset:
            return Header(tuple(dataset.shape), dataset.dtype, "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        """One array, whole. Raises DataError."""
        with self._dataset(key) as dataset:
            check_claim(dataset.nbytes, dataset.id.get_storage_size(), self._where(dataset))
            return np.asarray(dataset[()])

    def read_rows(self, key: str | None, rows: list[int]) -> np.ndarray:
        """Samples of the array's leading axis, in the order of `rows`. Raises DataError."""
        with self._dataset(key) as dataset:
            check_claim(dataset.nbytes // max(len(dataset), 1), dataset.id.get_storage_size(), self._where(dataset))
            out = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
            for place, row in enumerate(rows):
                out[place] = dataset[row]
            return out

    def owners(self, key: str | None, count: int) -> np.ndarray | None:
        """To whom each of `count` samples belongs, an int id each; None where the file does not say."""
        with self._opened() as (file, datasets):
            chosen = choose(self.path, datasets, key)
            folder = chosen.rpartition("/")[0]
            for name in [f"{folder}/{owner}".lstrip("/") for owner in OWNERS] + list(OWNERS):
                if name in datasets and name != chosen and datasets[name].shape == (count,):
                    self._check(datasets[name])
                    check_claim(datasets[name].nbytes, datasets[name].id.get_storage_size(), self._where(datasets[name]))
                    return as_ids(np.asarray(file[name][()]))
        return None

    def geometry(self, key: str | None) -> Geometry | None:
        """What es wrote beside the array; None in files of others."""
        with self._dataset(key) as dataset:
            return Geometry.from_attributes(dict(dataset.attrs), "hdf5", dataset.dtype, dataset.ndim)

    def array_names(self) -> list[str]:
        """The names of the arrays in the file. Raises DataError."""
        return list(self.names())

    def names(self) -> dict[str, tuple[int, ...]]:
        """The arrays in the file by key, with their shapes. Raises DataError."""
        with self._opened() as (_, datasets):
            return {name: tuple(dataset.shape) for name, dataset in datasets.items()}

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        import h5py

        datasets: dict[str, Any] = {}
        looked = 0

        def collect(name: str, node: Any) -> None:
            nonlocal looked
            looked += 1
            if looked > MOST_NODES or len(name) > LONGEST_NAME:
                what = f"more than {MOST_NODES} groups and arrays" if looked > MOST_NODES else f"names of more than {LONGEST_NAME} characters"
                raise DataError(f"the file holds {what}", where=str(self.path), hint=UNTRUSTED)
            # a damaged name comes as bytes
            if isinstance(name, str) and isinstance(node, h5py.Dataset) and node.shape is not None:
                datasets[name] = node

        with reading(self.path), open(self.path, "rb"):
            pass  # what the system refuses has a better message than HDF5's own
        try:
            with h5py.File(self.path, "r") as file:
                file.visititems(collect)
                yield file, datasets
        except (OSError, RuntimeError, LookupError, MemoryError, ValueError, TypeError) as error:
            raise DataError(f"not a whole HDF5 file: {str(error)[:120]}", where=str(self.path), hint=DAMAGED) from error

    @contextmanager
    def _dataset(self, key: str | None) -> Iterator[Any]:
        with self._opened() as (_, datasets):
            dataset = datasets[choose(self.path, datasets, None if key is None else key.strip("/"))]
            check_dtype(dataset.dtype, self._where(dataset))
            self._check(dataset)
            yield dataset

    def _where(self, dataset: Any) -> str:
        return f"{self.path}[{dataset.name}]"

    def _check(self, dataset: Any) -> None:
        """DataError where an array's values lie in other files, where code outside of HDF5 would have to unpack them, or where they are too many."""
        where, created = self._where(dataset), dataset.id.get_create_plist()
        if dataset.is_virtual or created.get_external_count():
            raise DataError("its values lie in other files", where=where, hint="write them into the file: h5repack, or h5py")
        strange = sorted({created.get_filter(n)[0] for n in range(created.get_nfilters())} - FILTERS)
        if strange:
            what = f"is packed with filter {', '.join(map(str, strange))}, for which HDF5 would load other code"
            raise DataError(what, where=where, hint="write it anew with gzip or lzf")
        check_claim(dataset.nbytes, dataset.id.get_storage_size(), where, FREE_ROWS)
        if dataset.chunks is not None and dataset.name not in self._trusted:  # a chunk is unpacked as a whole, whatever is asked of it
            whole = math.prod(dataset.chunks) * dataset.dtype.itemsize
            check_claim(whole, dataset.id.get_storage_size(), where)
            sizes = [0]
            dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size) if chunk.size > sizes[-1] else None)
            if sizes[-1] > whole + whole // 50 + OVERHEAD:
                raise DataError(f"a chunk of {whole} bytes is packed into {sizes[-1]}", where=where, hint=UNTRUSTED)
            self._trusted.add(dataset.name)


def _npy_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {info.filename[: -len(".npy")]: info for info in archive.infolist() if info.filename.endswith(".npy")}


def choose(path: Path, held: Mapping[str, Any], key: str | None) -> str:
    """The key of the array that is meant: `key`, or the only array beside those that name subjects. Raises DataError."""
    if not held:
        raise DataError("the file holds no array", where=str(path), hint="write one with np.savez or h5py")
    if key is not None and key in held:
        return key
    if key is not None:
        close = get_close_matches(key, held, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"no array is called '{key}'", where=str(path), hint=f"{hint}it holds {listed(held)}")
    arrays = [name for name in held if name.rpartition("/")[2] not in OWNERS] or list(held)
    if len(arrays) > 1:
        hint = f"name one: {{file: {path.name}, key: {arrays[0]}}}"
        raise DataError(f"the file holds {len(arrays)} arrays: {listed(arrays)}", where=str(path), hint=hint)
    return arrays[0]


def as_ids(names: np.ndarray) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
