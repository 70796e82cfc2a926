"""One step of training, which is left out where its loss or its gradient is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from es_cli.experiment import Experiment
from es_cli.splitting.folds import Visit
from es_cli.streams import stream_seed
from es_cli.training.feeding import Batch
from es_cli.training.shortage import NoRoom, short_of_memory
from es_cli.training.state import TrainingState


@dataclass(frozen=True)
class Made:
    """What a step computed, on the device: the loss before it, its terms, and whether it was made, a bool; all scalars."""

    loss: Tensor
    terms: dict[str, Tensor]
    sound: Tensor


def make_step(experiment: Experiment, state: TrainingState, step: int, visit: Visit, batch: Batch, total: int, ask: bool) -> Made:
    """One step of the optimizer, left out where the loss or the gradient is not finite. `batch` is what this process has of `total` samples.

    `ask`: whether the host may ask the device how it went. Where it may not, since it would wait until the device has caught up, one kernel
    decides for Adam, AdamW and SGD; other optimizers get a gradient of zero instead. Raises NoRoom.
    """
    spec = experiment.spec
    y, x, physics, scale = experiment.reconstruction.in_units(*batch)
    seed = stream_seed(spec.seed, "step", step)
    torch.manual_seed(state.processes.own_seed(seed))  # dropout, and what deepinv draws from the global stream
    before = _Before(state)
    state.optimizer.zero_grad(set_to_none=True)
    try:
        with short_of_memory():
            loss, terms = state.processes.descend(experiment.objective, partial(_backward, state), total, y, physics, seed, x, scale, visit)
    except NoRoom:
        before.undo()
        raise
    sound = _descend(state, loss, spec.training.gradient_clip, ask)
    before.bring_back(sound)
    if state.average is not None and spec.training.ema is not None and (not ask or bool(sound)):
        _follow(state.average, state.network, min(spec.training.ema, step / (step + 9)))
    state.processes.level(experiment.objective, total)
    return Made(loss, terms, sound)


def _backward(state: TrainingState, loss: Tensor) -> None:
    with state.running.backwards():
        (loss if state.scaler is None else state.scaler.scale(loss)).backward()


class _Before:
    """What a forward pass changes: statistics of layers, and what losses learn. A loss that is not finite would leave its mark there for good."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self.held = [buffer.clone() for buffer in self._buffers()]

    def _buffers(self) -> list[Tensor]:
        """As they are now: what a loss learns is another tensor after each pass."""
        found = [*self.state.network.buffers(), *self.state.objective.learned().values()]
        return [buffer for buffer in found if buffer.is_floating_point()]

    @torch.no_grad()
    def undo(self) -> None:
        """As it was. Takes no memory, of which there may be none."""
        for buffer, held in zip(self._buffers(), self.held, strict=True):
            buffer.copy_(held)

    @torch.no_grad()
    def bring_back(self, sound: Tensor) -> None:
        """As it was, unless `sound`."""
        for buffer, held in zip(self._buffers(), self.held, strict=True):
            buffer.copy_(torch.where(sound, buffer, held))


def _descend(state: TrainingState, loss: Tensor, clip: float | None, ask: bool) -> Tensor:
    """One step of the optimizer along the gradient; whether it was made, a bool. Gradients of float16 that overflow are the scaler's, which leaves the step out too."""
    optimizer, scaler = state.optimizer, state.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = None
    if clip is not None:
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), clip)
    with state.stepping():
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
            return torch.isfinite(loss.detach())
        if norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in state.network.parameters() if p.grad is not None])
        sound = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        _step(state, sound, ask)
    return sound


def _step(state: TrainingState, sound: Tensor, ask: bool) -> None:
    """The step itself, where it is `sound`."""
    optimizer = state.optimizer
    if ask:
        if bool(sound):
            optimizer.step()
    elif optimizer.defaults.get("fused"):
        optimizer.found_inf = (~sound).float()
        optimizer.step()
        del optimizer.found_inf
    else:
        for parameter in state.network.parameters():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~sound, 0)
        optimizer.step()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the network's; early steps count more, so that the start is forgotten."""
    held, new = list(average.parameters()), list(network.parameters())
    torch._foreach_lerp_(held, new, 1 - decay)
    for buffer, other in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(other)
