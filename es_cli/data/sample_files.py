"""Samples → files, one sample after another, so that no more than one of them is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from es_cli.data.npy import map_npy
from es_cli.data.watched import Watched
from es_cli.data.writers import writing

MEASURED, SUBJECT = "y", "subject"  # the arrays in the file of a SubjectFile; readers know whole subjects by this name


class SampleFile:
    """Samples of one shape in PATH.npy; once they differ, a folder PATH with a numbered .npy of each. All have the type of the first.

    The file is what `numpy.save` would have written, after `close`; before, it says that it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.file = path.with_name(f"{path.name}.npy")
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.float32)
        self.separate = False

    def append(self, sample: np.ndarray, name: str = "") -> None:
        """Write the next sample; its `name` is not needed. Raises OutputError."""
        with writing(self.file):
            if self.count == 0:
                self.shape, self.dtype = sample.shape, sample.dtype
                self._write_header("xb")
            elif not self.separate and sample.shape != self.shape:
                self._take_apart()
            if self.separate:
                self._write_one(self.count, sample)
            else:
                with open(self.file, "ab") as stream:
                    stream.write(sample.astype(self.dtype, copy=False).tobytes())
            self.count += 1

    def close(self) -> Path:
        """What was written: the file, or the folder. Raises OutputError."""
        if self.separate:
            return self.path
        with writing(self.file):
            self._write_header("r+b")
        return self.file

    def _write_header(self, mode: str) -> None:
        # numpy leaves room for the number of samples to grow, so that the second header is as long as the first
        header = {"descr": npy_format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count, *self.shape)}
        with open(self.file, mode) as stream:
            npy_format.write_array_header_1_0(stream, header)

    def _take_apart(self) -> None:
        """From one file to a folder."""
        written = map_npy(self.close())
        self.separate = True
        self.path.mkdir()
        for number, sample in enumerate(written):
            self._write_one(number, sample)
        del written  # a mapped file cannot be deleted everywhere
        self.file.unlink()

    def _write_one(self, number: int, sample: np.ndarray) -> None:
        np.save(self.path / f"{number:08d}.npy", sample.astype(self.dtype, copy=False), allow_pickle=False)


class SubjectFile:
    """Samples of one shape in PATH.h5 under `y`, with the `subject` that each belongs to, int (n,): what is held out are whole subjects."""

    def __init__(self, path: Path, subjects: np.ndarray) -> None:
        self.file = path.with_name(f"{path.name}.h5")
        self.subjects = np.asarray(subjects, np.int64)
        self.count = 0
        self._opened: Any = None
        self._stream: Watched | None = None

    def append(self, sample: np.ndarray, name: str = "") -> None:
        """Write the next sample; its `name` is not needed. Raises OutputError."""
        import h5py

        with writing(self.file):
            if self._stream is None:
                self._stream = Watched(open(self.file, "x+b"))  # noqa: SIM115 (close closes it)
            with self._stream.telling():
                if self._opened is None:
                    self._opened = h5py.File(self._stream, "w")
                    self._opened[SUBJECT] = self.subjects
                    self._opened.create_dataset(MEASURED, (len(self.subjects), *sample.shape), sample.dtype)
                self._opened[MEASURED][self.count] = sample
            self.count += 1

    def close(self) -> Path:
        """The file that was written. Raises OutputError."""
        assert self._stream is not None
        with writing(self.file), self._stream.telling():
            self._opened.close()
            self._stream.file.close()
        return self.file
