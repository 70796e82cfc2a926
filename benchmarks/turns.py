"""Timing in turns: each way of doing a thing once in every round, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import torch

from es_cli.checkpoint import installed_versions


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each way, one value for each round; `warm_up` rounds come before and are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(warm_up + rounds):
        for name, way in ways.items():
            spent = timed(way)
            if round_ >= warm_up:
                seconds[name].append(spent)
    return seconds


def timed(way: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def ratio(over: Sequence[float], under: Sequence[float], at_most: float | None = None) -> dict[str, Any]:
    """Median, lowest and highest ratio of the rounds of `over` to those of `under`, with the median seconds of both; `at_most` is what was wanted."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    spread = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "rounds": len(ratios)}
    medians = {"seconds": statistics.median(over), "against": statistics.median(under)}
    return {**_rounded({**spread, **medians}), **({} if at_most is None else {"at_most": at_most})}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in values.items()}


def surroundings() -> dict[str, Any]:
    """When, where, with what and by which command something was measured."""
    versions = {**installed_versions(), "python": platform.python_version()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {"date": date.today().isoformat(), "machine": machine, "threads": torch.get_num_threads(), "versions": versions, "command": command()}


def command() -> str:
    """The command line of this script, without folders: what lies where differs from machine to machine."""
    words = [os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv]
    return "python " + shlex.join(words)
