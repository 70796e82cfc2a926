"""`es info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from es_cli.cli.options import AsJson, Verbose


def info(
    ckpt: Annotated[Path, typer.Argument(metavar="FILE", help="A model.safetensors.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a checkpoint holds.

    [bold]Examples[/]: es info runs/a/model.safetensors  ·  es info m.safetensors --json
    """
    from es_cli.checkpoint import read_metadata

    metadata = vars(read_metadata(ckpt))
    if as_json:
        typer.echo(json.dumps(metadata))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    spec = metadata["spec"]
    rows: dict[str, Any] = {
        "name": spec.get("name"),
        "physics": _brief(spec.get("physics")),
        "measurement": " × ".join(map(str, metadata["measurement"].get("shape", ()))) + (", complex as two channels" if metadata["measurement"].get("complex") else ""),
        "image": " × ".join(map(str, metadata["measurement"].get("image_shape", ()))),
        "scale": metadata["scale"],
        "model": _brief(spec.get("model")),
        "losses": ", ".join(_brief(loss) for loss in spec.get("losses", ())),
        "transforms": json.dumps(spec.get("transforms")),
        "test rule": json.dumps(spec.get("test")),
        "held-out loss": f"{metadata['validation'].get('loss')} at step {metadata['validation'].get('step')}",
        "versions": ", ".join(f"{name} {number}" for name, number in metadata["versions"].items()),
        "format": metadata["format"],
        "fingerprint": metadata["fingerprint"],
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)


def _brief(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    rest = ", ".join(f"{key}={_brief(value) if isinstance(value, dict) else value}" for key, value in part.items() if key != "name")
    return f"{part.get('name', part.get('tensor', ''))}({rest})" if rest else str(part.get("name", ""))
