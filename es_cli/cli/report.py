"""`es report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from es_cli.cli.completion import complete_checkpoints
from es_cli.cli.console import answer, answer_json, answers_only, counting, plain
from es_cli.cli.options import AsJson, Device, Overwrite, Quiet, Verbose
from es_cli.errors import UsageError

PAGE = Path("report.html")


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or checkpoints.", show_default=False, autocompletion=complete_checkpoints)
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="The page; ./report.html if left out.", show_default=False)] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=0, help="How many test images to show, from the worst to the best.")] = 6,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="The page's title; the names of the runs if left out.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make one HTML page of one or several runs: numbers, images with sliders, curves, spec and provenance. It needs no network to be read.

    With --json the same numbers go to standard output, and a page is made only where -o names one.

    \b
    Examples:
      es report run
      es report run-a run-b -o compared.html --images 4
      es report run/model.safetensors --json
    """
    target = out or (None if as_json else PAGE)
    if target is not None:
        _check(target, overwrite)
    with answers_only(), counting("evaluating", quiet) as on_progress:
        from es_cli.data.writers import write_bytes
        from es_cli.report.make import report as made_of

        made = made_of(runs, images=images, title=title, device=device, on_progress=lambda label, done, total: on_progress(done, total))
        if target is not None:
            write_bytes(target, made.html.encode())
    if as_json:
        answer_json(made.numbers)
    elif target is not None:
        answer(plain(target, blank=False))


def _check(target: Path, overwrite: bool) -> None:
    """UsageError, before anything is evaluated, where the page cannot be written there."""
    if target.suffix.lower() not in {".html", ".htm"}:
        raise UsageError("a report is an HTML page", where=str(target), hint="give -o NAME.html")
    if target.exists() and not overwrite:
        raise UsageError("this file exists", where=str(target), hint="give another -o, or --overwrite to replace it")
