"""The folder of a run: claimed, with the spec in it, before anything heavy is imported, and given up where nothing could be trained."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from es_cli import catalog
from es_cli.data.writers import write_bytes
from es_cli.errors import OutputError, UsageError
from es_cli.spec.document import to_yaml
from es_cli.spec.schema import Spec
from es_cli.training.lock import LOCK, FolderLock

SPEC, MARK = "spec.yaml", "environment.json"  # the mark: written when training starts, and no user's file is called so beside a spec
RUNS = Path("runs")
TEMPORARY = ".*.tmp"  # what a file is called until it is whole
# what is kept of test data that were simulated: one file of each, or a folder where samples differ in size
TEST_DATA = tuple(f"data/test_{name}{end}" for name in ("x", "y", *catalog.OF_PHYSICS, *catalog.LEVELS) for end in (".npy", "/[0-9]*.npy"))
# all that a run writes; whatever else lies in its folder is not ours to delete
WRITTEN = (SPEC, MARK, "model.safetensors", "metrics.jsonl", "metrics.csv", "progress.png", "state", "previews", *TEST_DATA)


def check_links(folder: Path) -> None:
    """OutputError where what a run writes, or deletes to make room, is a link out of its folder: a folder may come from somebody else."""
    root = os.path.realpath(folder)
    for pattern in (*WRITTEN, "data", "data/test_*", "state/*", "previews/*"):
        for found in folder.glob(pattern):
            real = os.path.realpath(found)
            if os.path.islink(found) and os.path.commonpath([real, root]) != root:
                raise OutputError("a link leads out of the run's folder", where=str(found), hint="remove it, or train in another folder with -o")


@dataclass(frozen=True)
class RunFolder:
    """A claimed folder. `replaces`: an older run lies in it, which is kept until the new one can start. `lock` is held until `release`."""

    path: Path
    replaces: bool = False
    lock: FolderLock | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_another(cls) -> RunFolder:
        """The folder of another process, which knows where it is, and keeps it."""
        return cls(Path(), replaces=True)

    def release(self) -> None:
        """Let others in."""
        if self.lock is not None:
            self.lock.release()

    def start(self, spec: Spec) -> None:
        """Nothing can go wrong any more before the first step: what an older run wrote goes, and nothing else. Raises OutputError."""
        if not self.replaces:
            return
        try:
            for old in [found for pattern in WRITTEN for found in self.path.glob(pattern)]:
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                else:
                    old.unlink()
                    if old.parent.parent == self.path / "data":
                        with suppress(OSError):  # a folder of one array, unless something else lies in it
                            old.parent.rmdir()
        except OSError as error:
            raise OutputError(f"the older run cannot be replaced: {error.strerror}", where=str(self.path), hint="give another -o") from error
        write_bytes(self.path / SPEC, to_yaml(spec).encode())

    def give_up(self) -> None:
        """Nothing was trained: a folder with a spec that cannot run helps nobody, and a run to be replaced is kept."""
        self.release()
        if self.replaces:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.parent == RUNS:
            with suppress(OSError):  # runs/ itself goes too, unless other runs lie in it
                RUNS.rmdir()


class Keeper:
    """Keeps the folder of a run under way: ours alone, and with the files that make it a run."""

    def __init__(self, folder: Path, lock: FolderLock | None) -> None:
        self.folder, self._lock = folder, lock or FolderLock(folder)
        self._files: dict[str, bytes] = {}

    def write(self, name: str, content: bytes) -> None:
        """Write one of these files. Raises OutputError."""
        write_bytes(self.folder / name, content)

    def remember(self) -> None:
        """Remember these files as they are now."""
        self._files = {name: (self.folder / name).read_bytes() for name in (SPEC, MARK) if (self.folder / name).is_file()}

    @property
    def lost(self) -> bool:
        """Whether the folder was removed, or another has taken its name."""
        return not self._lock.held or not (self.folder / SPEC).is_file()

    def make_again(self) -> None:
        """The folder, with these files. Raises OutputError, also where another process trains there by now."""
        if not self.lost:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except UsageError as error:
            raise OutputError(f"cannot be written: {error.fault.what}", where=str(self.folder), hint=error.fault.hint) from error
        for name, content in self._files.items():
            write_bytes(self.folder / name, content)


def claim(spec: Spec, explicit: Path | None = None, overwrite: bool = False) -> RunFolder:
    """Make the folder of a run and write its spec: `explicit`, or runs/NAME, runs/NAME-2, … whichever is free.

    One to overwrite is left as it is. The folder is locked: whoever trains in it releases it. Raises UsageError where `explicit` exists and may
    not be overwritten, or another process trains in it, OutputError where the folder cannot be made, or links in it lead elsewhere.
    """
    if explicit is not None and explicit.exists():
        if not overwrite:
            raise UsageError("this output exists", where=str(explicit), hint="give another -o, or --overwrite to replace it")
        if not _holds_a_run(explicit):
            raise UsageError("this is not the folder of a run, and is not overwritten", where=str(explicit), hint="give another -o")
        check_links(explicit)
        return RunFolder(explicit, True, FolderLock(explicit).take())
    path = _made(spec.name, explicit)
    folder = RunFolder(path, lock=FolderLock(path).take())
    try:
        write_bytes(folder.path / SPEC, to_yaml(spec).encode())
    except OutputError:
        folder.give_up()
        raise
    return folder


def _holds_a_run(path: Path) -> bool:
    """Whether a run was started here, or claimed the folder and got no further, or nothing is here; a folder of a user's own spec and data is none."""
    if (path / MARK).is_file() or not path.is_dir():
        return path.is_dir()
    # one that was killed while it claimed the folder may have left no more than the beginning of a file
    names = {entry.name for entry in path.iterdir() if not fnmatch(entry.name, TEMPORARY)} - {LOCK}
    return names <= {SPEC}


def _made(name: str, explicit: Path | None) -> Path:
    try:
        if explicit is not None:
            explicit.mkdir(parents=True)
            return explicit
        for number in range(1, 100_000):
            path = RUNS / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise OutputError(f"the folder of the run cannot be made: {error.strerror}", where=str(explicit or RUNS), hint="give another -o") from error
    raise OutputError(f"{RUNS / name} to {RUNS / name}-99999 all exist", hint="give -o")
