"""What one section of `es check` found: numbers, a verdict, one line of reason and one of advice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["good", "doubtful", "no"]
ORDER: tuple[Verdict, ...] = ("good", "doubtful", "no")


@dataclass(frozen=True)
class Finding:
    """One section's answer.

    `numbers` are plain JSON values by name, in the order in which they are shown: numbers, texts, and lists or mappings of them. `advice` is empty
    where nothing is to be done. `pictures` draw a PNG at a path, by the name of the file; what they show is measured only then. `seconds` is how long
    the section took.
    """

    section: str
    verdict: Verdict
    reason: str
    advice: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict, repr=False, compare=False)
    seconds: float = 0.0


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of some verdicts, good where there are none."""
    return max(verdicts, key=ORDER.index, default="good")
