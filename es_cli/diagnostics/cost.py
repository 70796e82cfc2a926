"""The last section of `es check`: how long training takes on this machine, what it holds in memory, and what an image costs afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from es_cli.data.batches import in_order, steps_per_epoch
from es_cli.data.measurements import Measurements
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.diagnostics.memory import TRANSIENT, KeptForBackward, batch_that_fits, bytes_of_weights, free_memory
from es_cli.errors import out_of_memory
from es_cli.experiment import Experiment, build_reconstruction
from es_cli.networks.running import Running
from es_cli.splitting.averaging import ONE_CALL
from es_cli.splitting.folds import Visit
from es_cli.splitting.objective import Objective
from es_cli.streams import stream_seed
from es_cli.training.loop import PASS_PER_STEP, new_state, total_steps, validation_interval
from es_cli.training.runtime import peak_memory
from es_cli.training.state import TrainingState
from es_cli.training.stepping import make_step

SECTION = "cost"
LONG = 24.0  # hours, after which somebody should have been asked
TIMED, SECONDS = 5, 10.0  # at most so many steps are timed, and no new one is begun after so many seconds
MANY_CALLS = 16  # network calls for an image, above which the quick check times one and multiplies


@dataclass(frozen=True)
class Cost:
    """What was measured. Times are in seconds, memory in bytes; None: the machine does not say, or a step was not made since it would not fit.

    `step` is one step of training with `batch` samples of the largest size, `image` one image by the test rule, `hours` all that is left to do.
    `of_sample` is the peak of a step for each sample, `fixed` what does not depend on it, `fits` the batch that free memory holds.
    """

    parameters: int
    trained: int
    batch: int
    steps: int
    step: float | None
    image: float | None
    hours: float | None
    of_sample: int
    fixed: int
    peak: float | None
    free: int | None
    fits: int | None


def cost_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """Parameters, time and memory of real steps and of an image; `quick` times fewer of them. Never no. Leaves the experiment as it was.

    A step that would not fit into free memory is not made. Compilation is left out, since it takes minutes. Sees no ground truth but that of a
    supervised loss.
    """
    cost = measure(experiment, quick)
    verdict, reason, advice = judge(cost)
    return Finding(SECTION, verdict, reason, advice, _numbers(cost, experiment))


def measure(experiment: Experiment, quick: bool) -> Cost:
    """What a training of this experiment costs, measured on a network of its own."""
    learned = {name: value.clone() for name, value in experiment.objective.learned().items()}
    try:
        return _measured(*_twin(experiment), quick)
    finally:
        experiment.objective.restore(learned)


def _twin(experiment: Experiment) -> tuple[Experiment, TrainingState]:
    """The same experiment with a fresh network, and the state of its training, as a run makes them."""
    spec, device = experiment.spec, torch.device(experiment.operator.device)
    running = Running(device, spec.training.precision)
    made = [_fresh(experiment, device) for _ in range(1 if spec.training.ema is None else 2)]
    for one in made:
        running.take(one.network, experiment.operator.physics, experiment.operator.image.shape)
    twin = replace(experiment, objective=Objective.like(experiment.objective, made[0].network), reconstruction=made[0])
    average = made[1].network.requires_grad_(False) if made[1:] else None
    return twin, new_state(twin, average, total_steps(spec, experiment.train), running)


def _fresh(experiment: Experiment, device: torch.device) -> Any:
    return build_reconstruction(experiment.spec, experiment.operator, experiment.reconstruction.scaling, device)[0]


def _measured(experiment: Experiment, state: TrainingState, quick: bool) -> Cost:
    spec, device, network = experiment.spec, torch.device(experiment.operator.device), experiment.network
    positions = largest_batch(experiment.train, spec.training.batch_size)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    of_sample = int(TRANSIENT * _kept_for_one(experiment, positions[:1]))
    # the gradient and what the optimizer remembers of it, which for Adam is two moments
    fixed = bytes_of_weights(network, 3 + (state.average is not None))
    free, steps = free_memory(device), total_steps(spec, experiment.train)
    fits = None if free is None else batch_that_fits(free, of_sample, fixed)
    step = image = hours = None
    if fits is None or fits >= len(positions):
        step = _timed_steps(experiment, state, positions, 1 if quick else TIMED)
    if step is not None:
        hours = _hours(experiment, positions, step, steps)
        image = _timed_image(experiment, positions[:1], quick)
    count = sum(p.numel() for p in network.parameters())
    return Cost(count, trained, len(positions), steps, step, image, hours, of_sample, fixed, peak_memory(device), free, fits)


def largest_batch(data: Measurements, size: int) -> list[int]:
    """The positions of the batch of at most `size` samples of one shape that holds most entries."""
    return max(in_order(data, size), key=lambda positions: len(positions) * math.prod(data.shape_at(positions[0])))


def _kept_for_one(experiment: Experiment, positions: Sequence[int]) -> int:
    """Bytes that are kept for the backward pass of a step of one sample."""
    y, x, physics, scale = experiment.reconstruction.batch(experiment.train, positions, torch.device(experiment.operator.device))
    kept = KeptForBackward(experiment.network)
    experiment.network.train()
    with torch.enable_grad(), kept.counting():
        experiment.objective(y, physics, stream_seed(experiment.spec.seed, "check-cost"), x, scale, Visit(experiment.spec.seed, experiment.train.keys(positions), 0))
    return kept.bytes


def _timed_steps(experiment: Experiment, state: TrainingState, positions: Sequence[int], count: int) -> float | None:
    """Seconds of one step, the median of `count` after one that warms up; None where memory was not enough."""
    device, data = torch.device(experiment.operator.device), experiment.train
    state.network.train()

    def step(number: int) -> None:
        batch = data.batch(positions, device)
        make_step(experiment, state, number, Visit(experiment.spec.seed, data.keys(positions), number - 1), batch, len(positions), ask=True)

    try:
        started = time.perf_counter()
        seconds = [_seconds(lambda: step(1), device)]
        while len(seconds) <= count and time.perf_counter() - started < SECONDS:
            seconds.append(_seconds(lambda: step(len(seconds) + 1), device))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None
    return float(np.median(seconds[1:] or seconds))


def _timed_image(experiment: Experiment, positions: Sequence[int], quick: bool) -> float:
    """Seconds for one image by the test rule."""
    made, device = experiment.reconstruction, torch.device(experiment.operator.device)
    y, _, params = experiment.train.batch(positions, device)
    experiment.network.eval()
    one = quick and made.rule.network_calls > MANY_CALLS
    seconds = _seconds(lambda: made(y, ONE_CALL if one else made.rule, params=params), device)
    return seconds * made.rule.network_calls if one else seconds


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long `work` takes, until the device is done with it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _hours(experiment: Experiment, positions: Sequence[int], step: float, steps: int) -> float:
    """Of all steps and validations, where a step of the largest samples takes `step` seconds and one of others by their size."""
    data, held_out = experiment.train, experiment.validation
    sizes = [math.prod(data.shape_at(batch[0])) * len(batch) for batch in in_order(data, experiment.spec.training.batch_size)]
    mean = step * float(np.mean(sizes)) / (math.prod(data.shape_at(positions[0])) * len(positions))
    passes = steps_per_epoch(held_out, experiment.spec.training.batch_size) * (2 if held_out.x is not None else 1)
    validations = math.ceil(steps / validation_interval(experiment.spec, experiment, steps))
    return mean * (steps + validations * passes * PASS_PER_STEP) / 3600


def judge(cost: Cost) -> tuple[Verdict, str, str]:
    """Verdict, reason and advice."""
    if cost.step is None or cost.hours is None:
        gib = f"{(cost.batch * cost.of_sample + cost.fixed) / 2**30:.1f} GiB"
        free = "" if cost.free is None else f", and {cost.free / 2**30:.1f} GiB are free"
        fewer = f"set training.batch_size to {cost.fits}" if cost.fits and cost.fits < cost.batch else "crop the images, or make the network narrower"
        return "doubtful", f"a step of {cost.batch} samples needs about {gib}{free}", fewer
    what = f"{cost.steps} steps of {duration(cost.step)} take about {duration(3600 * cost.hours)} on this machine"
    if cost.hours > LONG:
        within = max(1, int(cost.steps * LONG / cost.hours))
        return "doubtful", what, f"lower training.steps (a day is enough for {within}), make the network smaller, or use a GPU; --max-time stops in time, and --resume goes on"
    return "good", what, ""


def duration(seconds: float) -> str:
    """A time as people say it, to two or three digits."""
    for size, name in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{1000 * seconds:.3g} ms"


def _numbers(cost: Cost, experiment: Experiment) -> dict[str, Any]:
    mib = 2**20
    return {
        "parameters": cost.parameters,
        "trained": cost.trained,
        "batch_size": cost.batch,
        "seconds_per_step": cost.step,
        "seconds_per_image": cost.image,
        "network_calls_per_image": experiment.reconstruction.rule.network_calls,
        "steps": cost.steps,
        "hours_to_the_end": cost.hours,
        "peak_memory_mib": cost.peak,
        "step_memory_mib_per_sample": cost.of_sample / mib,
        "free_memory_mib": None if cost.free is None else cost.free // mib,
        "batch_that_fits": cost.fits,
    }
