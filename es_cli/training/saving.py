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
from es_cli.training.folder import TEMPORARY
from es_cli.training.state import Snapshot, read_snapshot

FOLDER, MODEL, STATE = "folder", "model.safetensors", "state"
FIRST, LAST = (FOLDER,), (MODEL, STATE)  # of a batch; without these a run is lost
NEWEST, PREVIOUS = "state.safetensors", "previous.safetensors"
Write = Callable[[], None]


@dataclass
class _Outcome:
    """What a batch of writes came to: those that failed, with why, and its seconds."""

    failed: dict[str, tuple[Write, Exception]] = field(default_factory=dict)
    seconds: float = 0.0


class Saver:
    """Takes what is to be written, by name, and writes it when it is told to; what is put under a name replaces what waits there.

    What cannot be written is said once, waits, and is tried again with the next batch. `tell` takes what a user should know. `wait` comes after the last batch: whoever leaves before it is written has its
    launcher kill the process that writes.
    """

    def __init__(self, tell: Callable[[str], None], wait: Callable[[], None] = lambda: None) -> None:
        self.tell, self.wait = tell, wait
        self.seconds = 0.0  # that the slowest batch took
        self._waiting: dict[str, Write] = {}
        self._complained = False
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
        self._waiting[name] = write

    def flush(self) -> None:
        """Begin to write all that waits; first wait for the batch before it. Raises what is no fault of a disk."""
        self.settle()
        if self._waiting:
            self._under_way = self._thread.submit(_write_all, self._waiting)
            self._waiting = {}

    def settle(self) -> dict[str, Exception]:
        """Wait until nothing is being written, say what could not be, and give it, by name."""
        if self._under_way is None:
            return {}
        outcome, self._under_way = self._under_way.result(), None
        self.seconds = max(self.seconds, outcome.seconds)
        self._waiting = {**{name: write for name, (write, _) in outcome.failed.items()}, **self._waiting}
        faults = {name: error for name, (_, error) in outcome.failed.items()}
        if faults and not self._complained:
            self.tell(f"{_told(next(iter(faults.values())))}; training goes on, and this is tried again at the next save")
        elif self._complained and not faults:
            self.tell("the files of the run can be written again")
        self._complained = bool(faults)
        return faults

    def finish(self) -> None:
        """Write all that waits, and wait for the other processes. Raises OutputError where model or state cannot be written even now."""
        self.flush()
        faults = self.settle()
        error = next((faults[name] for name in FIRST + LAST if name in faults), None)
        if error is not None:
            where = error.fault.where if isinstance(error, OutputError) else ""
            hint = "make it writable, then es train --resume goes on from the last state that was saved"
            raise OutputError(f"the result of training cannot be saved: {_reason(error)}", where=where, hint=hint) from error
        self.wait()


def _told(error: Exception) -> str:
    return f"{error.fault.where}: {error.fault.what}" if isinstance(error, OutputError) else _reason(error)


def _reason(error: Exception) -> str:
    return error.fault.what if isinstance(error, OutputError) else f"cannot be written: {error}"


def _write_all(writes: dict[str, Write]) -> _Outcome:
    outcome, started = _Outcome(), time.monotonic()
    names = [*(name for name in FIRST if name in writes), *(name for name in writes if name not in FIRST + LAST), *(name for name in LAST if name in writes)]
    for name in names:
        # nothing goes into a folder that is not ours, and no state to the disk before the weights that it speaks of
        obstacle = outcome.failed.get(FOLDER) or (outcome.failed.get(MODEL) if name == STATE else None)
        try:
            if obstacle is None:
                writes[name]()
            else:
                outcome.failed[name] = writes[name], obstacle[1]
        except (OutputError, OSError, MemoryError) as error:
            outcome.failed[name] = writes[name], error
    outcome.seconds = time.monotonic() - started
    return outcome


class StateFiles:
    """The two files of a state: the newest, and the last good one before it."""

    def __init__(self, run_dir: Path) -> None:
        self.newest, self.previous = run_dir / STATE / NEWEST, run_dir / STATE / PREVIOUS
        self._good = False  # whether the newest is one to go back to

    @property
    def exist(self) -> bool:
        return self.newest.exists() or self.previous.exists()

    def write(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest. The one before it stays until this one is whole, and longer where it is one to go back to."""
        aside = self.newest.with_name("next.safetensors")
        snapshot.write(aside)
        if self._good and self.newest.exists():
            os.replace(self.newest, self.previous)
        os.replace(aside, self.newest)
        self._good = snapshot.good

    def read(self, tell: Callable[[str], None]) -> tuple[Snapshot, Snapshot | None]:
        """The newest state that is whole, and the last one to go back to, None where that is lost. Raises CheckpointError."""
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
        self._good = self.newest in found and found[self.newest].good
        return next(iter(found.values())), next((one for one in found.values() if one.good), None)


def clear_away(run_dir: Path) -> None:
    """Remove what a run that was killed had begun to write; nobody else writes here."""
    for folder in (run_dir, run_dir / STATE, run_dir / "previews", run_dir / "data"):
        for left in folder.glob(TEMPORARY):
            with suppress(OSError):
                left.unlink()
