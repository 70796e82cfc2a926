"""`es compare`, usable from Python without the command line: rivals trained on the same data, and a report of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_cli import catalog
from es_cli.catalog.rivals import named_run, rival_overrides
from es_cli.errors import UsageError
from es_cli.report.make import Report, report
from es_cli.report.results import PSNR, RECONSTRUCTION
from es_cli.spec.document import to_dict
from es_cli.spec.schema import Spec
from es_cli.training.events import Event
from es_cli.training.folder import SPEC, claim
from es_cli.training.run import resume, train


@dataclass(frozen=True)
class Comparison:
    """The report of all methods, and their names from the best to the worst; `by` says by what."""

    report: Report
    ranking: tuple[str, ...]
    by: str


def rival_specs(file: Path, overrides: Sequence[str], methods: Sequence[str], steps: int | None) -> dict[str, Spec]:
    """The spec of each method. Raises SpecError."""
    base = catalog.load_spec(file, overrides)
    return {name: catalog.load_spec(file, [*overrides, *rival_overrides(base, name), *named_run(base, name, steps)]) for name in methods}


def compare(
    specs: Mapping[str, Spec],
    out: Path,
    *,
    images: int = 6,
    title: str | None = None,
    device: str = "auto",
    on_event: Callable[[str, Event], None] = lambda method, event: None,
    on_progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> Comparison:
    """Train each method in a folder of its name in `out`, one after the other, and report on all of them.

    What was trained there already by the same spec is not trained again, and what was stopped goes on. They are ranked by PSNR on test images
    where there are any; without, they stay in the order given, since losses of different methods cannot be compared.
    Raises UsageError where another spec was trained in such a folder, Interrupted after a signal, and any EsError of training.
    """
    for name, spec in specs.items():
        _check_folder(out / name, spec)
    models = []
    for name, spec in specs.items():
        folder = out / name

        def tell(event: Event, name: str = name) -> None:
            on_event(name, event)

        models.append(resume(folder, device=device, on_event=tell) if folder.exists() else train(spec, claim(spec, folder), device=device, on_event=tell))
    made = report(models, images=images, title=title, device=device, on_progress=on_progress)
    return Comparison(made, *_ranked(list(specs), made.numbers["runs"]))


def _check_folder(folder: Path, spec: Spec) -> None:
    if folder.exists():
        held = catalog.load_spec(folder / SPEC) if (folder / SPEC).is_file() else None
        if held is None or to_dict(held) != to_dict(spec):
            raise UsageError("something else lies here than a run of this spec", where=str(folder), hint="give another -o")


def _ranked(names: list[str], runs: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], str]:
    if not all(run["evaluation"] and "metrics" in run["evaluation"] for run in runs):
        return tuple(names), ""
    scores = [float(run["evaluation"]["metrics"][PSNR]["mean"]) for run in runs]
    order = sorted(range(len(names)), key=lambda position: -scores[position])
    return tuple(names[position] for position in order), f"{PSNR} of the {RECONSTRUCTION}"
