"""A run as its folder, or its checkpoint alone, tells of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from es_cli.checkpoint import Metadata, read_metadata
from es_cli.errors import UsageError

MODEL, METRICS, ENVIRONMENT = "model.safetensors", "metrics.jsonl", "environment.json"


@dataclass(frozen=True)
class Run:
    """What is known of a run without reconstructing anything.

    `label` tells it from the other runs of a page. `rows` are its validations, as metrics.jsonl has them, none where a checkpoint came alone;
    `environment` holds versions, device and threads, `sha256` is of the checkpoint's file.
    """

    label: str
    checkpoint: Path
    metadata: Metadata
    rows: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    sha256: str


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Runs by their folders, or by the model.safetensors in them, in the order given; each once.

    Raises CheckpointError where one holds no checkpoint, UsageError where one is named twice.
    """
    files = [path / MODEL if path.is_dir() else path for path in paths]
    for file in files:
        if [other.absolute() for other in files].count(file.absolute()) > 1:
            raise UsageError("this run is named twice", where=str(file), hint="name each once")
    runs = [_read(file) for file in files]
    often = Counter(run.label for run in runs)
    shared = [replace(run, label=f"{run.label} ({_folder(run)})") if often[run.label] > 1 else run for run in runs]
    still = Counter(run.label for run in shared)
    return [replace(run, label=f"{run.label} {number}") if still[run.label] > 1 else run for number, run in enumerate(shared, 1)]


def _read(file: Path) -> Run:
    metadata = read_metadata(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Run(str(metadata.spec.get("name", "run")), file, metadata, tuple(_rows(file.parent / METRICS)), _environment(file.parent / ENVIRONMENT), digest)


def _folder(run: Run) -> str:
    return run.checkpoint.absolute().parent.name


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows that can be read: metrics inform, and a damaged line must not keep the others from being seen."""
    found = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            found.append(row)
    return found


def _environment(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in held.items() if key != "init_from"} if isinstance(held, dict) else {}
