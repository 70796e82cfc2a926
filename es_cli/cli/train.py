"""`es train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from es_cli.cli.console import TrainingDisplay
from es_cli.cli.options import Device, Overwrite, Quiet, Verbose
from es_cli.errors import UsageError


def train(
    spec: Annotated[Path | None, typer.Argument(help="The YAML spec.", show_default=False)] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[A.B=VALUE]...", help="Changes to the spec.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run; runs/NAME if left out.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Continue a stopped run.")] = None,
    init_from: Annotated[Path | None, typer.Option("--init-from", metavar="FILE", help="Start from the network of another checkpoint.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network from measurements alone. Prints the path of the checkpoint, and nothing else, on standard output.

    [bold]Examples[/]: es train config.yaml training.steps=2000 losses.0.weight=2  ·  ckpt=$(es train config.yaml -o runs/a)  ·
    es train --resume runs/a
    """
    if (spec is None) == (resume is None):
        raise UsageError("give a spec, or --resume RUN, and not both", hint="es train config.yaml")
    if resume is not None and (overrides or out or init_from):
        raise UsageError("--resume continues a run as it was asked for", hint="leave the other options out, or train anew")
    loaded = None
    if spec is not None:
        # checked before torch and deepinv are imported: a typing error is answered at once
        from es_cli.catalog import load_spec

        loaded = load_spec(spec, overrides or [])
    with TrainingDisplay(quiet, verbose) as display:
        from es_cli.training import run

        if loaded is not None:
            model = run.train(loaded, out, device=device, init_from=init_from, overwrite=overwrite, on_event=display)
        else:
            assert resume is not None
            model = run.resume(resume, device=device, on_event=display)
    if not quiet:
        if display.preview is not None:
            display.console.print(f"preview: {display.preview}", highlight=False, soft_wrap=True)
        display.console.print(f"next: es evaluate --ckpt {model}", highlight=False, soft_wrap=True)
    typer.echo(model)
