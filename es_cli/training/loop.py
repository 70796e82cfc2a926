"""The training loop: a generator that makes steps and yields what happened. It never prints and never saves."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial

import torch
from deepinv.loss.metric import PSNR
from torch import Tensor, nn

from es_cli.data.batches import Epochs, in_order, steps_per_epoch
from es_cli.data.damaged import Samples
from es_cli.data.measurements import Measurements
from es_cli.errors import DataError, Diverged, Fault, SpecError
from es_cli.experiment import Experiment
from es_cli.networks.freezing import freeze
from es_cli.networks.running import Running
from es_cli.spec.schema import Spec
from es_cli.splitting.averaging import ONE_CALL
from es_cli.splitting.folds import Visit
from es_cli.splitting.objective import Objective
from es_cli.streams import stream_seed
from es_cli.training.events import Event, Note, Resting, Stopped, Validated
from es_cli.training.feeding import Batch, Batches, Feed, feeding
from es_cli.training.memory import with_room
from es_cli.training.processes import Processes
from es_cli.training.readback import Readback
from es_cli.training.schedule import build_optimizer, end_of_schedule, multiply_rate, parts_of
from es_cli.training.shortage import short_of_memory
from es_cli.training.state import Progress, Snapshot, Tally, TrainingState
from es_cli.training.stepping import make_step

TOO_MANY = 5  # steps in a row that are not finite
BACK_OFF = 0.5  # what the learning rate is multiplied by then
# validation may cost a training about this share of its steps: a held-out pass needs no backward pass, about a third of a step
VALIDATION_SHARE = 0.06
PASS_PER_STEP = 0.35


def total_steps(spec: Spec, train: Measurements) -> int:
    """Optimizer steps of a whole training on `train`."""
    if spec.training.steps is not None:
        return spec.training.steps
    return (spec.training.epochs or 100) * steps_per_epoch(train, spec.training.batch_size)


def validation_interval(spec: Spec, experiment: Experiment, steps: int) -> int:
    """Steps between validations: what the spec says, else an epoch, or more where validating so often would cost too much."""
    if spec.training.validate_every is not None:
        return spec.training.validate_every
    size = spec.training.batch_size
    batches = steps_per_epoch(experiment.validation, size)
    passes = 2 if experiment.validation.x is not None else 1
    cheap = math.ceil(batches * passes * PASS_PER_STEP / VALIDATION_SHARE)
    return min(steps, max(cheap, steps_per_epoch(experiment.train, size)))


def new_state(
    experiment: Experiment,
    average: nn.Module | None,
    steps: int,
    running: Running | None = None,
    horizon: int | None = None,
    processes: Processes | None = None,
) -> TrainingState:
    """Optimizer and scheduler for the experiment's network; `average` is a second network of the same weights, for their moving average.

    `running` says how both are run, None: as they are. `horizon` is the number of steps that the schedule is made for, None: `steps`.
    `processes` are those that train together, None: this one alone.
    Freezes what the spec freezes: the optimizer never sees it. Raises SpecError.
    """
    running = running or Running(torch.device("cpu"))
    spec, network = experiment.spec, experiment.network
    freeze(network, spec.training.freeze)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        fault = Fault(f"{spec.model.name} has nothing to train", "model", "name a network with parameters")
        raise SpecError([Fault("everything is frozen: nothing is left to train", "training.freeze", "leave a pattern out") if spec.training.freeze else fault])
    optimizer, scheduler = build_optimizer(spec, trained, running, horizon or steps)
    scaler = torch.amp.GradScaler(running.device.type) if running.scales_gradients else None
    progress = Progress(horizon=horizon or steps)
    end, together = end_of_schedule(spec, progress.horizon), processes or Processes()
    return TrainingState(experiment.objective, average, optimizer, scheduler, progress, running, scaler, parts_of(spec), end, together)


def fit(
    experiment: Experiment,
    state: TrainingState,
    steps: int,
    every: int,
    device: torch.device,
    resting: Callable[[], bool] = lambda: False,
    good: Snapshot | None = None,
) -> Iterator[Event]:
    """Train from `state` to `steps`, validating after every `every` steps and after the last; yields Step, Validated, Note, Resting and Stopped.

    Resting comes after each validation, and between steps or batches of a validation once `resting` says so: by then all losses are read, and
    counted. Whoever wants to stop does it there.

    A step whose loss or gradient is not finite is left out; after several in a row training goes back to `good`, the state of the last validation,
    None: the one that it starts with, under a lower learning rate. Every draw is keyed by seed, purpose and step, so that where it was stopped
    before makes no difference. Raises Diverged where it had to go back too often.
    """
    spec = experiment.spec
    shadow = experiment.objective if state.average is None else Objective.like(experiment.objective, state.average)
    epochs = Epochs(experiment.train, spec.training.batch_size, spec.seed)
    processes = state.processes
    made = Readback(device, in_step=processes.count > 1)
    good = good or state.snapshot()
    read = _Read(experiment, state)
    with feeding(read.train, read.held_out, lambda step: processes.own(epochs.positions(step)), steps, device) as feed:
        state.network.train()
        while not (reason := ended(spec, state.progress, steps)):
            if _validation_due(state.progress, steps, every):
                feed.settle()
                good = yield from _validated(experiment, shadow, state, feed.held_out, device, resting, good)
                yield from read.news()
                state.network.train()
                continue
            yield from _stepped(experiment, state, epochs, feed, made)
            yield from read.news()
            yield from _told(state, made, wait=_validation_due(state.progress, steps, every))
            rests = resting()
            if rests:
                yield from _told(state, made, wait=True)
            if state.progress.skipped_in_row >= TOO_MANY:
                made.forget()
                yield go_back(state, good, spec, f"neither loss nor gradient of {TOO_MANY} steps in a row is finite")
            elif rests:
                yield Resting(state.snapshot())
    progress = state.progress
    progress.done = reason
    yield Stopped(progress.step, reason, progress.best_step, progress.best_loss)


def _stepped(experiment: Experiment, state: TrainingState, epochs: Epochs, feed: Feed, made: Readback) -> Iterator[Event]:
    """One step more. Where its batch cannot be read the state can be saved first: the file may come back."""
    started = time.perf_counter()
    step, seed = state.progress.step + 1, experiment.spec.seed
    try:
        batch = state.processes.together(lambda: feed.get(step))
    except DataError:
        yield from _told(state, made, wait=True)
        yield Resting(state.snapshot())
        raise
    positions = epochs.positions(step)
    visit = Visit(seed, experiment.train.keys(state.processes.own(positions)), epochs.epoch(step))
    size, ask = state.processes.most(len(positions)), made.at_once == 1
    one = yield from with_room(experiment, state, size, lambda: make_step(experiment, state, step, visit, batch, len(positions), ask))
    made.add(step, one, state.optimizer.param_groups[0]["lr"], started)
    state.step_schedule(step)
    state.progress.step = step


def _validated(
    experiment: Experiment, objective: Objective, state: TrainingState, held_out: Batches, device: torch.device, resting: Callable[[], bool], good: Snapshot
) -> Generator[Event, None, Snapshot]:
    """A validation, after which the state can be saved; gives the state to go back to from now on."""
    try:
        yield from _validate(experiment, objective, state, held_out, device, resting)
    except Diverged as error:
        yield go_back(state, good, experiment.spec, error.fault.what)
        return good
    except DataError:
        yield Resting(state.snapshot())
        raise
    state.progress.tally = Tally()
    now = state.snapshot()
    yield Resting(now)
    return now if now.good else good


class _Read:
    """The data of a training, and what is found to be damaged in them."""

    def __init__(self, experiment: Experiment, state: TrainingState) -> None:
        data, known = experiment.spec.data, state.progress.bad
        skip = data is not None and data.on_bad_sample == "skip"
        self.state, self.skip = state, skip
        self.train = Samples(experiment.train, skip, known.get("train", ()))
        self.held_out = Samples(experiment.validation, skip, known.get("validation", ()))

    def news(self) -> Iterator[Note]:
        """What was found since this was asked last; the state remembers it."""
        for name, samples in (("train", self.train), ("validation", self.held_out)):
            if self.skip:
                self._hear(samples)
            while samples.news:
                yield Note(samples.news.popleft())
            if samples.bad:
                self.state.progress.bad[name] = sorted(samples.bad)

    def _hear(self, samples: Samples) -> None:
        """What other processes found is news here, too."""
        said = self.state.processes.tell(json.dumps([sorted(samples.bad), list(samples.news)]) if samples.news else "")
        for bad, news in (json.loads(text) for number, text in enumerate(said) if text and number != self.state.processes.number):
            samples.bad.update(bad)
            samples.news.extend(news)


def go_back(state: TrainingState, good: Snapshot, spec: Spec, why: str) -> Note:
    """Make `state` what it was at `good`, under a lower learning rate, and say so. Raises Diverged where that was done often enough."""
    times, skipped, at, bad = state.progress.backoffs + 1, state.progress.skipped, state.progress.step, state.progress.bad
    if times > spec.training.backoffs:
        tried = f", and a lower learning rate was tried {times - 1} times" if times > 1 else ""
        raise Diverged(f"training diverged at step {at}: {why}{tried}", hint="lower the learning rate, or set training.gradient_clip: 1.0")
    state.restore(good)
    progress = state.progress
    multiply_rate(state.optimizer, state.scheduler, BACK_OFF ** (times - progress.backoffs))
    progress.backoffs, progress.skipped, progress.skipped_in_row, progress.bad = times, skipped, 0, bad
    rate = state.optimizer.param_groups[0]["lr"]
    return Note(f"step {at}: {why}; training goes back to step {progress.step} with {BACK_OFF} times the learning rate, now {rate:.3g} ({times} of {spec.training.backoffs} times)")


def ended(spec: Spec, progress: Progress, steps: int) -> str:
    """Why a run of `steps` is at its end: finished or patience; "" where it is not."""
    patience = spec.training.patience
    if progress.step > progress.validated and progress.step <= steps:
        return ""  # the last step, or the last validation, is still to be made
    if patience is not None and progress.validations_since_best >= patience:
        return "patience"
    return "finished" if progress.step >= steps else ""


def _validation_due(progress: Progress, steps: int, every: int) -> bool:
    return progress.step > progress.validated and (progress.step % every == 0 or progress.step == steps)


def _told(state: TrainingState, made: Readback, wait: bool) -> Iterator[Event]:
    """The steps whose losses have come, counted."""
    for event in list(made.read(wait)):
        progress, tally = state.progress, state.progress.tally
        if event.skipped:
            progress.skipped, progress.skipped_in_row = progress.skipped + 1, progress.skipped_in_row + 1
            if progress.skipped == 1:
                yield Note(f"step {event.step} is left out: its loss or gradient is not finite; metrics.jsonl counts such steps")
        else:
            progress.skipped_in_row = 0
            tally.steps, tally.loss = tally.steps + 1, tally.loss + event.loss
        tally.seconds, tally.lr = tally.seconds + event.seconds, event.lr
        yield event


def _validate(
    experiment: Experiment, objective: Objective, state: TrainingState, batches: Batches, device: torch.device, resting: Callable[[], bool]
) -> Iterator[Event]:
    """The held-out loss: one fixed split and g for each sample, keyed by the sample. Ground truth only gives a PSNR to look at."""
    started = time.perf_counter()
    spec, data, progress, processes = experiment.spec, experiment.validation, state.progress, state.processes
    losses: list[Tensor] = []
    psnrs: list[Tensor] = []
    for positions in in_order(data, spec.training.batch_size):
        if resting():
            yield Resting(state.snapshot())
        mine, total = processes.own(positions), len(positions)
        raw = processes.together(partial(batches.batch, mine, device))
        work = partial(processes.fitting, partial(_held_out, experiment, objective, mine, raw))
        loss, psnr = yield from with_room(experiment, state, processes.most(total), work)
        losses.append(processes.whole(loss, total))
        psnrs += [processes.whole(one, total) for one in psnr]
    loss = float(processes.added(torch.cat(losses)).double().mean())
    if not math.isfinite(loss):
        raise Diverged(f"the held-out loss is {loss}")
    best = loss < progress.best_loss
    if best:
        progress.best_loss, progress.best_step = loss, progress.step
    progress.validations_since_best = 0 if best else progress.validations_since_best + 1
    progress.validated = progress.step
    psnr = float(processes.added(torch.cat(psnrs)).mean()) if psnrs else None
    yield Validated(progress.step, loss, best, psnr, time.perf_counter() - started)


@torch.no_grad()
def _held_out(experiment: Experiment, objective: Objective, positions: list[int], raw: Batch) -> tuple[Tensor, list[Tensor]]:
    """The held-out loss of each sample of a batch (B,), and their PSNR (B,) where there is ground truth, else nothing. Raises NoRoom."""
    spec, network = experiment.spec, objective.network
    seeds = [stream_seed(spec.seed, "validation-split", key) for key in experiment.validation.keys(positions)]
    network.eval()
    torch.manual_seed(seeds[0])
    with short_of_memory():
        y, x, physics, scale = experiment.reconstruction.in_units(*raw)
        loss = objective.held_out(y, physics, seeds, x if experiment.objective.needs_ground_truth else None, scale)
        return loss, [] if x is None else [_psnr(experiment, network, raw)]


def _psnr(experiment: Experiment, network: nn.Module, batch: Batch) -> Tensor:
    y, x, params = batch
    made = experiment.reconstruction
    return PSNR(complex_abs=made.operator.image.pair)(replace(made, network=network)(y, ONE_CALL, params=params), x)

