"""One run: consumes the loop's events and keeps the run directory, so that a stopped run can go on.

`train` and `resume` are usable from Python without the command line.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli import catalog
from es_cli.checkpoint import Metadata, installed_versions, load_checkpoint, save_checkpoint
from es_cli.data.batches import in_order
from es_cli.data.writers import write_array, write_bytes
from es_cli.errors import LIBRARY_ERRORS, CheckpointError, DataError, Diverged, EsError, OutputError, out_of_memory, said
from es_cli.experiment import Experiment, build_experiment, build_reconstruction
from es_cli.networks.running import Running
from es_cli.spec.document import to_yaml
from es_cli.spec.schema import Spec
from es_cli.training.calibrating import calibrate_checkpoint
from es_cli.training.changes import Change, Reopened, check_same, described, reopen
from es_cli.training.events import Event, Note, Previewed, Resting, Started, Stopped, Validated
from es_cli.training.folder import MARK, SPEC, Keeper, RunFolder
from es_cli.training.loop import ended, fit, new_state, total_steps, validation_interval
from es_cli.training.metrics import Metrics
from es_cli.training.previews import Previews
from es_cli.training.runtime import machine, peak_memory, resolve_device
from es_cli.training.saving import FOLDER, MODEL, STATE, Saver, StateFiles, clear_away
from es_cli.training.schedule import extended
from es_cli.training.state import Snapshot, unreadable
from es_cli.training.stopping import Rests
from es_cli.training.typical import Typical

Listener = Callable[[Event], None]
OUT_OF_TIME = 124


class Interrupted(BaseException):
    """A signal, or the time that was allowed where `number` is None, stopped the run after its state was saved; `run_dir` is what `--resume` wants."""

    def __init__(self, number: int | None, run_dir: Path) -> None:
        super().__init__("stopped by the time that was allowed" if number is None else f"stopped by signal {number}")
        self.signal, self.run_dir = number, run_dir

    @property
    def exit_code(self) -> int:
        """What a shell gives where a signal ended a process, and `timeout` where time did."""
        return OUT_OF_TIME if self.signal is None else 128 + self.signal


def train(
    spec: Spec,
    folder: RunFolder,
    *,
    device: str = "auto",
    init_from: Path | None = None,
    until: float | None = None,
    on_event: Listener = lambda event: None,
    on_built: Callable[[Experiment], None] = lambda experiment: None,
) -> Path:
    """Train what `spec` asks for in a folder that `claim` gave, and return the path of model.safetensors.

    `init_from` is a checkpoint whose network is the start, None for fresh weights. `until` is when to have stopped, on the clock of
    `time.monotonic`, None: when it is finished. `on_built` is shown everything that will be trained, and leaves it as it is. Raises any EsError,
    the folder then being given up; Interrupted after a signal or at that time, with the state saved.
    """
    with ExitStack() as stack:
        stack.callback(folder.release)
        try:
            where = resolve_device(device)
            stack.enter_context(machine(where, spec.training.deterministic))
            experiment = build_experiment(spec, where)
            if init_from is not None:
                _start_from(experiment, init_from)
            on_built(experiment)
            run = _Run(experiment, Keeper(folder.path, folder.lock), StateFiles(folder.path), where, on_event, until)
        except BaseException:
            folder.give_up()
            raise
        folder.start(spec)
        run.keeper.write(MARK, json.dumps({**_environment(where), "init_from": init_from is not None}, indent=1).encode())
        return run.begin()


def resume(
    run_dir: Path | Reopened, changes: Sequence[str] = (), *, device: str = "auto", until: float | None = None, on_event: Listener = lambda event: None
) -> Path:
    """Continue a stopped run from its saved state and return the path of model.safetensors; a finished run is left as it is.

    `run_dir` is its folder, or what `reopen` made of it, which is released. `changes` are `a.b=value` overrides of its spec, for the rest of the
    run. `until` as in `train`. Raises Interrupted as it does, CheckpointError where the folder holds no run or no state, SpecError where it cannot
    go on with a change, UsageError where another process trains in it.
    """
    run = run_dir if isinstance(run_dir, Reopened) else reopen(run_dir, changes)
    with ExitStack() as stack:
        stack.callback(run.release)
        where = resolve_device(device)
        stack.enter_context(machine(where, run.spec.training.deterministic))
        experiment = build_experiment(run.spec, where)
        states = StateFiles(run.path)
        snapshot, good = _found(run.path, states, lambda text: on_event(Note(text)))
        if snapshot is not None:
            try:
                check_same(snapshot.described.get("spec"), described(experiment.resolved))
            except ValueError as error:
                raise unreadable(snapshot.path or states.newest, error) from error
            _check_samples(snapshot.described.get("samples"), experiment)
        horizon = (0 if snapshot is None else snapshot.horizon) or total_steps(run.before, experiment.train)
        going = _Run(experiment, Keeper(run.path, run.lock), states, where, on_event, until, horizon)
        return going.go_on(snapshot, good, run.changes)


def _found(run_dir: Path, states: StateFiles, tell: Callable[[str], None]) -> tuple[Snapshot | None, Snapshot | None]:
    """The state to go on from, and that of the last validation; None where the run was stopped before its first. Raises CheckpointError."""
    clear_away(run_dir)
    if not states.exist and _started_afresh(run_dir):
        tell("this run was stopped before its first state was saved: it starts anew")
        return None, None
    return states.read(tell)


def _samples(experiment: Experiment) -> str:
    return f"{len(experiment.train)} samples to train on and {len(experiment.validation)} held out"


def _check_samples(begun: Any, experiment: Experiment) -> None:
    """DataError where there are more samples or fewer than when the run was `begun`, None: nobody knows. Draws and order are keyed by their numbers."""
    if begun is not None and begun != _samples(experiment):
        what = f"this run was begun with {begun!s:.80}, and there are {_samples(experiment)} now"
        raise DataError(what, where="data.train", hint="bring the files back, or train anew, with --init-from to start from its weights")


def _start_from(experiment: Experiment, path: Path) -> None:
    weights = load_checkpoint(path).part("model")
    try:
        experiment.network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"its network is not the one of this spec: {said(error)}", where=str(path), hint="name the same model") from error


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {**installed_versions(), "python": platform.python_version(), "device": f"{device} ({name})", "threads": torch.get_num_threads()}


class _Run:
    """The run directory and what is written to it as events come."""

    def __init__(
        self, experiment: Experiment, keeper: Keeper, states: StateFiles, device: torch.device, on_event: Listener, until: float | None, horizon: int | None = None
    ) -> None:
        self.experiment, self.keeper, self.states, self.device, self.tell = experiment, keeper, states, device, on_event
        self.folder = folder = keeper.folder
        self.model = folder / MODEL
        self.steps = total_steps(experiment.spec, experiment.train)
        self.every = validation_interval(experiment.spec, experiment, self.steps)
        self.running, average = self._running(), self._average()
        for network in [experiment.network] if average is None else [experiment.network, average]:
            self.running.take(network, experiment.operator.physics, experiment.operator.image.shape)
        self.state = new_state(experiment, average, self.steps, self.running, horizon)
        self.described = self.state.spec = described(experiment.resolved)
        self.state.samples = _samples(experiment)
        self.metrics, self.previews = Metrics(folder, experiment), Previews(folder, experiment, device)
        self.typical = Typical(experiment, device)
        self.saver = Saver(self.note)
        self.good: Snapshot | None = None
        self._best: Callable[[], None] | None = None  # writes the weights that were the best so far
        self._complained = False  # that pictures cannot be written
        self.rests = Rests(experiment.spec.training.save_every, until, lambda: self.saver.seconds)

    def begin(self) -> Path:
        """Train from the first step."""
        self._keep_test_data()
        return self._go(first=True)

    def go_on(self, snapshot: Snapshot | None, good: Snapshot | None, changed: Sequence[Change]) -> Path:
        """Train from a snapshot, None: from the first step; nothing where that is the end. `good` is what to go back to where training diverges."""
        self.good = good
        if snapshot is not None:
            self.state.restore(snapshot)
        progress, spec = self.state.progress, self.experiment.spec
        self.metrics.resume(progress.step)
        if progress.done and ended(spec, progress, self.steps):
            self.note(f"this run is finished ({progress.done}); nothing to do")
            return self.model
        progress.done = ""
        if self.model.is_file():
            held = self.model.read_bytes()
            self._best = lambda: write_bytes(self.model, held)
        if changed:
            end = self.state.schedule_end
            words = extended(spec, end, self.steps) if end is not None and self.steps > end else ""
            self.note(f"changed from step {progress.step} on: {', '.join(map(str, changed))}; {self.steps} steps in all")
            if words:
                self.note(words)
            self.keeper.write(SPEC, to_yaml(spec).encode())
        return self.begin() if snapshot is None else self._go(first=False)

    def _go(self, first: bool) -> Path:
        self.keeper.remember()
        self._tell_of_the_start()
        with self.rests.listening(), self.saver:
            if first:
                # from here on there is something to go on from
                self.good = self.state.snapshot()
                self.saver.put(STATE, self._written_state(self.good))
                self.saver.flush()
            self._warm_up()
            try:
                for event in fit(self.experiment, self.state, self.steps, self.every, self.device, self._is_to_rest, self.good):
                    self._consume(event)
            except OutputError:
                raise
            except DataError as error:
                self.saver.finish()
                data = self.experiment.spec.data
                without = "" if data is not None and data.on_bad_sample == "skip" else ", or with data.on_bad_sample=skip without it"
                hint = f"{error.fault.hint}; the state is saved, and es train --resume goes on once it is mended{without}"
                raise DataError(error.fault.what, where=error.fault.where, hint=hint) from error
            except Diverged as error:
                self.saver.finish()
                progress = self.state.progress
                kept = f"the weights of step {progress.best_step} are in {self.model}" if self.model.exists() else "no weights were good enough to keep"
                raise Diverged(error.fault.what, where=self.experiment.spec.name, hint=f"{kept}; {error.fault.hint}") from error
        return self.model

    def note(self, text: str) -> None:
        self.tell(Note(text))

    def _tell_of_the_start(self) -> None:
        spec, experiment = self.experiment.spec, self.experiment
        for name in catalog.left_to_samples(spec.physics, spec.data.train) if spec.data is not None else ():
            self.note(f"physics has no {name}: the checkpoint keeps that of the first sample, for measurements that come without --param {name}=FILE")
        trained = sum(p.numel() for p in experiment.network.parameters() if p.requires_grad)
        counts = trained, len(experiment.train), len(experiment.validation)
        self.tell(Started(self.folder, self.steps, self.state.progress.step, *counts, str(self.device), experiment.reconstruction.rule.network_calls))

    def _warm_up(self) -> None:
        data, made = self.experiment.train, self.experiment.reconstruction
        if self.running.compiled:
            y, _, physics, _ = made.batch(data, next(in_order(data, self.experiment.spec.training.batch_size)), self.device)
            self.running.warm_up(self.experiment.network, y, physics)

    def _is_to_rest(self) -> bool:
        """Whether the state is to be saved now; not on schedule while the one before is still being written."""
        return self.rests.due() and (bool(self.rests.reason) or self.rests.asked or not self.saver.busy)

    def _consume(self, event: Event) -> None:
        if isinstance(event, Validated):
            self.metrics.add(event, self.state.progress, peak_memory(self.device))
            for name, write in self.metrics.writers().items():
                self.saver.put(name, write)
            if event.best:
                self._put_model(self._written_model(event))
        elif isinstance(event, Resting):
            self._save(event)
            return
        self.tell(event)
        if isinstance(event, (Validated, Stopped)):
            self._preview(last=isinstance(event, Stopped))
        if isinstance(event, Stopped):
            self._save(Resting(self.state.snapshot()))
            self.saver.finish()
            self._calibrate()

    def _save(self, rest: Resting) -> None:
        """Have the state written, and all that waits; the end of the run where somebody wants it to end."""
        if self.keeper.lost:
            self._put_everything()
        self.saver.put(STATE, self._written_state(rest.snapshot))
        if self.rests.asked:
            self.note(f"asked by a signal to save: the state of step {rest.snapshot.step} is being written")
        self.rests.saved()
        reason, progress = self.rests.reason, self.state.progress
        if not reason or progress.done:
            self.saver.flush()
            return
        self.saver.finish()
        self.tell(Stopped(progress.step, reason, progress.best_step, progress.best_loss))
        raise Interrupted(self.rests.signal, self.folder)

    def _put_everything(self) -> None:
        """The folder was removed: what a run needs is written anew, the best weights too."""
        self.note(f"{self.folder} was removed, and is made again with what this run still knows")
        self.saver.put(FOLDER, self.keeper.make_again)
        self.saver.put("data", self._keep_test_data)
        for name, write in self.metrics.writers().items():
            self.saver.put(name, write)
        if self._best is not None:
            self.saver.put(MODEL, self._best)

    def _put_model(self, write: Callable[[], None]) -> None:
        self._best = write
        self.saver.put(MODEL, write)

    def _written_state(self, snapshot: Snapshot) -> Callable[[], None]:
        return lambda: self.states.write(snapshot)

    def _written_model(self, event: Validated) -> Callable[[], None]:
        """What writes the weights as they are now."""
        experiment = self.experiment
        tensors = {f"model.{key}": value for key, value in self.state.evaluated.state_dict().items()}
        tensors.update({f"objective.{key}": value for key, value in experiment.objective.learned().items()})
        tensors = {key: value.detach().cpu().clone() for key, value in tensors.items()}
        tensors.update(experiment.operator.arrays)
        data = experiment.resolved.data
        measurement = {
            "shape": list(experiment.operator.measurement.shape),
            "image_shape": list(experiment.operator.image.shape),
            "complex": experiment.operator.image.pair,
            "per_sample": sorted(experiment.train.params),
            "network_calls": experiment.reconstruction.rule.network_calls,
        }
        measurement["typical"] = self.typical.spans(self.state.evaluated)
        if experiment.operator.image.free:
            measurement["sizes"] = [list(size) for size in experiment.operator.sizes]
        scale = "none" if data is None else data.scale
        metadata = Metadata(self.described, scale, measurement, {"loss": event.loss, "step": event.step})
        return lambda: save_checkpoint(self.model, metadata, tensors)

    def _preview(self, last: bool) -> None:
        try:
            path = self.previews.draw(self.state, self.metrics.rows, last)
        except (OutputError, RuntimeError, MemoryError) as error:
            if not isinstance(error, OutputError) and not out_of_memory(error):
                raise
            if not self._complained:
                why = f"{error.fault.where}: {error.fault.what}" if isinstance(error, OutputError) else said(error)
                self.note(f"no preview: {why}")
            self._complained = True
            return
        if path is not None:
            self.tell(Previewed(path))

    def _calibrate(self) -> None:
        """The run is finished and saved: whatever goes wrong here costs the error bars and nothing else."""
        try:
            calibrate_checkpoint(self.model, self.experiment, self.device)
        except (EsError, *LIBRARY_ERRORS) as error:
            self.note(f"no error bars: {said(error)}")

    def _average(self) -> torch.nn.Module | None:
        spec, experiment = self.experiment.spec, self.experiment
        if spec.training.ema is None:
            return None
        made, _ = build_reconstruction(spec, experiment.operator, experiment.reconstruction.scaling, self.device)
        made.network.load_state_dict(experiment.network.state_dict())
        return made.network.requires_grad_(False)

    def _running(self) -> Running:
        training = self.experiment.spec.training
        return Running(self.device, training.precision, training.compile, self.note)

    def _keep_test_data(self) -> None:
        """Simulated test pairs are kept beside the checkpoint: `evaluate` cannot read them from anywhere else."""
        test, spec = self.experiment.test, self.experiment.spec
        if test is None or spec.data is None or spec.data.test is None or spec.data.test.measurements is not None:
            return
        kept: dict[str, dict[int, Any]] = {}
        for positions in in_order(test, len(test)):
            y, x, params = test.batch(positions)
            for name, values in {"y": y, "x": x, **params}.items():
                if values is not None:
                    kept.setdefault(name, {}).update(zip(positions, values.expand(len(positions), *values.shape[1:]).numpy(), strict=True))
        for name, of_name in kept.items():
            _write_samples(self.folder / "data", f"test_{name}", [of_name[position] for position in sorted(of_name)])


def _started_afresh(folder: Path) -> bool:
    """Whether a run had begun to train, from weights that follow from its seed."""
    try:
        return json.loads((folder / MARK).read_text())["init_from"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False  # older versions did not say


def _write_samples(folder: Path, name: str, arrays: list[np.ndarray]) -> None:
    """One .npy of samples of one shape; a folder with one for each where they differ, in the order of their names."""
    if len({array.shape for array in arrays}) == 1:
        write_array(folder / f"{name}.npy", np.stack(arrays))
        return
    for i, array in enumerate(arrays):
        write_array(folder / name / f"{i:06d}.npy", array)
