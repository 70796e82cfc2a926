"""Can this be learned? All sections of `es check`, one after the other, each measured before any training; and the quick ones for `es train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from es_cli.diagnostics import coverage
from es_cli.diagnostics.cost import cost_finding
from es_cli.diagnostics.coverage import coverage_finding
from es_cli.diagnostics.finding import Finding
from es_cli.diagnostics.noise import noise_finding
from es_cli.diagnostics.operator import looked_at, operator_finding
from es_cli.diagnostics.splits import splits_finding
from es_cli.diagnostics.transforms import transforms_finding
from es_cli.errors import LIBRARY_ERRORS, said
from es_cli.experiment import Experiment, build_experiment
from es_cli.spec.schema import Spec
from es_cli.training.runtime import machine, resolve_device

Section = Callable[..., Finding]
SECTIONS: dict[str, Section] = {
    "operator": operator_finding,
    "transforms": transforms_finding,
    "coverage": coverage_finding,
    "splits": splits_finding,
    "noise": noise_finding,
    "cost": cost_finding,
}
PICTURES = (coverage.PICTURE,)  # the names of all that sections draw
# what training looks at first, and how often a section takes A and Aᵀ then, about. Cost is left out: training itself shows it
FIRST = {"operator": 40, "transforms": 40, "splits": 0, "noise": 0, "coverage": 200}
SECONDS = 5.0  # that this look may take


@dataclass(frozen=True)
class FirstLook:
    """What the quick sections found, which of them were left out since they would have taken too long, and how many seconds all that took."""

    findings: list[Finding]
    left_out: list[str]
    seconds: float


def check(spec: Spec, *, quick: bool = False, device: str = "auto") -> Iterator[Finding]:
    """The finding of each section, as soon as it is there; `quick` looks at fewer samples and elements. Usable from Python without the command line.

    Reads no ground truth, unless for a supervised loss. Raises SpecError, DataError or DeviceError as training would before its first step.
    """
    where = resolve_device(device)
    with machine(where):
        experiment = build_experiment(spec, where)
        for section in SECTIONS.values():
            began = time.monotonic()
            finding = section(experiment, quick=quick)
            yield replace(finding, seconds=time.monotonic() - began)


def first_look(experiment: Experiment, seconds: float = SECONDS) -> FirstLook:
    """The quick sections that need no step of training, in about `seconds` at most: those that would take longer are left out.

    Leaves the experiment as it was, and no draw of a training follows from what is drawn here. A section that fails is doubtful, since no training
    is to end by a measurement of it.
    """
    started = time.monotonic()
    findings: list[Finding] = []
    left_out: list[str] = []
    pace = _seconds_of_operator(experiment)
    for name, applications in FIRST.items():
        left = seconds - (time.monotonic() - started)
        if left <= 0 or applications * pace > left:
            left_out.append(name)
            continue
        try:
            findings.append(SECTIONS[name](experiment, quick=True))
        except LIBRARY_ERRORS as error:
            findings.append(Finding(name, "doubtful", f"this could not be measured: {said(error)}", "es check -v says where"))
    return FirstLook(findings, left_out, time.monotonic() - started)


def _seconds_of_operator(experiment: Experiment) -> float:
    """How long A and Aᵀ take for one sample, about twice as long as A: the shorter of two times, as the first call may set something up."""
    positions = next(looked_at(experiment.train, 1, 1))
    y, _, physics, _ = experiment.reconstruction.batch(experiment.train, positions, torch.device(experiment.operator.device))
    image = torch.zeros(1, *experiment.operator.image.fitted(tuple(y.shape[1:])).shape, device=y.device)
    times: list[float] = []
    with torch.no_grad():
        while len(times) < 2 and sum(times) < SECONDS:
            started = time.monotonic()
            physics.A(image)
            times.append(time.monotonic() - started)
    return 2 * min(times)
