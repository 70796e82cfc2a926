"""What the device has computed on its way to the host: asked for now and then, and read when it has come, so that no step waits for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.training.events import Step
from es_cli.training.stepping import Made

# how many steps are asked about at once: asking costs a GPU a copy, and a CPU nothing
STEPS_AT_ONCE = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class _Made:
    """A step: `values` (2 + terms,) holds whether it was made, its loss and then its terms, on the device."""

    step: int
    values: Tensor
    names: tuple[str, ...]
    lr: float
    started: float


@dataclass(frozen=True)
class _OnTheWay:
    """Steps whose values (steps, 2 + terms) are being copied to the host; `event` says when they are there, None: they are."""

    made: list[_Made]
    values: Tensor
    event: Any

    @property
    def arrived(self) -> bool:
        return self.event is None or bool(self.event.query())

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()


class Readback:
    """Steps in the order in which they were made, each with its loss once that is known on the host.

    `in_step`: when a loss is read follows from the steps alone, since other processes have to read it then, too.
    """

    def __init__(self, device: torch.device, in_step: bool = False) -> None:
        self.device, self.at_once, self.in_step = device, STEPS_AT_ONCE[device.type], in_step
        self._made: list[_Made] = []
        self._sent: deque[_OnTheWay] = deque()
        self._last = 0.0

    def add(self, step: int, made: Made, lr: float, started: float) -> None:
        """A step was made, or left out, which began at `started`."""
        values = torch.stack([made.sound.float(), made.loss.detach().float(), *(term.float() for term in made.terms.values())])
        self._made.append(_Made(step, values, tuple(made.terms), lr, started))
        if len(self._made) >= self.at_once:
            self._send()

    def read(self, wait: bool = False) -> Iterator[Step]:
        """The steps whose losses have come; all that were made if `wait`."""
        if wait and self._made:
            self._send()
        while self._sent and (wait or self._here()):
            sent = self._sent.popleft()
            sent.wait()
            yield from self._steps(sent)

    def _here(self) -> bool:
        """Whether the first of what is on the way is there, or has had the time of as many steps."""
        if self.in_step and self._sent[0].event is not None:
            return len(self._sent) > 1
        return self._sent[0].arrived

    def forget(self) -> None:
        """Nobody asks any more for the steps whose losses have not been read."""
        self._made, self._sent = [], deque()

    def _send(self) -> None:
        values, event = torch.stack([one.values for one in self._made]), None
        if self.device.type == "cuda":
            on_host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = on_host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
        self._sent.append(_OnTheWay(self._made, values, event))
        self._made = []

    def _steps(self, sent: _OnTheWay) -> Iterator[Step]:
        now = time.perf_counter()
        # steps overlap on a GPU: they took the time since those before them were seen to be done
        seconds = (now - max(sent.made[0].started, self._last)) / len(sent.made)
        self._last = now
        for one, (sound, loss, *terms) in zip(sent.made, sent.values.tolist(), strict=True):
            yield Step(one.step, loss, one.lr, dict(zip(one.names, terms, strict=True)), seconds, skipped=not sound)
