"""Two processes never share a folder: a lock of the operating system, which lets go of it when a process dies, however it dies."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from es_cli.errors import OutputError, UsageError

LOCK = ".lock"  # in the folder; it holds the number of the process, and is gone when the run has ended


class FolderLock:
    """The lock of a folder, held from `take` to `release`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours, and of the folder that now has this name: a folder that was removed takes its lock along."""
        return self._file is not None and self._is_in_place(self._file)

    def take(self) -> FolderLock:
        """Raises UsageError naming the process that has it, OutputError where no file can be made here."""
        while not self.held:
            self._let_go()
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            except OSError as error:
                raise OutputError(f"the folder cannot be locked: {error.strerror}", where=str(self.path.parent), hint="write where you may with -o") from error
            try:
                _lock(file)
            except OSError as error:
                owner = os.pread(file, 32, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
                os.close(file)
                who = f"process {owner}" if owner.isdecimal() else "another process"
                raise UsageError(f"{who} is training in this folder", where=str(self.path.parent), hint="wait for it, stop it, or give another -o") from error
            self._file = file
            # whoever had the lock may have taken its file away between the two calls: then it is not the folder's any more
        assert self._file is not None
        with suppress(OSError):  # on a full disk the lock holds all the same, without the number that others are told
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        return self

    def release(self) -> None:
        """Give the folder free; nothing where the lock is not held."""
        if self.held:
            with suppress(OSError):  # Windows removes no file that is open
                self.path.unlink()
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _is_in_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except OSError:
            return False


def _lock(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond the number, which others may read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
