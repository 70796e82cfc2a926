"""What happens while many inputs become images, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from es_cli.errors import EsError


@dataclass(frozen=True)
class Loaded:
    """The network is there; `per_sample` are parameters of the operator that each training sample had of its own, and that nobody gave."""

    network_calls: int
    per_sample: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """An output is whole, and in its place."""

    target: Path


@dataclass(frozen=True)
class Failed:
    """Nothing came of one input; the others go on."""

    error: EsError


@dataclass(frozen=True)
class Remark:
    """Something that a person may want to know, in words."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """So many of all inputs are through, in parts where one takes long."""

    done: float
    total: int


Event = Loaded | Written | Failed | Remark | Advanced
Listener = Callable[[Event], None]
