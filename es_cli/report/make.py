"""`es report`, usable from Python without the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_cli.report.page import numbers, page
from es_cli.report.results import Results, results_of
from es_cli.report.runs import Run, read_runs


@dataclass(frozen=True)
class Report:
    """The page as HTML, and the same numbers."""

    html: str
    numbers: dict[str, Any]


def report(
    paths: Sequence[Path],
    *,
    images: int = 6,
    title: str | None = None,
    device: str = "auto",
    on_progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Report:
    """A report of runs, by their folders or checkpoints: evaluated on the test data of each, with `images` samples to look at.

    `title` None: made of their names. `on_progress` gets the run's label and how many of its test images are done.
    Raises CheckpointError, and UsageError where a run is named twice.
    """
    runs = read_runs(paths)
    entries: list[tuple[Run, Results]] = []
    for run in runs:
        like = entries[0][1].samples if entries else ()
        entries.append((run, results_of(run, images, device, like, functools.partial(on_progress, run.label))))
    return Report(page(entries, title or " · ".join(run.label for run in runs)), numbers(entries))
