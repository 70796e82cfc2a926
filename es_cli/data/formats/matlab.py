"""MATLAB's .mat: up to version 7 through scipy, version 7.3 as the HDF5 that it is. Axes are as MATLAB has them; the first one counts samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from es_cli.data.archives import Hdf5, choose
from es_cli.data.formats.base import ArrayReader, check_claim, decoding, imported
from es_cli.data.npy import Header, check_dtype
from es_cli.errors import DataError

CLASSES = {f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"double": 8, "single": 4, "logical": 1}
NO_NUMBERS = "only numeric arrays are read: no cell, struct, char, sparse or function"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512  # where HDF5 begins in a file of MATLAB's


class Mat(ArrayReader):
    """A .mat up to version 7, read whole."""

    def header(self, key: str | None) -> Header:
        # whether values are complex stands with the values
        array = self.read(key)
        return Header(array.shape, array.dtype, "F", 0)

    def read(self, key: str | None) -> np.ndarray:
        scipy_io = imported("scipy.io", self.path)
        with decoding(self.path):
            held = {name: (shape, kind) for name, shape, kind in scipy_io.whosmat(str(self.path))}
            numeric = {name: described for name, described in held.items() if described[1] in CLASSES}
            if key is not None and key in held and key not in numeric:
                raise DataError(f"is of class {held[key][1]}", where=f"{self.path}[{key}]", hint=NO_NUMBERS)
            if held and not numeric:
                raise DataError("the file holds no numeric array", where=str(self.path), hint=NO_NUMBERS)
            chosen = choose(self.path, numeric, key)
            shape, kind = numeric[chosen]
            check_claim(int(np.prod([float(n) for n in shape])) * CLASSES[kind], self.path.stat().st_size, f"{self.path}[{chosen}]")
            array = np.asarray(scipy_io.loadmat(str(self.path), variable_names=[chosen])[chosen])
            check_dtype(array.dtype, f"{self.path}[{chosen}]")
            return array.astype(np.bool_) if kind == "logical" else array


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
            check_claim(dataset.nbytes, dataset.id.get_storage_size(), f"{self.path}[{dataset.name}]")
            values = np.asarray(dataset[()]).T
            if values.dtype.names:
                values = values["real"] + 1j * values["imag"]
            return values.astype(self._dtype(dataset), copy=False)

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
        if kind and kind not in CLASSES:
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
