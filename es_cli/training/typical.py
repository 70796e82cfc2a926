"""What the measurements of a training are like, and how well the network's images agree with them: a few numbers for the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from es_cli.data.batches import in_order
from es_cli.data.measurements import Measurements
from es_cli.errors import DataError, out_of_memory
from es_cli.experiment import Experiment
from es_cli.inspecting.typical import numbers_of, residuals, spans
from es_cli.splitting.averaging import ONE_CALL
from es_cli.training.feeding import Batch

SAMPLES, BYTES = 64, 1 << 28  # that are looked at, at most
RECONSTRUCTED = 4


class Typical:
    """The numbers of an experiment: of its measurements, looked at once, and of the network as it is."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment, self.device = experiment, device

    def spans(self, network: nn.Module) -> dict[str, list[float]]:
        """Least, median and greatest of each number over samples, `residual` being ‖A x̂ − y‖ / ‖y‖ of a single call of `network`."""
        return {**self._measured, **spans(self._residuals(network))}

    @cached_property
    def _measured(self) -> dict[str, list[float]]:
        data = self.experiment.train
        each = 4 * math.prod(self.experiment.operator.measurement.shape)
        count = max(1, min(len(data), SAMPLES, BYTES // each))
        chosen = sorted({round(i * (len(data) - 1) / max(1, count - 1)) for i in range(count)})
        held = (_read(data, [i]) for i in chosen)
        return spans(numbers_of(y[0][0].numpy(), self.experiment.operator.measurement.pair) for y in held if y is not None)

    @torch.no_grad()
    def _residuals(self, network: nn.Module) -> list[dict[str, float]]:
        data, made = self.experiment.validation, self.experiment.reconstruction
        held = _read(data, next(in_order(data, RECONSTRUCTED)))
        if held is None:
            return []
        y, params = held[0].to(self.device), {name: value.to(self.device) for name, value in held[2].items()}
        training = network.training
        try:
            network.eval()
            x = replace(made, network=network)(y, ONE_CALL, max_batch=RECONSTRUCTED, params=params)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return []  # it informs, and must not end a training
        finally:
            network.train(training)
        return [{"residual": one} for one in residuals(made.physics_of(y, params).A(x).cpu().numpy(), y.cpu().numpy())]


def _read(data: Measurements, positions: Sequence[int]) -> Batch | None:
    """Samples as they are; None where one is damaged, which training itself answers."""
    try:
        return data.batch(positions)
    except DataError:
        return None
