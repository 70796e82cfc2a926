"""How a command of `es` ended, run in this process, judged by what is promised: exit code, lines, time and memory."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_cli.reconstruct import Reconstructor

CODES = {0, 2, 3, 4, 5, 6}  # documented ends of a command that nobody stops; 1 is a fault of es
LINES, SECONDS, BYTES = 10, 10.0, 2 << 30  # seconds of a processor: by the clock, a case on a busy machine takes longer
# what commands import once they have something to do
IMPORTED = ("es_cli.training.run", "es_cli.reconstruct", "es_cli.cli.info", "deepinv", "h5py", "nibabel", "pydicom", "tifffile", "zarr", "PIL.Image")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: `fault` says which promise it broke, empty: none."""

    code: int
    seconds: float
    peak: int  # bytes, of the whole process
    text: str
    fault: str


def run(arguments: list[str]) -> Outcome:
    """One command in this process, judged. Memory is what Linux says the process took at most."""
    _forget_peak()
    start = time.process_time()
    code, text = _run(arguments)
    seconds, peak = time.process_time() - start, _peak()
    lines = text.splitlines()
    faults = {
        f"exit code {code}": code not in CODES, "traceback": "Traceback" in text, f"{len(lines)} lines": len(lines) > LINES, "too slow": seconds > SECONDS,
        "too much memory": peak > BYTES,
    }  # fmt: skip
    return Outcome(code, seconds, peak, text, ", ".join(name for name, found in faults.items() if found))


def _run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error, with what libraries in C write there."""
    with _captured() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _commands().main(arguments, prog_name="es")
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        except BaseException as error:
            code = 1
            sys.stderr.write(f"Traceback: {type(error).__name__}: {error}\n")
    return code, said()


@lru_cache
def _commands() -> Any:
    """The command line, which Typer would build anew for each case."""
    import typer

    from es_cli.cli.app import app

    return typer.main.get_command(app)


def prepare(seeds: Path) -> None:
    """Import what commands import, and keep the loaded checkpoints of `seeds`: a case then takes a tenth of the time, in this process and its forks."""
    for name in IMPORTED:
        importlib.import_module(name)
    from es_cli.reconstruct import Reconstructor

    uncached = Reconstructor.load
    load = lru_cache(uncached)

    def kept(path: Path, *args: Any) -> Reconstructor:
        return load(path, *args) if seeds in path.parents else uncached(path, *args)

    Reconstructor.load = kept  # type: ignore[method-assign, assignment]


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    import tempfile

    with tempfile.TemporaryFile() as errors, open(os.devnull, "w") as nowhere:
        kept, streams = os.dup(2), (sys.stdout, sys.stderr)
        os.dup2(errors.fileno(), 2)
        sys.stdout, sys.stderr = nowhere, io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), errors="backslashreplace", write_through=True)

        def said() -> str:
            errors.seek(0)
            return errors.read().decode(errors="replace")

        held: list[str] = []
        try:
            yield lambda: held[0] if held else ""
        finally:
            sys.stderr.flush()
            held.append(said())
            sys.stderr.close()
            sys.stdout, sys.stderr = streams
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def confined(extra: int = BYTES) -> Iterator[None]:
    """A machine of little memory: this process gets no more than `extra` bytes beside what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
