"""`es evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.console import errors
from es_cli.cli.options import AsJson, Checkpoint, Device, Quiet, Verbose

if TYPE_CHECKING:
    from es_cli.evaluate import Evaluation


def evaluate(
    ckpt: Checkpoint,
    measurements: Annotated[Path | None, typer.Option(metavar="FILE", help="Measurements; the run's own test data if left out.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="The ground truth of the measurements.")] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A metric of deepinv, such as PSNR; may be given several times.")] = None,
    as_json: AsJson = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A table with one row for each image.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare reconstructions with ground truth, beside the adjoint and the pseudo-inverse.

    [bold]Examples[/]: es evaluate --ckpt runs/a/model.safetensors  ·  es evaluate --ckpt m.safetensors --measurements y.npy --images x.npy --json
    """
    from es_cli import evaluate as core

    with errors().status("reconstructing") if not quiet and errors().is_terminal else _nothing():
        result = core.evaluate(ckpt, measurements=measurements, images=images, metrics=tuple(metric or ("PSNR", "SSIM")), device=device)
    if csv_file is not None:
        _write_csv(csv_file, result)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        _print_table(result)


def _print_table(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=f"{result.n} images, mean ± standard deviation; {result.network_calls} network calls and {result.seconds_per_image:.2g} s an image")
    table.add_column("")
    metrics = list(result.values["reconstruction"])
    for name in metrics:
        note = result.conventions.get(name)
        table.add_column(name + (f" ({note})" if note else ""), justify="right")
    for who, values in result.values.items():
        table.add_row(who, *[f"{values[name].mean():.3f} ± {values[name].std():.3f}" for name in metrics])
    for who, values in result.values.items():
        if who != "reconstruction":
            gains = [(result.values["reconstruction"][name] - values[name]).mean() for name in metrics]
            table.add_row(f"gain over {who}", *[f"{gain:+.3f}" for gain in gains])
    Console().print(table)


def _write_csv(path: Path, result: Evaluation) -> None:
    import csv
    import io

    from es_cli.data.writers import write_bytes

    rows = result.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _nothing():  # type: ignore[no-untyped-def]
    import contextlib

    return contextlib.nullcontext()
