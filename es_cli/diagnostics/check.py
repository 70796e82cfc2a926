"""Can this be learned? All sections of `es check`, one after the other, each measured before any training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from es_cli.diagnostics import coverage
from es_cli.diagnostics.coverage import coverage_finding
from es_cli.diagnostics.finding import Finding
from es_cli.diagnostics.operator import operator_finding
from es_cli.diagnostics.transforms import transforms_finding
from es_cli.experiment import build_experiment
from es_cli.spec.schema import Spec
from es_cli.training.runtime import machine, resolve_device

Section = Callable[..., Finding]
SECTIONS: tuple[Section, ...] = (operator_finding, transforms_finding, coverage_finding)
PICTURES = (coverage.PICTURE,)  # the names of all that sections draw


def check(spec: Spec, *, quick: bool = False, device: str = "auto") -> Iterator[Finding]:
    """The finding of each section, as soon as it is there; `quick` looks at fewer samples and elements. Usable from Python without the command line.

    Reads no ground truth. Raises SpecError, DataError or DeviceError as training would before its first step.
    """
    where = resolve_device(device)
    with machine(where):
        experiment = build_experiment(spec, where)
        for section in SECTIONS:
            began = time.monotonic()
            finding = section(experiment, quick=quick)
            yield replace(finding, seconds=time.monotonic() - began)
