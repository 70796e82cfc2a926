"""`es check`."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from es_cli.cli.console import answer, answer_json, answers_only, coloured, plain
from es_cli.cli.options import AsJson, Device, Overrides, Verbose
from es_cli.errors import AnswerIsNo, UsageError

if TYPE_CHECKING:
    from es_cli.diagnostics.finding import Finding

INDENT = " " * 11
SLOW = 30.0  # seconds, from which on it is said where they went
COLOURS = {"good": typer.colors.GREEN, "doubtful": typer.colors.YELLOW, "no": typer.colors.RED}


def check(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML spec.", show_default=False)],
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at fewer samples and elements of the group.")] = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="Draw into DIR where the operator sees, alone and under the group, as coverage.png.", show_default=False),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say before training whether this can be learned.

    Each section ends in a verdict: good, doubtful or no. "No" is exit code 6: nothing is gained over what the operator alone sees, or the
    operator contradicts the measurements. What is estimated from random images is followed by the ends of its interval.

    \b
    Examples:
      es check examples/configs/quickstart.yaml --quick
      es check examples/configs/quickstart.yaml --pictures seen --json
    """
    from es_cli.catalog import load_spec

    loaded = load_spec(spec, overrides or [])
    from es_cli.diagnostics.check import PICTURES
    from es_cli.diagnostics.check import check as findings_of
    from es_cli.diagnostics.finding import worst

    began = time.monotonic()
    found: list[Finding] = []
    drawn: list[str] = []
    if pictures is not None:
        _check_place(pictures, PICTURES)
    with answers_only() as out:
        for finding in findings_of(loaded, quick=quick, device=device):
            found.append(finding)
            if not as_json:
                answer(render(finding, out), out)
            drawn += _draw(finding, pictures)
    verdict = worst(finding.verdict for finding in found)
    if as_json:
        answer_json({"verdict": verdict, "sections": [_as_json(finding) for finding in found], "pictures": drawn})
    else:
        _conclude(verdict, found, drawn, time.monotonic() - began)
    if verdict == "no":
        culprits = [finding for finding in found if finding.verdict == "no"]
        raise AnswerIsNo("this cannot be learned as it stands", where=", ".join(finding.section for finding in culprits), hint=culprits[0].advice)


def _check_place(folder: Path, names: Sequence[str]) -> None:
    """UsageError where pictures cannot go to `folder` because something else lies there: found before minutes of measuring."""
    from es_cli.figures import is_ours

    if folder.exists() and not folder.is_dir():
        raise UsageError("this is no folder", where=str(folder), hint="give another --pictures")
    for path in [folder / name for name in names]:
        if path.exists() and not is_ours(path):
            raise UsageError("this file was not drawn by es, and is left as it is", where=str(path), hint="give another --pictures")


def _draw(finding: Finding, folder: Path | None) -> list[str]:
    """The pictures of a section, drawn into `folder`; their paths."""
    if folder is None:
        return []
    for name, draw in finding.pictures.items():
        draw(folder / name)
    return [str(folder / name) for name in finding.pictures]


def _as_json(finding: Finding) -> dict[str, Any]:
    return {field.name: getattr(finding, field.name) for field in dataclasses.fields(finding) if field.name != "pictures"}


def _conclude(verdict: str, found: Sequence[Finding], drawn: Sequence[str], seconds: float) -> None:
    """The last lines: pictures, where the time went if it was long, and the verdict over all sections."""
    for path in drawn:
        answer(f"{'':<10} picture: {plain(path)}")
    if seconds >= SLOW:
        sections = ", ".join(f"{finding.section} {finding.seconds:.0f}" for finding in found)
        answer(f"{'':<10} took {seconds:.0f} s: {sections}, the rest for reading data, trying the network and drawing")
    answer(f"{_coloured(verdict, sys.stdout)} overall")


def render(finding: Finding, stream: TextIO) -> str:
    """A section as a person reads it on `stream`: its headline, then numbers, indented; tables of numbers are for --json."""
    shown = {name: value for name, value in finding.numbers.items() if not _is_table(value)}
    return "\n".join([headline(finding, stream), *(f"{INDENT}{plain(name).replace('_', ' ')}: {_number(value)}" for name, value in shown.items())])


def headline(finding: Finding, stream: TextIO) -> str:
    """Verdict and reason of a section, and its advice on a line of its own where it has one, coloured for `stream`."""
    line = f"{_coloured(finding.verdict, stream)} {finding.section}: {plain(finding.reason)}"
    return f"{line}\n{INDENT}→ {plain(finding.advice)}" if finding.advice else line


def _coloured(verdict: str, stream: TextIO) -> str:
    return coloured(f"{verdict:<10}", COLOURS[verdict], stream)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values())


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not known"}[value]
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and set(value) == {"value", "low", "high"}:
        return f"{_number(value['value'])} ({_number(value['low'])} to {_number(value['high'])})"
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)} {_number(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return " × ".join(map(str, value)) if all(isinstance(n, int) for n in value) else ", ".join(_number(inner) for inner in value)
    return plain(value)
