"""`es compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.completion import complete_overrides
from es_cli.cli.console import answer, answer_json, counting, plain
from es_cli.cli.options import AsJson, Device, Quiet, Verbose
from es_cli.cli.training_display import TrainingDisplay

if TYPE_CHECKING:
    from es_cli.report.compare import Comparison
    from es_cli.training.events import Event

PAGE = "report.html"


def compare(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A YAML spec of equivariant splitting.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="A.B=VALUE...", help="Changes to the spec, for all methods.", show_default=False, autocompletion=complete_overrides),
    ] = None,
    losses: Annotated[str, typer.Option("--losses", metavar="NAMES", help="Which methods: es, splitting, ei, mc, supervised.")] = "es,ei,splitting,mc",
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", min=1, help="Steps of training for each; those of the spec if left out.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="A folder with a run for each; runs/NAME-compared if left out.", show_default=False)] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=0, help="How many test images to show.")] = 6,
    as_json: AsJson = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train rivals of equivariant splitting on the same data, equally long, and make one page that compares them.

    Each is the spec with a few lines changed. Prints the methods from the best to the worst where there is ground truth to tell, and the page's
    path. The same command goes on after it was stopped.

    \b
    Examples:
      es compare examples/configs/quickstart.yaml --steps 200 -o compared
      es compare spec.yaml --losses es,splitting --json
    """
    from es_cli.catalog import load_spec
    from es_cli.catalog.rivals import read_rivals, rival_overrides

    methods = read_rivals(losses)
    base = load_spec(spec, overrides or [])
    for method in methods:
        rival_overrides(base, method)  # what cannot be a rival is said before torch is imported
    folder = out or Path("runs") / f"{base.name}-compared"
    with TrainingDisplay(quiet, verbose) as display, counting("evaluating", quiet) as on_progress:
        from es_cli.data.writers import write_bytes
        from es_cli.report.compare import compare as compared
        from es_cli.report.compare import rival_specs
        from es_cli.training.run import Interrupted

        def listen(method: str, event: Event) -> None:
            display(event)

        try:
            made = compared(
                rival_specs(spec, overrides or [], methods, steps), folder, images=images, title=f"{base.name}: {', '.join(methods)}", device=device,
                on_event=listen, on_progress=lambda label, done, total: on_progress(done, total),
            )  # fmt: skip
        except Interrupted as stop:
            display.say("the state is saved; the same command goes on")
            raise typer.Exit(stop.exit_code) from None
        write_bytes(folder / PAGE, made.report.html.encode())
    if as_json:
        answer_json({"ranking": list(made.ranking), "by": made.by or None, **made.report.numbers})
        return
    for line in _lines(made, methods):
        answer(line)
    answer(plain(folder / PAGE, blank=False))


def _lines(made: Comparison, methods: list[str]) -> list[str]:
    """One line for each method, the best first where that is known."""
    from es_cli.catalog.rivals import RIVALS

    runs = dict(zip(methods, made.report.numbers["runs"], strict=True))
    lines = []
    for place, method in enumerate(made.ranking, 1):
        evaluation = runs[method]["evaluation"]
        scores = "" if "metrics" not in (evaluation or {}) else "  " + "  ".join(f"{name} {value['mean']:.3f}" for name, value in evaluation["metrics"].items())
        lines.append(f"{f'{place}. ' if made.by else ''}{method:<10}  {RIVALS[method]}{scores}")
    return lines
