"""HDF5 files on a disk that may refuse: the library says where in its own code it stopped, and at times nothing; this says what the system said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class Watched:
    """A stream that remembers what the system refused; as much of one as h5py asks for. Whoever opened it closes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.refusal: OSError | None = None

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raises the OSError of the system, where there was one, in place of what HDF5 raises, or does not raise."""
        try:
            yield
        except RuntimeError as error:
            raise self.refusal or error from error
        if self.refusal is not None:
            raise self.refusal

    def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.file, method)(*arguments)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def write(self, held: Any) -> int:
        return int(self._asked("write", held))

    def read(self, size: int = -1) -> bytes:
        return bytes(self._asked("read", size))

    def readinto(self, held: Any) -> int:
        return int(self._asked("readinto", held))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._asked("seek", offset, whence))

    def truncate(self, size: int | None = None) -> int:
        return int(self._asked("truncate", size))

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self._asked("flush")
