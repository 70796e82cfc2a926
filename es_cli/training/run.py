"""One run: consumes the loop's events and keeps the run directory, so that a stopped run can go on.

`train` and `resume` are usable from Python without the command line.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from es_cli import catalog, figures
from es_cli.checkpoint import Metadata, installed_versions, load_checkpoint, save_checkpoint
from es_cli.data.batches import in_order, steps_per_epoch
from es_cli.data.writers import write_array, write_bytes
from es_cli.errors import CheckpointError, Diverged, said
from es_cli.experiment import Experiment, build_experiment, build_reconstruction
from es_cli.networks.running import Running
from es_cli.spec.document import to_dict
from es_cli.spec.schema import Spec
from es_cli.splitting.averaging import ONE_CALL
from es_cli.training.events import Event, Note, Previewed, Started, Step, Stopped, Validated
from es_cli.training.folder import MARK, SPEC, RunFolder
from es_cli.training.loop import fit, new_state, total_steps, validation_interval
from es_cli.training.runtime import machine, peak_memory, resolve_device

Listener = Callable[[Event], None]
COLUMNS = ("step", "epoch", "loss", "lr", "validation_loss", "validation_psnr", "best", "samples_per_second", "peak_memory_mib")
LATER = {"peak_memory_mib"}  # columns that runs of older versions lack
PREVIEW_SAMPLES = 4
PREVIEW_SHARE = 0.03  # of the time of training


class Interrupted(BaseException):
    """A signal stopped the run after its state was saved; `run_dir` is what `--resume` wants."""

    def __init__(self, number: int, run_dir: Path) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal, self.run_dir = number, run_dir


def train(
    spec: Spec,
    folder: RunFolder,
    *,
    device: str = "auto",
    init_from: Path | None = None,
    on_event: Listener = lambda event: None,
) -> Path:
    """Train what `spec` asks for in a folder that `claim` gave, and return the path of model.safetensors.

    `init_from` is a checkpoint whose network is the start, None for fresh weights. Raises any EsError, the folder then being given up;
    Interrupted after a signal, with the state saved.
    """
    with ExitStack() as stack:
        try:
            where = resolve_device(device)
            stack.enter_context(machine(where))
            experiment = build_experiment(spec, where)
            if init_from is not None:
                _start_from(experiment, init_from)
            run = _Run(experiment, folder.path, where, on_event)
        except BaseException:
            folder.give_up()
            raise
        folder.start(spec)
        write_bytes(folder.path / MARK, json.dumps(_environment(where), indent=1).encode())
        return run.go(resumed=False)


def resume(run_dir: Path, *, device: str = "auto", on_event: Listener = lambda event: None) -> Path:
    """Continue a stopped run from its saved state and return the path of model.safetensors; a finished run is left as it is.

    Raises CheckpointError where the folder holds no run or no state.
    """
    spec_file = run_dir / SPEC
    if not spec_file.is_file():
        raise CheckpointError("this folder holds no run", where=str(run_dir), hint="give the folder that es train made, such as runs/NAME")
    where = resolve_device(device)
    with machine(where):
        experiment = build_experiment(catalog.load_spec(spec_file), where)
        return _Run(experiment, run_dir, where, on_event).go(resumed=True)


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

    def __init__(self, experiment: Experiment, folder: Path, device: torch.device, on_event: Listener) -> None:
        self.experiment, self.folder, self.device, self.tell = experiment, folder, device, on_event
        self.model = folder / "model.safetensors"
        self.state_file = folder / "state" / "state.safetensors"
        self.steps = total_steps(experiment.spec, experiment.train)
        self.every = validation_interval(experiment.spec, experiment, self.steps)
        self.running, average = self._running(), self._average()
        for network in [experiment.network] if average is None else [experiment.network, average]:
            self.running.take(network, experiment.operator.physics, experiment.operator.image.shape)
        self.state = new_state(experiment, average, self.steps, self.running)
        self.rows: list[dict[str, Any]] = []
        self.since: list[Step] = []
        self.preview_seconds, self.started = 0.0, time.monotonic()

    def go(self, resumed: bool) -> Path:
        if resumed:
            self._continue()
            if self.state.progress.done:
                self.tell(Note(f"this run is finished ({self.state.progress.done}); nothing to do"))
                return self.model
        else:
            self._keep_test_data()
        progress, spec = self.state.progress, self.experiment.spec
        for name in catalog.left_to_samples(spec.physics, spec.data.train) if spec.data is not None else ():
            self.tell(Note(f"physics has no {name}: the checkpoint keeps that of the first sample, for measurements that come without --param {name}=FILE"))
        self.tell(
            Started(
                self.folder,
                self.steps,
                progress.step,
                sum(p.numel() for p in self.experiment.network.parameters() if p.requires_grad),
                len(self.experiment.train),
                len(self.experiment.validation),
                str(self.device),
                self.experiment.reconstruction.rule.network_calls,
            )
        )
        with _signals() as caught:
            self._warm_up()
            try:
                for event in fit(self.experiment, self.state, self.steps, self.every, self.device, lambda: bool(caught)):
                    self._consume(event)
                    if caught and not isinstance(event, Stopped) and not self._validation_follows(event):
                        self.state.save(self.state_file)
                        self.tell(Stopped(progress.step, "signal", progress.best_step, progress.best_loss))
                        raise Interrupted(caught[0], self.folder)
            except Diverged as error:
                kept = f"the weights of step {progress.best_step} are in {self.model}" if self.model.exists() else "no weights were good enough to keep"
                hint = f"{kept}; {error.fault.hint}"
                raise Diverged(error.fault.what, where=spec.name, hint=hint) from error
        return self.model

    def _warm_up(self) -> None:
        data, made = self.experiment.train, self.experiment.reconstruction
        if self.running.compiled:
            y, _, physics, _ = made.batch(data, next(in_order(data, self.experiment.spec.training.batch_size)), self.device)
            self.running.warm_up(self.experiment.network, y, physics)

    def _validation_follows(self, event: Event) -> bool:
        """Stopping between a step and its validation would lose the validation: a resumed run would go on with the next step.

        The last step that was made counts, which on a GPU may be a later one than that of the event.
        """
        step = self.state.progress.step
        return isinstance(event, Step) and (step % self.every == 0 or step == self.steps)

    def _consume(self, event: Event) -> None:
        if isinstance(event, Step):
            self.since.append(event)
        elif isinstance(event, Validated):
            self._record(event)
            if event.best:
                self._save_model(event)
            self.state.save(self.state_file)
        self.tell(event)
        if isinstance(event, (Validated, Stopped)):
            self._preview(last=isinstance(event, Stopped))
        if isinstance(event, Stopped):
            self.state.save(self.state_file)

    def _save_model(self, event: Validated) -> None:
        experiment = self.experiment
        tensors = {f"model.{key}": value for key, value in self.state.evaluated.state_dict().items()}
        tensors.update(experiment.operator.arrays)
        tensors.update({f"objective.{key}": value for key, value in experiment.objective.learned().items()})
        # weights that a spec named as a file are in the tensors by now; its path would say where they lay
        resolved = experiment.resolved
        losses = tuple(term.model_copy(update={"loss": catalog.without_weight_files(term.loss)}) for term in resolved.losses)
        described = to_dict(resolved.model_copy(update={"model": catalog.without_weight_files(resolved.model), "losses": losses}))
        scale = (described.pop("data") or {}).get("scale", "none")
        measurement = {
            "shape": list(experiment.operator.measurement.shape),
            "image_shape": list(experiment.operator.image.shape),
            "complex": experiment.operator.image.pair,
            "per_sample": sorted(experiment.train.params),
            "network_calls": experiment.reconstruction.rule.network_calls,
        }
        if experiment.operator.image.free:
            measurement["sizes"] = [list(size) for size in experiment.operator.sizes]
        save_checkpoint(self.model, Metadata(described, scale, measurement, {"loss": event.loss, "step": event.step}), tensors)

    def _record(self, event: Validated) -> None:
        seconds = sum(step.seconds for step in self.since)
        per_epoch = steps_per_epoch(self.experiment.train, self.experiment.spec.training.batch_size)
        size = len(self.experiment.train) / per_epoch  # of a batch, on average
        count = max(1, len(self.since))
        self.rows.append(
            {
                "step": event.step,
                "epoch": round(event.step / per_epoch, 3),
                "loss": sum(step.loss for step in self.since) / count,
                "lr": self.since[-1].lr if self.since else None,
                "validation_loss": event.loss,
                "validation_psnr": event.psnr,
                "best": event.best,
                "samples_per_second": count * size / seconds if seconds else None,
                "peak_memory_mib": peak_memory(self.device),
            }
        )
        self.since = []
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_bytes(self.folder / "metrics.jsonl", lines.encode())
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows)
        write_bytes(self.folder / "metrics.csv", table.getvalue().encode())

    def _preview(self, last: bool) -> None:
        """Pictures, never more often than their share of the time allows; they change nothing that is trained."""
        now = time.monotonic()
        if not self.experiment.spec.training.preview or (not last and self.preview_seconds > PREVIEW_SHARE * (now - self.started)):
            return
        path = self.folder / "previews" / f"step-{self.state.progress.step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        figures.preview(path, self._panels(full=last))
        figures.progress(self.folder / "progress.png", self.rows)
        self.preview_seconds += time.monotonic() - now
        self.tell(Previewed(path))

    @torch.no_grad()
    def _panels(self, full: bool) -> dict[str, Any]:
        data, made = self.experiment.validation, self.experiment.reconstruction
        positions = next(in_order(data, PREVIEW_SAMPLES))
        y, x, params = data.batch(positions, self.device)
        network = self.state.evaluated
        network.eval()
        image = replace(made, network=network)(y, None if full else ONE_CALL, max_batch=8, params=params)
        panels = {"adjoint": made.physics_of(y, params).A_adjoint(y), "reconstruction": image}
        if x is not None:
            panels["ground truth"] = x
        self.state.network.train()
        return {title: panel.cpu().numpy() for title, panel in panels.items()}

    def _average(self) -> torch.nn.Module | None:
        spec, experiment = self.experiment.spec, self.experiment
        if spec.training.ema is None:
            return None
        made, _ = build_reconstruction(spec, experiment.operator, experiment.reconstruction.scaling, self.device)
        made.network.load_state_dict(experiment.network.state_dict())
        return made.network.requires_grad_(False)

    def _running(self) -> Running:
        training = self.experiment.spec.training
        return Running(self.device, training.precision, training.compile, lambda text: self.tell(Note(text)))

    def _continue(self) -> None:
        self.state.load(self.state_file)
        metrics = self.folder / "metrics.jsonl"
        if metrics.is_file():
            rows = [_row(line) for line in metrics.read_text(errors="replace").splitlines()]
            self.rows = [row for row in rows if row is not None and row["step"] <= self.state.progress.step]

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


def _write_samples(folder: Path, name: str, arrays: list[np.ndarray]) -> None:
    """One .npy of samples of one shape; a folder with one for each where they differ, in the order of their names."""
    if len({array.shape for array in arrays}) == 1:
        write_array(folder / f"{name}.npy", np.stack(arrays))
        return
    for i, array in enumerate(arrays):
        write_array(folder / name / f"{i:06d}.npy", array)


def _row(line: str) -> dict[str, Any] | None:
    """A row of metrics.jsonl; None where the line was damaged: metrics inform, and must not keep a run from going on."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not set(COLUMNS) - LATER <= set(row):
        return None
    return {column: row.get(column) for column in COLUMNS}


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is remembered and ends the run at the next step; a second one acts as it always does."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
