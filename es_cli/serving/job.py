"""Many inputs, one network: every input becomes its output, and what fails is told while the others go on. Usable from Python without the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.data import writers
from es_cli.errors import DataError, DeviceError, EsError, out_of_memory
from es_cli.serving.events import Advanced, Failed, Listener, Loaded, Written
from es_cli.serving.frames import BareFrames, FrameFormat, NpyFrames, read_frames
from es_cli.serving.inputs import Shard
from es_cli.serving.manifest import Manifest
from es_cli.serving.measured import Measured, read_input, sha256_of
from es_cli.serving.outputs import Job, exists, taken
from es_cli.serving.overlap import overlapped

if TYPE_CHECKING:
    from es_cli.reconstruct import Reconstructor
    from es_cli.serving.frames import Stream
    from es_cli.spec.schema import ArrayFile, Test

FAULTS = (DataError, DeviceError)  # of one input; others would meet all of them


@dataclass(frozen=True)
class Request:
    """How images are made: `key`, `params`, `device`, `precision` and `test` as `Reconstructor` takes them, parameters as files or from-data.

    `folder` is the output folder, None where there is none, `shard` the part of all inputs that these are, `frames` the format of arrays on pipes
    (npy, raw, cfl), and `overwrite` whether the outputs of a stream may replace files.
    """

    ckpt: Path
    key: str | None = None
    params: Mapping[str, ArrayFile | str] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "float32"
    test: Test | None = None
    folder: Path | None = None
    shard: Shard | None = None
    frames: str = "npy"
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """How many outputs were written, how many were there before, and what each failure was."""

    written: int
    skipped: int
    failures: list[EsError]


def reconstruct_all(
    request: Request, jobs: Sequence[Job], done: Sequence[Job] = (), *, stdin: Stream | None = None, stdout: Stream | None = None, tell: Listener = lambda event: None
) -> Outcome:
    """Make the images of `jobs`; those of `done` exist. An output folder gets a manifest, whatever happens.

    The streams are standard input and output, None: those of the process. Where there is one input in all, or images go to standard output,
    whose frames must answer to the inputs, a failure is raised; else failures of single inputs are told and returned. Raises UsageError,
    CheckpointError, DeviceError, SpecError and BrokenPipeError.
    """
    manifest = None if request.folder is None else Manifest(request.folder, request.shard)
    for job in done if manifest is not None else ():
        manifest.skipped(job)  # type: ignore[union-attr]
    run = _Run(request, manifest, stdin or sys.stdin.buffer, stdout or sys.stdout.buffer, tell)
    try:
        if jobs:
            run.load()
            run.all(jobs, alone=len(jobs) + len(done) == 1, total=len(jobs) + len(done))
    finally:
        if manifest is not None:
            manifest.write()
    return Outcome(run.written, len(done), run.failures)


class _Run:
    """What is held while inputs go through."""

    model: Reconstructor
    params: dict[str, Any]
    checkpoint: str
    frames: FrameFormat = NpyFrames()

    def __init__(self, request: Request, manifest: Manifest | None, stdin: Stream, stdout: Stream, tell: Listener) -> None:
        self.request, self.manifest, self.stdin, self.stdout, self.tell = request, manifest, stdin, stdout, tell
        self.written, self.failures = 0, list[EsError]()

    def load(self) -> None:
        """The network and the parameters that were given."""
        from es_cli.reconstruct import Reconstructor

        request = self.request
        self.model = Reconstructor.load(request.ckpt, request.device, request.precision, request.test)
        if request.frames != "npy":
            self.frames = BareFrames(request.frames, self.model.made.operator.measurement)
        self.checkpoint = sha256_of(request.ckpt) if self.manifest is not None else ""
        self.params = _read_parameters(request.params)
        self.tell(Loaded(self.model.network_calls, tuple(name for name in self.model.per_sample if name not in self.params)))

    def all(self, jobs: Sequence[Job], alone: bool, total: int) -> None:
        """Every job, in order."""
        strict = alone or any(job.target is None for job in jobs)
        results = self._one_by_one(jobs) if any(job.input.is_stream for job in jobs) else overlapped(jobs, self._read, self._make, self._write, FAULTS)
        for number, (job, fault) in enumerate(results, 1 + total - len(jobs)):
            if fault is not None:
                if strict or not isinstance(fault, EsError):
                    raise fault
                self.failures.append(fault)
                self.tell(Failed(fault))
                if self.manifest is not None:
                    self.manifest.failed(job, fault.fault.what)
            self.tell(Advanced(number, total))

    def _one_by_one(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, BaseException | None]]:
        """Each input after the other, since a thread that waits for a pipe cannot be stopped; of a stream, one array in memory."""
        for job in jobs:
            fault: BaseException | None = None
            try:
                if job.input.is_stream:
                    self._stream(job)
                else:
                    self._write(job, self._make(job, self._read(job)))
            except FAULTS as error:
                fault = error
            yield job, fault

    def _stream(self, job: Job) -> None:
        for number, (where, array) in enumerate(read_frames(self.stdin, self.frames, job.only_one), 1):
            one = job.numbered(number)
            if number > 1 and one.within is not None and one.target is not None and exists(one.target) and not self.request.overwrite:
                raise taken(one)
            self._write(one, self._make(one, Measured(where, array)))
            del array

    def _read(self, job: Job) -> Measured:
        return read_input(Path(job.input.source), self.request.key, hashed=self.manifest is not None)

    def _make(self, job: Job, measured: Measured) -> tuple[Measured, np.ndarray]:
        with _memory(measured.where):
            return measured, self.model.reconstruct(measured.array, measured.where, self.params)

    def _write(self, job: Job, made: tuple[Measured, np.ndarray]) -> None:
        """Write one image, with the geometry of its measurements where both have a place for it."""
        measured, image = made
        if job.target is None:
            self.frames.write(self.stdout, image)
            return
        geometry = measured.geometry(image) if writers.suffix_of(job.target) in writers.GEOMETRIC else None
        writers.write_array(job.target, image, geometry, job.within)
        self.written += 1
        if self.manifest is not None:
            self.manifest.done(job, measured.sha256, self.checkpoint, sha256_of(job.target))
        self.tell(Written(job.target))


def _read_parameters(sources: Mapping[str, ArrayFile | str]) -> dict[str, Any]:
    if not sources:
        return {}
    from es_cli.building.parameters import read_parameter

    return {name: read_parameter(source) for name, source in sources.items()}


@contextmanager
def _memory(where: str) -> Iterator[None]:
    """Memory that ran out is a fault of one input: others may be smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or out_of_memory(error) or "can't allocate memory" in str(error)):
            raise
        raise DeviceError("the memory is too small for it", where=where, hint="use another --device, or cut it into smaller ones") from error
