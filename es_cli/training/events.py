"""What training says while it runs. The loop yields these; somebody else prints and saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    """One optimizer step was made: the loss of its batch before it, the learning rate, each loss term unweighted, seconds it took."""

    step: int
    loss: float
    lr: float
    terms: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Validated:
    """The held-out loss after `step`; `best` if it is the lowest so far. `psnr` (dB, one network call an image) informs and never selects."""

    step: int
    loss: float
    best: bool
    psnr: float | None
    seconds: float


@dataclass(frozen=True)
class Previewed:
    path: Path


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Stopped:
    """The end: `reason` is finished, patience or signal."""

    step: int
    reason: str
    best_step: int
    best_loss: float


Event = Started | Step | Validated | Previewed | Note | Stopped
