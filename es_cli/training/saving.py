"""Files of a run, written by a thread of their own while training goes on: each whole or not at all, one batch of them at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from es_cli.errors import CheckpointError, OutputError
from es_cli.training.state import Snapshot, read_snapshot

MODEL, STATE = "model.safetensors", "state"
NEWEST, PREVIOUS = "state.safetensors", "previous.safetensors"
Write = Callable[[], None]


@dataclass
class _Outcome:
    """What a batch of writes came to: those that failed, with why, and its seconds."""

    failed: dict[str, tuple[Write, Exception]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    seconds: float = 0.0


class Saver:
    """Takes what is to be written, by name, and writes it in that order when it is told to; what is put under a name replaces what waits there.

    What cannot be written is said once, waits, and is tried again with the next batch. `tell` takes what a user should know.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.seconds = 0.0  # that the slowest batch took
        self._waiting: dict[str, Write] = {}
        self._complained: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="es-writer")
        self._under_way: Future[_Outcome] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown()

    @property
    def busy(self) -> bool:
        """Whether a batch is being written."""
        return self._under_way is not None and not self._under_way.done()

    def put(self, name: str, write: Write) -> None:
        """Have `write` called with the next batch. It may raise OutputError or OSError."""
        self._waiting.pop(name, None)
        self._waiting[name] = write

    def flush(self) -> None:
        """Begin to write all that waits; first wait for the batch before it. Raises what is no fault of a disk."""
        self.settle()
        if self._waiting:
            self._under_way = self._thread.submit(_write_all, self._waiting)
            self._waiting = {}

    def settle(self) -> None:
        """Wait until nothing is being written, and say what could not be."""
        if self._under_way is None:
            return
        outcome, self._under_way = self._under_way.result(), None
        self.seconds = max(self.seconds, outcome.seconds)
        self._waiting = {**{name: write for name, (write, _) in outcome.failed.items()}, **self._waiting}
        for name, (_, error) in outcome.failed.items():
            if name not in self._complained:
                self._complained.add(name)
                self.tell(f"{_told(error)}; training goes on, and this is tried again at the next save")
        for name in sorted(self._complained & outcome.done):
            self._complained.discard(name)
            self.tell(f"{name} is written again")

    def finish(self) -> None:
        """Write all that waits. Raises OutputError where model or state cannot be written even now."""
        self.flush()
        if self._under_way is None:
            return
        outcome = self._under_way.result()
        self.settle()
        for name in (MODEL, STATE):
            if name in outcome.failed:
                error = outcome.failed[name][1]
                raise error if isinstance(error, OutputError) else OutputError(f"cannot be written: {error}", where=name) from error


def _told(error: Exception) -> str:
    fault = error.fault if isinstance(error, OutputError) else None
    return str(error) if fault is None else f"{fault.where}: {fault.what}"


def _write_all(writes: dict[str, Write]) -> _Outcome:
    outcome, started = _Outcome(), time.monotonic()
    # a state says which weights were the best: they are on the disk before it is
    for name, write in sorted(writes.items(), key=lambda item: item[0] == STATE):
        try:
            if name == STATE and MODEL in outcome.failed:
                outcome.failed[name] = write, outcome.failed[MODEL][1]
                continue
            write()
            outcome.done.add(name)
        except (OutputError, OSError, MemoryError) as error:
            outcome.failed[name] = write, error
    outcome.seconds = time.monotonic() - started
    return outcome


class StateFiles:
    """The two files of a state: the newest, and the one before it that was taken at a validation."""

    def __init__(self, run_dir: Path) -> None:
        self.newest, self.previous = run_dir / STATE / NEWEST, run_dir / STATE / PREVIOUS
        self._validated = False  # whether the newest was taken at a validation

    @property
    def exist(self) -> bool:
        return self.newest.exists() or self.previous.exists()

    def write(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest. The one before it stays until this one is whole, and longer where it was taken at a validation."""
        aside = self.newest.with_name("next.safetensors")
        snapshot.write(aside)
        if self._validated and self.newest.exists():
            os.replace(self.newest, self.previous)
        os.replace(aside, self.newest)
        self._validated = snapshot.validated

    def read(self, tell: Callable[[str], None]) -> tuple[Snapshot, Snapshot | None]:
        """The newest state that is whole, and the one that was taken at a validation last, None where that is lost. Raises CheckpointError."""
        found: dict[Path, Snapshot] = {}
        faults: list[CheckpointError] = []
        for path in (self.newest, self.previous):
            try:
                if path.exists():
                    found[path] = read_snapshot(path)
            except CheckpointError as error:
                faults.append(error)
        if not found:
            hint = "it stopped before its first one; train again with --overwrite"
            raise faults[0] if faults else CheckpointError("the run has no saved state", where=str(self.newest), hint=hint)
        for fault in (error.fault for error in faults):
            tell(f"{fault.where}: {fault.what}; the other state, of step {next(iter(found.values())).step}, is used")
        self._validated = self.newest in found and found[self.newest].validated
        return next(iter(found.values())), next((one for one in found.values() if one.validated), None)


def clear_away(run_dir: Path) -> None:
    """Remove what a run that was killed had begun to write; nobody else writes here."""
    for folder in (run_dir, run_dir / STATE, run_dir / "previews", run_dir / "data"):
        for left in folder.glob(".*.tmp"):
            with suppress(OSError):
                left.unlink()
