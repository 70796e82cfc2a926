"""`es info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from es_cli.cli.completion import complete_checkpoints
from es_cli.cli.console import answer_json, answer_table, plain
from es_cli.cli.options import AsJson, Verbose

LONGEST = 300  # characters of one part of the spec; --json has all


def info(
    ckpt: Annotated[
        Path, typer.Argument(metavar="FILE", help="A model.safetensors.", show_default=False, autocompletion=complete_checkpoints)
    ],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a checkpoint holds.

    \b
    Examples:
      es info run/model.safetensors
      es info run/model.safetensors --json
    """
    from es_cli.checkpoint import read_metadata

    metadata = vars(read_metadata(ckpt))
    if as_json:
        answer_json(metadata)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, value in _facts(metadata).items():
        text = plain(value)
        table.add_row(name, Text(text if len(text) <= LONGEST else text[:LONGEST] + " ..."))
    answer_table(table)


def _facts(metadata: dict[str, Any]) -> dict[str, Any]:
    spec, measurement, validation = metadata["spec"], metadata["measurement"], metadata["validation"]
    is_complex = ", complex as two channels" if measurement.get("complex") else ""
    return {
        "name": spec.get("name"),
        "physics": brief(spec.get("physics")),
        "measurement": _shape(measurement.get("shape")) + is_complex,
        "image": " or ".join(_shape(size) for size in measurement.get("sizes") or [measurement.get("image_shape")]) + is_complex,
        "scale": metadata["scale"],
        "model": brief(spec.get("model")),
        "losses": brief(spec.get("losses")),
        "transforms": brief(spec.get("transforms")),
        "mask generator": brief(spec.get("mask_generator")),
        "test": brief(spec.get("test")),
        "network calls": f"{measurement.get('network_calls', 'unknown')} for each image",
        "held-out loss": f"{validation.get('loss', 'unknown')} at step {validation.get('step', 'unknown')}",
        "versions": ", ".join(f"{name} {number}" for name, number in metadata["versions"].items()),
        "format": metadata["format"],
        "fingerprint": metadata["fingerprint"],
    }


def brief(part: Any) -> str:
    """A part of a spec as a call, `Name(parameter=value)`; what is left out (null) is left out."""
    if isinstance(part, dict):
        rest = ", ".join(f"{key}={brief(value)}" for key, value in part.items() if key != "name" and value is not None)
        name = str(part.get("name", ""))
        return f"{name}({rest})" if name and rest else name or rest
    if isinstance(part, (list, tuple)):
        return "[" + ", ".join(brief(inner) for inner in part) + "]"
    return "none" if part is None else str(part)


def _shape(shape: Any) -> str:
    return " × ".join(str(n) for n in shape) if isinstance(shape, (list, tuple)) else "unknown"
