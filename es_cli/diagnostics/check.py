"""Can this be learned? All sections of `es check`, one after the other, each measured before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from es_cli.diagnostics.finding import Finding
from es_cli.diagnostics.operator import operator_finding
from es_cli.diagnostics.transforms import transforms_finding
from es_cli.experiment import Experiment

Section = Callable[..., Finding]
SECTIONS: tuple[Section, ...] = (operator_finding, transforms_finding)


def check(experiment: Experiment, *, quick: bool = False) -> Iterator[Finding]:
    """The finding of each section, as soon as it is there; `quick` takes fewer probes, and says so by wider error bars.

    Nothing of the experiment is changed, and no ground truth is read. Raises what measuring raises.
    """
    for section in SECTIONS:
        yield section(experiment, quick=quick)
