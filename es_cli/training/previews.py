"""Pictures of a run while it trains, never more often than their share of the time allows; they change nothing that is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from es_cli import figures
from es_cli.data.batches import in_order
from es_cli.data.damaged import Samples
from es_cli.experiment import Experiment
from es_cli.splitting.averaging import ONE_CALL
from es_cli.training.state import TrainingState

SAMPLES = 4
SHARE = 0.03  # of the time of training


class Previews:
    """Writes previews/ and progress.png in the folder of a run."""

    def __init__(self, folder: Path, experiment: Experiment, device: torch.device) -> None:
        self.folder, self.experiment, self.device = folder, experiment, device
        self._seconds, self._started = 0.0, time.monotonic()

    def draw(self, state: TrainingState, rows: Sequence[Mapping[str, Any]], last: bool) -> Path | None:
        """Draw what the network makes of a few samples, and how training went; None where it is too early. Raises OutputError."""
        now = time.monotonic()
        if not self.experiment.spec.training.preview or (not last and self._seconds > SHARE * (now - self._started)):
            return None
        path = self.folder / "previews" / f"step-{state.progress.step:07d}.png"
        try:
            figures.preview(path, self._panels(state, full=last))
            figures.progress(self.folder / "progress.png", rows)
        finally:
            state.network.train()
            self._seconds += time.monotonic() - now
        return path

    @torch.no_grad()
    def _panels(self, state: TrainingState, full: bool) -> dict[str, Any]:
        data, made = self.experiment.validation, self.experiment.reconstruction
        positions = next(in_order(data, SAMPLES))
        skip = self.experiment.spec.data is not None and self.experiment.spec.data.on_bad_sample == "skip"
        y, x, params = Samples(data, skip, state.progress.bad.get("validation", ())).batch(positions, self.device)
        network = state.evaluated
        network.eval()
        image = replace(made, network=network)(y, None if full else ONE_CALL, max_batch=8, params=params)
        panels = {"adjoint": made.physics_of(y, params).A_adjoint(y), "reconstruction": image}
        if x is not None:
            panels["ground truth"] = x
        return {title: panel.cpu().numpy() for title, panel in panels.items()}
