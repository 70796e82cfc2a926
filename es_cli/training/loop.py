"""The training loop: a generator that makes steps and yields what happened. It never prints and never saves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from deepinv.loss.metric import PSNR
from torch import Tensor, nn

from es_cli.data.batches import Epochs, in_order, steps_per_epoch
from es_cli.data.measurements import Measurements
from es_cli.errors import Diverged, Fault, SpecError
from es_cli.experiment import Experiment
from es_cli.networks.freezing import freeze
from es_cli.networks.running import Running
from es_cli.spec.schema import Spec
from es_cli.splitting.averaging import ONE_CALL
from es_cli.splitting.folds import Visit
from es_cli.splitting.objective import Objective
from es_cli.streams import stream_seed
from es_cli.training.events import Event, Resting, Step, Stopped, Validated
from es_cli.training.feeding import Batch, Batches, feeding
from es_cli.training.readback import Readback
from es_cli.training.schedule import build_optimizer, end_of_schedule, parts_of
from es_cli.training.state import Progress, Tally, TrainingState

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
    experiment: Experiment, average: nn.Module | None, steps: int, running: Running | None = None, horizon: int | None = None
) -> TrainingState:
    """Optimizer and scheduler for the experiment's network; `average` is a second network of the same weights, for their moving average.

    `running` says how both are run, None: as they are. `horizon` is the number of steps that the schedule is made for, None: `steps`.
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
    return TrainingState(experiment.objective, average, optimizer, scheduler, progress, running, scaler, parts_of(spec), end_of_schedule(spec, progress.horizon))


def fit(
    experiment: Experiment, state: TrainingState, steps: int, every: int, device: torch.device, resting: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Train from `state` to `steps`, validating after every `every` steps and after the last; yields Step, Validated, Resting and Stopped.

    Resting comes after each validation, and between steps or batches of a validation once `resting` says so: by then all losses are read, so
    that no state is saved after a loss that was not finite. Whoever wants to stop does it there.

    Every draw is keyed by seed, purpose and step, so that where it was stopped before makes no difference.
    Raises Diverged where a loss is not finite.
    """
    spec = experiment.spec
    shadow = experiment.objective if state.average is None else Objective.like(experiment.objective, state.average)
    epochs = Epochs(experiment.train, spec.training.batch_size, spec.seed)
    made = Readback(device)
    with feeding(experiment.train, experiment.validation, epochs.positions, steps, device) as feed:
        state.network.train()
        while not (reason := ended(spec, state.progress, steps)):
            if _validation_due(state.progress, steps, every):
                feed.settle()
                yield from _validate(experiment, shadow, state, feed.held_out, device, resting)
                state.progress.tally = Tally()
                yield Resting(state.snapshot())
                state.network.train()
                continue
            started = time.perf_counter()
            step = state.progress.step + 1
            loss, terms = _step(experiment, state, step, epochs, feed.get(step))
            made.add(step, loss, terms, state.optimizer.param_groups[0]["lr"], started)
            state.step_schedule(step)
            state.progress.step = step
            yield from _told(state, made, wait=_validation_due(state.progress, steps, every))
            if resting():
                yield from _told(state, made, wait=True)
                yield Resting(state.snapshot())
    progress = state.progress
    progress.done = reason
    yield Stopped(progress.step, reason, progress.best_step, progress.best_loss)


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


def _told(state: TrainingState, made: Readback, wait: bool) -> Iterator[Step]:
    """The steps whose losses have come, counted."""
    for event in list(made.read(wait)):
        tally = state.progress.tally
        tally.steps, tally.loss, tally.seconds, tally.lr = tally.steps + 1, tally.loss + event.loss, tally.seconds + event.seconds, event.lr
        yield event


def _step(experiment: Experiment, state: TrainingState, step: int, epochs: Epochs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of the optimizer; the loss before it and its terms stay on the device, since asking for them would wait until it has caught up."""
    spec = experiment.spec
    y, x, physics, scale = experiment.reconstruction.in_units(*batch)
    visit = Visit(spec.seed, experiment.train.keys(epochs.positions(step)), epochs.epoch(step))
    seed = stream_seed(spec.seed, "step", step)
    torch.manual_seed(seed)  # dropout, and what deepinv draws from the global stream
    state.optimizer.zero_grad(set_to_none=True)
    loss, terms = experiment.objective(y, physics, seed, x, scale, visit)
    _descend(state, loss, spec.training.gradient_clip)
    if state.average is not None and spec.training.ema is not None:
        _follow(state.average, state.network, min(spec.training.ema, step / (step + 9)))
    return loss.detach(), terms


def _descend(state: TrainingState, loss: Tensor, clip: float | None) -> None:
    """One step of the optimizer; left out where gradients of float16 overflowed, after which they are scaled less."""
    optimizer, scaler = state.optimizer, state.scaler
    with state.running.backwards():
        (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None:
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the network's; early steps count more, so that the start is forgotten."""
    held, new = list(average.parameters()), list(network.parameters())
    torch._foreach_lerp_(held, new, 1 - decay)
    for buffer, other in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(other)


def _validate(
    experiment: Experiment, objective: Objective, state: TrainingState, batches: Batches, device: torch.device, resting: Callable[[], bool]
) -> Iterator[Event]:
    """The held-out loss: one fixed split and g for each sample, keyed by the sample. Ground truth only gives a PSNR to look at."""
    started = time.perf_counter()
    spec, data, progress = experiment.spec, experiment.validation, state.progress
    losses: list[Tensor] = []
    psnrs: list[Tensor] = []
    for positions in in_order(data, spec.training.batch_size):
        if resting():
            yield Resting(state.snapshot())
        raw = batches.batch(positions, device)
        loss, psnr = _held_out(experiment, objective, positions, raw)
        losses.append(loss)
        psnrs += psnr
    loss = float(torch.cat(losses).double().mean())
    if not math.isfinite(loss):
        raise Diverged(f"the held-out loss is {loss} at step {progress.step}", hint="lower the learning rate, or set training.gradient_clip: 1.0")
    best = loss < progress.best_loss
    if best:
        progress.best_loss, progress.best_step = loss, progress.step
    progress.validations_since_best = 0 if best else progress.validations_since_best + 1
    progress.validated = progress.step
    yield Validated(progress.step, loss, best, float(torch.cat(psnrs).mean()) if psnrs else None, time.perf_counter() - started)


@torch.no_grad()
def _held_out(experiment: Experiment, objective: Objective, positions: list[int], raw: Batch) -> tuple[Tensor, list[Tensor]]:
    """The held-out loss of each sample of a batch (B,), and their PSNR (B,) where there is ground truth, else nothing."""
    spec, network = experiment.spec, objective.network
    y, x, physics, scale = experiment.reconstruction.in_units(*raw)
    seeds = [stream_seed(spec.seed, "validation-split", key) for key in experiment.validation.keys(positions)]
    network.eval()
    torch.manual_seed(seeds[0])
    loss = objective.held_out(y, physics, seeds, x if experiment.objective.needs_ground_truth else None, scale)
    return loss, [] if x is None else [_psnr(experiment, network, raw)]


def _psnr(experiment: Experiment, network: nn.Module, batch: Batch) -> Tensor:
    y, x, params = batch
    made = experiment.reconstruction
    return PSNR(complex_abs=made.operator.image.pair)(replace(made, network=network)(y, ONE_CALL, params=params), x)

