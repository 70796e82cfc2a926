"""One process, or several that train together: what they share out, and what they agree on.

`Processes` is one alone, and does nothing; `Several` (several.py) answers the same calls for many. Whoever trains asks, and never looks how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from es_cli.training.runtime import resolve_device

if TYPE_CHECKING:
    from es_cli.splitting.objective import Objective

T = TypeVar("T")
Loss = tuple[Tensor, dict[str, Tensor]]


class Processes:
    """A process that has nobody beside it. `number` is 0 for the one that writes and speaks."""

    number, count = 0, 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.number == 0

    def device(self, name: str) -> torch.device:
        """The device of this process, where a user names `name`. Raises DeviceError."""
        return resolve_device(name)

    def most(self, total: int) -> int:
        """How many samples of a batch of `total` the process has that has most."""
        return total

    def own(self, positions: Sequence[int]) -> list[int]:
        """The samples of a batch that are this process's: at least one, that of another where none is left for it."""
        return list(positions)

    def own_seed(self, seed: int) -> int:
        """The seed of what is drawn for own samples only."""
        return seed

    def agree(self, values: Sequence[int]) -> list[int]:
        """The largest that any process says, of each of these numbers."""
        return list(values)

    def tell(self, text: str) -> list[str]:
        """What each process has to say."""
        return [text]

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives; where it raises an EsError in one process it is raised in all."""
        return work()

    def fitting(self, work: Callable[[], T]) -> T:
        """What `work` gives; where it raises NoRoom in one process it is raised in all."""
        return work()

    def whole(self, own: Tensor, total: int) -> Tensor:
        """Room for the numbers of a batch of `total`, with those of own samples in their places (n,)."""
        return own

    def added(self, values: Tensor) -> Tensor:
        """The sum of what all processes have."""
        return values

    def take(self, objective: Objective) -> str:
        """`objective` is what is trained from here on; what is to be said about it, "" where nothing."""
        return ""

    def descend(self, objective: Objective, backward: Callable[[Tensor], None], total: int, *batch: Any) -> Loss:
        """Loss and terms of a batch of `total` samples, of which `batch` has the own ones, detached; their gradient is in the parameters then.

        Raises NoRoom in all processes where the memory of one is too small.
        """
        loss, terms = objective(*batch)
        backward(loss)
        return loss.detach(), terms

    def level(self, objective: Objective, total: int) -> None:
        """What layers and losses learned of own samples becomes what was learned of the whole batch."""

    def wait(self) -> None:
        """Until all processes have come here."""

    def leave(self) -> None:
        """Nothing is to be agreed on any more."""


def learned(objective: Objective) -> list[Tensor]:
    """What depends on the samples that a process saw, beside parameters: statistics of layers that normalize by the batch, and what losses of
    deepinv learn; ours learn from the whole batch."""
    layers = [module for module in objective.modules() if isinstance(module, _BatchNorm) or getattr(module, "learns", False)]
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False) if buffer.is_floating_point()]


def trained(objective: Objective) -> Iterable[nn.Parameter]:
    """The parameters that have a gradient."""
    return (parameter for parameter in objective.parameters() if parameter.requires_grad)
