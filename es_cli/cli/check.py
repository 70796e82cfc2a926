"""`es check`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.console import answer, answer_json, answers_only, complain, plain
from es_cli.cli.options import AsJson, Device, Overwrite, Quiet, Verbose
from es_cli.errors import AnswerIsNo

if TYPE_CHECKING:
    from es_cli.diagnostics.finding import Finding

COLOURS = {"good": typer.colors.GREEN, "doubtful": typer.colors.YELLOW, "no": typer.colors.RED}


def check(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML spec.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="A.B=VALUE...", help="Changes to the spec.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of a minute: fewer probes and wider error bars.")] = False,
    pictures: Annotated[Path | None, typer.Option("--pictures", metavar="DIR", help="Write the maps of what the group reaches to this folder, as PNG.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say before training whether this can be learned, and at what cost.

    Each section ends in a verdict: good, doubtful or no. "No" is exit code 6: the group teaches nothing about what the operator does not see, or
    the operator contradicts the measurements.

    \b
    Examples:
      es check examples/configs/quickstart.yaml --quick
      es check examples/configs/quickstart.yaml --json
    """
    from es_cli.catalog import load_spec

    loaded = load_spec(spec, overrides or [])
    from es_cli.diagnostics.check import check as findings_of
    from es_cli.diagnostics.finding import worst
    from es_cli.experiment import build_experiment
    from es_cli.training.runtime import machine, resolve_device

    where = resolve_device(device)
    found: list[Finding] = []
    with answers_only() as out, machine(where):
        for finding in findings_of(build_experiment(loaded, where), quick=quick):
            found.append(finding)
            if not as_json:
                answer(render(finding), out)
    if pictures is not None:
        _write(found, pictures, overwrite, quiet)
    verdict = worst(finding.verdict for finding in found)
    if as_json:
        answer_json({"verdict": verdict, "sections": [_as_dict(finding) for finding in found]})
    else:
        answer(f"{_coloured(verdict)} overall")
    if verdict == "no":
        culprits = [finding for finding in found if finding.verdict == "no"]
        raise AnswerIsNo("this cannot be learned as it stands", where=", ".join(finding.section for finding in culprits), hint=culprits[0].advice)


def render(finding: Finding) -> str:
    """A section as a person reads it: verdict and reason, then advice and numbers, indented; tables of numbers are for --json."""
    lines = [f"{_coloured(finding.verdict)} {finding.section}: {plain(finding.reason)}"]
    if finding.advice:
        lines.append(f"           → {plain(finding.advice)}")
    shown = {name: value for name, value in finding.numbers.items() if not _is_table(value)}
    lines.extend(f"           {plain(name).replace('_', ' ')}: {_number(value)}" for name, value in shown.items())
    return "\n".join(lines)


def _coloured(verdict: str) -> str:
    import os
    import sys

    word = f"{verdict:<10}"
    return typer.style(word, fg=COLOURS[verdict], bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else word


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values())


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)} {_number(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " × ".join(map(str, value)) if all(isinstance(n, int) for n in value) else ", ".join(_number(inner) for inner in value)
    return plain(value)


def _as_dict(finding: Finding) -> dict[str, Any]:
    return {**{field.name: getattr(finding, field.name) for field in dataclasses.fields(finding)}, "pictures": sorted(finding.pictures)}


def _write(found: Iterable[Finding], folder: Path, overwrite: bool, quiet: bool) -> None:
    """The maps as 8-bit PNG, white where everything is reached."""
    import numpy as np

    from es_cli.data.writers import write_array
    from es_cli.errors import UsageError

    maps = {f"{finding.section}-{name}".replace(" ", "-"): values for finding in found for name, values in finding.pictures.items()}
    taken = [str(folder / f"{name}.png") for name in maps if (folder / f"{name}.png").exists()]
    if taken and not overwrite:
        raise UsageError("it exists", where=taken[0], hint="name another folder, or --overwrite")
    if maps:
        folder.mkdir(parents=True, exist_ok=True)
    for name, values in maps.items():
        write_array(folder / f"{name}.png", np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
    if not quiet:
        complain(f"{len(maps)} maps in {folder}" if maps else "these sections have no maps to draw", label="")
