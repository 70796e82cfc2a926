"""Many inputs, one network: every input becomes its output, and what fails is told while the others go on. Usable from Python without the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.data import writers
from es_cli.data.identifiers import read_identifiers
from es_cli.data.piecewise import PiecewiseArray
from es_cli.errors import DataError, DeviceError, EsError, out_of_memory
from es_cli.serving.beside import Beside, in_pieces
from es_cli.serving.events import Advanced, Failed, Listener, Loaded, Remark, Written
from es_cli.serving.frames import BareFrames, FrameFormat, NpyFrames, read_frames
from es_cli.serving.inputs import Shard
from es_cli.serving.integers import integers_for, rounded
from es_cli.serving.limits import Limits, is_plain
from es_cli.serving.manifest import Manifest
from es_cli.serving.measured import Measured, read_input, sha256_of
from es_cli.serving.outputs import Job, exists, taken
from es_cli.serving.overlap import overlapped
from es_cli.serving.provenance import Recipe, write_record

if TYPE_CHECKING:
    from es_cli.examine import Examined
    from es_cli.reconstruct import Reconstructor
    from es_cli.serving.frames import Stream
    from es_cli.spec.schema import ArrayFile, Test

FAULTS = (DataError, DeviceError)  # of one input; others would meet all of them


@dataclass(frozen=True)
class Request:
    """How images are made: `key`, `params`, `device`, `precision` and `test` as `Reconstructor` takes them, parameters as files or from-data.

    `folder` is the output folder, None where there is none, `shard` the part of all inputs that these are, `frames` the format of arrays on pipes
    (npy, raw, cfl), `overwrite` whether the outputs of a stream may replace files, `limits` which axis counts samples and how much memory there is.
    `floats` keeps floats where integer images would be written; `records` says whether the provenance of each output lies beside it, `full_paths` with
    the paths of files from the root. `beside` is what goes beside each image; `identified`: with whom
    it shows, as DICOM headers say.
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
    limits: Limits = Limits()
    floats: bool = False
    records: bool = True
    full_paths: bool = False
    beside: Beside = field(default_factory=Beside)
    identified: bool = False


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
    recipe: Recipe
    frames: FrameFormat = NpyFrames()

    def __init__(self, request: Request, manifest: Manifest | None, stdin: Stream, stdout: Stream, tell: Listener) -> None:
        self.request, self.manifest, self.stdin, self.stdout, self.tell = request, manifest, stdin, stdout, tell
        self.written, self.failures = 0, list[EsError]()
        self.through, self.total = 0, 0

    def load(self) -> None:
        """The network and the parameters that were given."""
        from es_cli.reconstruct import Reconstructor

        request = self.request
        self.model = Reconstructor.load(request.ckpt, request.device, request.precision, request.test)
        if request.frames != "npy":
            self.frames = BareFrames(request.frames, self.model.made.operator.measurement)
        if request.records or self.manifest is not None:
            options = {"precision": request.precision, "axis": request.limits.axis, "memory": request.limits.memory, "floats": request.floats, "consistent": request.beside.consistent}
            self.recipe = Recipe.of(self.model, request.ckpt, request.params, request.test, options, request.full_paths)
        self.params = _read_parameters(request.params)
        self.tell(Loaded(self.model.network_calls, tuple(name for name in self.model.per_sample if name not in self.params)))

    def all(self, jobs: Sequence[Job], alone: bool, total: int) -> None:
        """Every job, in order."""
        strict = alone or any(job.target is None for job in jobs)
        results = self._one_by_one(jobs) if any(job.input.is_stream for job in jobs) else overlapped(jobs, self._read, self._make, self._write, FAULTS)
        self.through, self.total = total - len(jobs), total
        for job, fault in results:
            if fault is not None:
                if strict or not isinstance(fault, EsError):
                    raise fault
                self.failures.append(fault)
                self.tell(Failed(fault))
                if self.manifest is not None:
                    self.manifest.failed(job, fault.fault.what)
            self.through += 1
            self.tell(Advanced(self.through, total))

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
            self._write(one, self._make(one, Measured(where, array, number=number)))
            del array

    def _read(self, job: Job) -> Measured:
        return read_input(Path(job.input.source), self.request.key, hashed=self.request.records or self.manifest is not None)

    def _make(self, job: Job, measured: Measured) -> _Made:
        model, limits, where = self.model, self.request.limits, measured.where
        with _memory(where):
            beside = self.request.beside
            if is_plain(model, measured.array, limits) and beside.asked:
                found = beside.examine(model, measured, self.params)
                return _Made(measured, found.image, examined=found)
            if is_plain(model, measured.array, limits):
                return _Made(measured, model.reconstruct(measured.array, where, self.params))
            if beside.asked or self.request.identified:
                raise in_pieces(where)
            from es_cli.serving.large import reconstruct_large

            image, plan = reconstruct_large(
                model, measured.opened, self.params, where, limits, job.target, job.within, lambda text: self.tell(Remark(text)), self._part
            )
            return _Made(measured, image, {} if plan is None else {"tiles": asdict(plan)})

    def _part(self, share: float) -> None:
        self.tell(Advanced(self.through + share, self.total))

    def _write(self, job: Job, made: _Made) -> None:
        """Write one image, with the geometry of its measurements where both have a place for it, and what is said about it."""
        target, measured = job.target, made.measured
        if made.examined is not None:
            self.request.beside.write(made.examined, measured, target, lambda text: self.tell(Remark(text)))
        if target is None:
            self.frames.write(self.stdout, made.values())
            return
        rounding = None if self.request.floats else integers_for(measured, target, made.values())
        if rounding is not None:
            made = replace(made, image=rounded(made.image, rounding, target, job.within), happened={**made.happened, "rounded": rounding.to_dict()})
            self.tell(Remark(f"{target}: {rounding}"))
        values = made.values()
        geometry = measured.geometry(values) if writers.suffix_of(target) in writers.GEOMETRIC else None
        if isinstance(made.image, PiecewiseArray):
            made.image.save(target, geometry)
        else:
            known = read_identifiers(measured.path) if self.request.identified and measured.path is not None else None
            writers.write_array(target, values, geometry, job.within, known)
        self.written += 1
        self._record(job, target, measured, values, made.happened)
        self.tell(Written(target))

    def _record(self, job: Job, target: Path, measured: Measured, values: np.ndarray, happened: dict[str, Any]) -> None:
        if self.request.records:
            source = {"path": measured.path, "key": measured.key, "array": measured.number, "sha256": measured.sha256}
            digest = write_record(self.recipe, target, values, source, happened, job.within)
        if self.manifest is not None:
            digest = digest if self.request.records else sha256_of(target)
            self.manifest.done(job, measured.sha256, self.recipe.checkpoint_sha256, digest)


@dataclass(frozen=True)
class _Made:
    """An image, in memory or in a file, of what was measured; `happened` is what its record says about how it was made, `examined` what is to be
    written beside it, None: nothing."""

    measured: Measured
    image: np.ndarray | PiecewiseArray
    happened: dict[str, Any] = field(default_factory=dict)
    examined: Examined | None = None

    def values(self) -> np.ndarray:
        return self.image.read() if isinstance(self.image, PiecewiseArray) else self.image


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
