"""The run directory and what is written to it as the loop's events come, by one process; the others follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from es_cli import catalog
from es_cli.data.batches import in_order
from es_cli.data.writers import write_bytes
from es_cli.errors import LIBRARY_ERRORS, DataError, Diverged, EsError, OutputError, out_of_memory, said
from es_cli.experiment import Experiment, build_reconstruction
from es_cli.networks.running import Running
from es_cli.spec.document import to_yaml
from es_cli.spec.schema import Spec
from es_cli.training.calibrating import calibrate_checkpoint
from es_cli.training.changes import Change, count_samples, described
from es_cli.training.events import Event, Note, Previewed, Resting, Started, Stopped, Validated
from es_cli.training.folder import SPEC, Keeper
from es_cli.training.loop import ended, fit, new_state, total_steps, validation_interval
from es_cli.training.metrics import Metrics
from es_cli.training.previews import Previews
from es_cli.training.processes import Processes
from es_cli.training.products import keep_test_data, written_model
from es_cli.training.runtime import peak_memory
from es_cli.training.saving import FOLDER, MODEL, STATE, Saver, StateFiles
from es_cli.training.schedule import extended
from es_cli.training.state import Snapshot
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


class Run:
    """The run directory and what is written to it as events come."""

    def __init__(
        self, experiment: Experiment, keeper: Keeper, states: StateFiles, device: torch.device, on_event: Listener, until: float | None,
        processes: Processes, horizon: int | None = None,
    ) -> None:  # fmt: skip
        self.experiment, self.keeper, self.states, self.device, self.tell = experiment, keeper, states, device, on_event
        self.folder = folder = keeper.folder
        self.model = folder / MODEL
        self.steps = total_steps(experiment.spec, experiment.train)
        self.every = validation_interval(experiment.spec, experiment, self.steps)
        self.running, average = self._running(), self._average()
        for network in [experiment.network] if average is None else [experiment.network, average]:
            self.running.take(network, experiment.operator.physics, experiment.operator.image.shape)
        self.state = new_state(experiment, average, self.steps, self.running, horizon, processes)
        self.state.spec = described(experiment.resolved)
        self.state.samples = count_samples(experiment)
        self.metrics, self.previews = Metrics(folder, experiment), Previews(folder, experiment, device)
        self.typical = Typical(experiment, device)
        self.saver = Saver(self.note, processes.wait)
        self.good: Snapshot | None = None
        self._best: Callable[[], None] | None = None  # writes the weights that were the best so far
        self._complained = False  # that pictures cannot be written
        every = experiment.spec.training.save_every if processes.writes else None
        self.rests = Rests(every, until, lambda: self.saver.seconds, lambda: self.saver.busy, processes.agree)

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
            self._calibrate()  # which a run that was killed at its very end has not come to
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
            self._keep_spec(spec)
        return self.begin() if snapshot is None else self._go(first=False)

    def _go(self, first: bool) -> Path:
        self.keeper.remember()
        self._tell_of_the_start()
        if words := self.state.processes.take(self.experiment.objective):
            self.note(words)
        with self.rests.listening(), self.saver:
            if first:
                # from here on there is something to go on from
                self.good = self.state.snapshot()
                self._keep(self.good)
            self._warm_up()
            try:
                for event in fit(self.experiment, self.state, self.steps, self.every, self.device, self.rests.due, self.good):
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

    def _keep(self, snapshot: Snapshot) -> None:
        self.saver.put(STATE, self._written_state(snapshot))
        self.saver.flush()

    def _keep_spec(self, spec: Spec) -> None:
        self.keeper.write(SPEC, to_yaml(spec).encode())

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
            positions = self.state.processes.own(next(in_order(data, self.experiment.spec.training.batch_size)))
            y, _, physics, _ = made.batch(data, positions, self.device)
            self.running.warm_up(self.experiment.network, y, physics)

    def _consume(self, event: Event) -> None:
        if isinstance(event, Validated):
            self.metrics.add(event, self.state.progress, peak_memory(self.device))
            for name, write in self.metrics.writers().items():
                self.saver.put(name, write)
            if event.best:
                self._put_model(written_model(self.model, self.experiment, self.state, event, self.typical.spans(self.state.evaluated)))
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
        self.rests.look()
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
        keep_test_data(self.experiment, self.folder)


class Follower(Run):
    """A run of which another process keeps the directory: it trains, and writes and says nothing."""

    def _keep(self, snapshot: Snapshot) -> None:
        """Its own state is the other's, too."""

    def _keep_spec(self, spec: Spec) -> None:
        """It is in the folder already, or will be."""

    def _keep_test_data(self) -> None:
        """They are the other's."""

    def _calibrate(self) -> None:
        """The checkpoint is the other's."""

    def _consume(self, event: Event) -> None:
        if isinstance(event, (Resting, Stopped)):
            self.rests.look()
            self.rests.saved()
            ends = bool(self.rests.reason) and not self.state.progress.done
            if ends or isinstance(event, Stopped):
                self.saver.finish()
            if ends:
                raise Interrupted(self.rests.signal, self.folder)
