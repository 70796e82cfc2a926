"""What the measurements of a training are like, and how well the network's images agree with them: a few numbers for the checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from es_cli.data.batches import in_order
from es_cli.experiment import Experiment
from es_cli.inspecting.typical import numbers_of, residuals, spans
from es_cli.splitting.averaging import ONE_CALL

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
        return spans(numbers_of(data.batch([i])[0][0].numpy(), self.experiment.operator.measurement.pair) for i in chosen)

    @torch.no_grad()
    def _residuals(self, network: nn.Module) -> list[dict[str, float]]:
        data, made = self.experiment.validation, self.experiment.reconstruction
        y, _, params = data.batch(next(in_order(data, RECONSTRUCTED)), self.device)
        training = network.training
        try:
            network.eval()
            x = replace(made, network=network)(y, ONE_CALL, max_batch=RECONSTRUCTED, params=params)
        finally:
            network.train(training)
        return [{"residual": one} for one in residuals(made.physics_of(y, params).A(x).cpu().numpy(), y.cpu().numpy())]
