"""`es check`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from es_cli.cli.console import answer, answer_json, answers_only, coloured, plain
from es_cli.cli.options import AsJson, Device, Verbose
from es_cli.errors import AnswerIsNo

if TYPE_CHECKING:
    from es_cli.diagnostics.finding import Finding

COLOURS = {"good": typer.colors.GREEN, "doubtful": typer.colors.YELLOW, "no": typer.colors.RED}


def check(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML spec.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="A.B=VALUE...", help="Changes to the spec.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at fewer samples and elements of the group.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say before training whether this can be learned.

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

    found: list[Finding] = []
    with answers_only() as out:
        for finding in findings_of(loaded, quick=quick, device=device):
            found.append(finding)
            if not as_json:
                answer(render(finding, out), out)
    verdict = worst(finding.verdict for finding in found)
    if as_json:
        answer_json({"verdict": verdict, "sections": [dataclasses.asdict(finding) for finding in found]})
    else:
        answer(f"{_coloured(verdict, sys.stdout)} overall")
    if verdict == "no":
        culprits = [finding for finding in found if finding.verdict == "no"]
        raise AnswerIsNo("this cannot be learned as it stands", where=", ".join(finding.section for finding in culprits), hint=culprits[0].advice)


def render(finding: Finding, stream: TextIO) -> str:
    """A section as a person reads it on `stream`: verdict and reason, then advice and numbers, indented; tables of numbers are for --json."""
    lines = [f"{_coloured(finding.verdict, stream)} {finding.section}: {plain(finding.reason)}"]
    if finding.advice:
        lines.append(f"           → {plain(finding.advice)}")
    shown = {name: value for name, value in finding.numbers.items() if not _is_table(value)}
    lines.extend(f"           {plain(name).replace('_', ' ')}: {_number(value)}" for name, value in shown.items())
    return "\n".join(lines)


def _coloured(verdict: str, stream: TextIO) -> str:
    return coloured(f"{verdict:<10}", COLOURS[verdict], stream)


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
