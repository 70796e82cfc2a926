"""The optimizer and its schedule, whose end is known beforehand; and both anew where a run goes on with another learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from es_cli import catalog
from es_cli.building.parts import Builder
from es_cli.errors import Fault, SpecError
from es_cli.networks.running import Running
from es_cli.spec.component import plain
from es_cli.spec.schema import Component, Spec

FUSED = {"Adam", "AdamW", "SGD"}  # optimizers that torch has in one kernel for GPUs
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a group of parameters
RATES_OF_SCHEDULES = {"base_lrs", "max_lrs", "min_lrs", "eta_min", "_last_lr"}
ENDS = ("T_max", "total_steps", "total_iters")  # where a schedule ends, in steps; filled in where the spec leaves it out


def build_optimizer(spec: Spec, trained: list[nn.Parameter], running: Running, horizon: int) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer of `trained` and its scheduler, None without one, which ends at step `horizon` unless the spec says otherwise. Raises SpecError."""
    training = spec.training
    context: dict[str, Any] = {"params": trained}
    if running.device.type == "cuda" and _fusible(training.optimizer, trained):
        context["fused"] = True
    optimizer, _ = Builder(context=context).build(training.optimizer, "training.optimizer", "optimizer")
    scheduler = None
    if training.scheduler is not None:
        context = {"optimizer": optimizer, **dict.fromkeys(ENDS, horizon)}
        scheduler, _ = Builder(context=context).build(training.scheduler, "training.scheduler", "scheduler")
    return optimizer, scheduler


def _fusible(optimizer: Component, trained: list[nn.Parameter]) -> bool:
    """Whether an optimizer can be one kernel, which looks for itself whether gradients of float16 overflowed: asking would make each step wait."""
    return optimizer.name in FUSED and not {"foreach", "differentiable"} & set(optimizer.parameters) and all(p.is_floating_point() for p in trained)


def end_of_schedule(spec: Spec, horizon: int) -> int | None:
    """The step at which the schedule of a run that was begun with `horizon` steps ends, None where the spec says itself, or it has no end."""
    part = spec.training.scheduler
    entry = None if part is None else catalog.find(part.name, ("scheduler",))
    if part is None or entry is None:
        return None
    filled_in = {parameter.name for parameter in entry.parameters} & set(ENDS) - set(part.parameters)
    return horizon if filled_in else None


def parts_of(spec: Spec) -> dict[str, Any]:
    """Optimizer and scheduler of a spec as a saved state remembers them: where these are others, both are made anew."""
    training = spec.training
    return {"optimizer": plain(training.optimizer), "scheduler": None if training.scheduler is None else plain(training.scheduler)}


def take_over(optimizer: torch.optim.Optimizer, scheduler: Any, saved: Mapping[str, Any], steps: int) -> None:
    """Go on with what another optimizer of the same kind remembered of `steps` steps, at the place of the new schedule where it would be by now."""
    fresh = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": fresh})
    if scheduler is not None:
        _forward(scheduler, steps)


def multiply_rate(optimizer: torch.optim.Optimizer, scheduler: Any, factor: float) -> None:
    """Learning rates are `factor` times what they are and would be; the shape of the schedule stays."""
    for group in optimizer.param_groups:
        group.update({key: group[key] * factor for key in RATES if key in group})
    for one in _with_inner(scheduler):
        for name in RATES_OF_SCHEDULES & set(vars(one)):
            held = getattr(one, name)
            setattr(one, name, [rate * factor for rate in held] if isinstance(held, list) else held * factor)


def _with_inner(scheduler: Any) -> Iterator[Any]:
    if scheduler is not None:
        yield scheduler
        for inner in getattr(scheduler, "_schedulers", ()):
            yield from _with_inner(inner)


def last_rate(spec: Spec, horizon: int) -> float:
    """The learning rate at the end of a schedule."""
    optimizer, scheduler = build_optimizer(spec, [nn.Parameter(torch.zeros(1))], Running(torch.device("cpu")), horizon)
    _forward(scheduler, horizon)
    return float(optimizer.param_groups[0]["lr"])


def extended(spec: Spec, end: int, steps: int) -> str:
    """What becomes of a schedule that ends at step `end` in a run that goes on to `steps`, in words. Raises SpecError where nothing more is learned."""
    part = spec.training.scheduler
    assert part is not None
    rate = last_rate(spec, end)
    entry = catalog.find(part.name, ("scheduler",))
    key = next(name for name in ENDS if entry is not None and name in {parameter.name for parameter in entry.parameters})
    stretch = f"training.scheduler.{key}={steps}"
    what = f"{part.name} was made for {end} steps and ends there"
    if rate == 0:
        raise SpecError([Fault(f"{what}, with a learning rate of 0: up to step {steps} nothing more would be learned", "training.scheduler", f"add {stretch}")])
    return f"{what}; from there to step {steps} the learning rate stays at {rate:.3g}, unless {stretch} stretches the schedule"


def _forward(scheduler: Any, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants steps of the optimizer in between
        for _ in range(steps):
            scheduler.step()
