"""Options that several commands share, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[Path, typer.Option("--ckpt", metavar="FILE", help="The model.safetensors of a run.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on standard error but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more; show where an error happened.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
