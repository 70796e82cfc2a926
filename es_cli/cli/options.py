"""Options that several commands share, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _remember(ctx: typer.Context, verbose: bool) -> bool:
    """-v also decides how faults are shown, by the group of all commands (app.py), which sees no options of a command."""
    ctx.find_root().command.verbose = verbose  # type: ignore[attr-defined]
    return verbose


Checkpoint = Annotated[Path, typer.Option("--ckpt", metavar="FILE", help="The model.safetensors of a run.", show_default=False)]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on standard error but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", callback=_remember, help="Say more; show where an error happened.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, instead of a table.")]
