"""What training says while it runs. The loop yields these; somebody else prints and saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from es_cli.training.state import Snapshot


@dataclass(frozen=True)
class Started:
    """Everything is built; `first_step` is not 0 where a run is resumed. `network_calls` are those of one reconstruction."""

    run_dir: Path
    steps: int
    first_step: int
    parameters: int
    train_samples: int
    validation_samples: int
    device: str
    network_calls: int


@dataclass(frozen=True)
class Step:
    """One optimizer step was made: the loss of its batch before it, the learning rate, each loss term unweighted, seconds it took.

    `skipped`: it was left out, since its loss or its gradient is not finite.
    """

    step: int
    loss: float
    lr: float
    terms: dict[str, float]
    seconds: float
    skipped: bool = False


@dataclass(frozen=True)
class Validated:
    """The held-out loss after `step`; `best` if it is the lowest so far. `psnr` (dB, one network call an image) informs and never selects."""

    step: int
    loss: float
    best: bool
    psnr: float | None
    seconds: float


@dataclass(frozen=True)
class Resting:
    """Every loss up to the last step was told and nothing is under way: the moment to save `snapshot`, or to stop after it was saved."""

    snapshot: Snapshot


@dataclass(frozen=True)
class Previewed:
    path: Path


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Stopped:
    """The end: `reason` is finished, patience, signal or time."""

    step: int
    reason: str
    best_step: int
    best_loss: float


Event = Started | Step | Validated | Resting | Previewed | Note | Stopped
