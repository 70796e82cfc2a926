"""The metrics of a run: one row for each validation, in metrics.jsonl and metrics.csv, each file whole at any moment."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from es_cli.data.batches import steps_per_epoch
from es_cli.data.writers import write_bytes
from es_cli.experiment import Experiment
from es_cli.training.events import Validated
from es_cli.training.state import Progress

JSON_LINES, TABLE = "metrics.jsonl", "metrics.csv"
COLUMNS = ("step", "epoch", "loss", "lr", "validation_loss", "validation_psnr", "best", "samples_per_second", "peak_memory_mib", "skipped_steps", "backoffs", "bad_samples")
LATER = {"peak_memory_mib", "skipped_steps", "backoffs", "bad_samples"}  # columns that runs of older versions lack


class Metrics:
    """The rows so far."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.rows = folder, list[dict[str, Any]]()
        self._per_epoch = steps_per_epoch(experiment.train, experiment.spec.training.batch_size)
        self._batch = len(experiment.train) / self._per_epoch  # samples, on average

    def resume(self, step: int) -> None:
        """Take up the rows of a stopped run; those after `step`, where it goes on, will be made anew."""
        file = self.folder / JSON_LINES
        if file.is_file():
            rows = [_row(line) for line in file.read_text(errors="replace").splitlines()]
            self.rows = [row for row in rows if row is not None and row["step"] <= step]

    def add(self, event: Validated, progress: Progress, memory: float | None) -> None:
        """A row for a validation and the steps before it; `memory` is the most that was held, in MiB."""
        tally = progress.tally
        row = {
            "step": event.step,
            "epoch": round(event.step / self._per_epoch, 3),
            "loss": tally.loss / tally.steps if tally.steps else None,
            "lr": tally.lr,
            "validation_loss": event.loss,
            "validation_psnr": event.psnr,
            "best": event.best,
            "samples_per_second": tally.steps * self._batch / tally.seconds if tally.seconds else None,
            "peak_memory_mib": memory,
            "skipped_steps": progress.skipped,
            "backoffs": progress.backoffs,
            "bad_samples": sum(map(len, progress.bad.values())),
        }
        # a step that was gone back over is told about once
        self.rows = [*(old for old in self.rows if old["step"] < event.step), row]

    def writers(self) -> Mapping[str, Callable[[], None]]:
        """What writes the rows so far, by file."""
        rows = list(self.rows)
        return {JSON_LINES: lambda: write_bytes(self.folder / JSON_LINES, _lines(rows)), TABLE: lambda: write_bytes(self.folder / TABLE, _table(rows))}


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(rows: list[dict[str, Any]]) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def _row(line: str) -> dict[str, Any] | None:
    """A row of metrics.jsonl; None where the line was damaged: metrics inform, and must not keep a run from going on."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not set(COLUMNS) - LATER <= set(row):
        return None
    return {column: row.get(column) for column in COLUMNS}
