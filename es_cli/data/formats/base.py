"""What every reader of array files offers, and what all of them owe: no foreign error, no warning, no memory for what a header merely claims."""

from __future__ import annotations

import importlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.files import reading, suffix_of
from es_cli.data.geometry import Geometry
from es_cli.data.npy import DAMAGED, Header
from es_cli.errors import DataError, OutputError, said

RATIO_LIMIT = 100  # how much measurements can be packed: half of a mask's bits in float32 are 1/30, images 1/5
FREE_CLAIM = 1 << 27  # bytes that a file may claim however well it is packed, such as an array of zeros
FREE_ROWS = 1 << 34  # the same of an array of which a few samples at a time are read
UNTRUSTED = "the file is damaged or not to be trusted"
EXTRA = "pip install 'es-cli[files]'"

# what the decoders log goes to standard error where nobody handles it; what matters comes as a DataError
for _decoder in ("nibabel", "pydicom", "zarr", "numcodecs"):
    logging.getLogger(_decoder).addHandler(logging.NullHandler())


class ArrayReader(ABC):
    """One file that holds an array, or several under keys. It is opened anew for every reading, so that copies in other processes read too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def by_rows(self) -> bool:
        """Whether `read_rows` is the way to a few samples; else `read` costs nothing, or all of the file. Raises DataError."""
        return False

    def array_names(self) -> list[str]:
        """The names of the arrays in the file; none where it holds one without a name. Raises DataError."""
        return []

    @abstractmethod
    def header(self, key: str | None) -> Header:
        """Shape and type of the array that `read` gives, without reading it. Raises DataError."""

    @abstractmethod
    def read(self, key: str | None) -> np.ndarray:
        """The array, whole, or mapped from disk. Raises DataError."""

    def read_rows(self, key: str | None, rows: list[int]) -> np.ndarray:
        """Samples of the array's leading axis, in the order of `rows`. Raises DataError."""
        return np.asarray(self.read(key)[rows])

    def owners(self, key: str | None, count: int) -> np.ndarray | None:
        """To whom each of `count` samples belongs, an int id each; None where the file does not say."""
        return None

    def geometry(self, key: str | None) -> Geometry | None:
        """What the file says of axes and distances; None where it says nothing. Raises DataError."""
        return None


def imported(name: str, path: Path, writing: bool = False) -> Any:
    """The package `name`, which an extra brings. Raises DataError, or OutputError, with the line that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        kind = OutputError if writing else DataError
        what = f"{'writing' if writing else 'reading'} {suffix_of(path)} files needs {name.partition('.')[0]}, which is not installed"
        raise kind(what, where=str(path), hint=EXTRA) from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises about a damaged file into a DataError, and keeps it from warning."""
    if path.is_file():
        with reading(path), open(path, "rb"):
            pass  # what the system refuses has a better message than the decoders' own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise DataError(f"not a whole {suffix_of(path)} file: {said(error, 120)}", where=str(path), hint=DAMAGED) from error


def check_claim(claimed: int, held: int, where: str, free: int = FREE_CLAIM) -> None:
    """DataError where `held` bytes, compressed or not, would have to be packed as no measurements are to be the `claimed` ones; `free` are not counted."""
    if claimed > RATIO_LIMIT * held + free:
        raise DataError(f"claims {claimed} bytes, and holds {held}", where=where, hint=UNTRUSTED)
