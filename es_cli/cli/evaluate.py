"""`es evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.completion import components_of
from es_cli.cli.console import answer, answer_json, answer_table, answers_only, calls_in_words, counting, plain
from es_cli.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    Param,
    Precision,
    Quiet,
    TestRule,
    Verbose,
    named_files,
    read_parameters,
    read_test_rule,
)
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.evaluate import Evaluation

NAMES = {"adjoint": "adjoint", "pseudoinverse": "pseudo-inverse"}
IN_DECIBELS = {"PSNR"}


def evaluate(
    ckpt: Checkpoint,
    measurements: Annotated[Path | None, typer.Option(metavar="FILE", help="Measurements; the run's own test data if left out.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="The ground truth of the measurements.")] = None,
    param: Param = None,
    test_rule: TestRule = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A metric of deepinv; may be repeated. PSNR and SSIM if left out.", autocompletion=components_of("metric")),
    ] = None,
    as_json: AsJson = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write a table with one row for each image.")] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare reconstructions with ground truth, beside the adjoint and the pseudo-inverse, which need no network.

    \b
    Examples:
      es evaluate --ckpt run/model.safetensors
      es evaluate --ckpt run/model.safetensors --metric PSNR --json
      es evaluate --ckpt run/model.safetensors --test-rule paper
      es evaluate --ckpt m.safetensors --test-rule splits=complementary
      es evaluate --ckpt m.safetensors --measurements y.npy --images x.npy
      es evaluate --ckpt m.safetensors --param mask=mask.npy
    """
    if (measurements is None) != (images is None):
        raise UsageError("--measurements and --images go together", hint="give both, or neither for the run's own test data")
    files, rule = named_files(param), read_test_rule(test_rule)
    with answers_only(), counting("evaluating", quiet) as on_progress:
        from es_cli import evaluate as core

        result = core.evaluate(
            ckpt,
            measurements=measurements,
            images=images,
            params=read_parameters(files),
            metrics=tuple(metric or ("PSNR", "SSIM")),
            device=device,
            precision=precision,
            test=rule,
            on_progress=on_progress,
        )
    if csv_file is not None:
        _write_csv(csv_file, result.rows())
    if as_json:
        answer_json(result.to_dict())
    else:
        _answer_in_words(result)


def _answer_in_words(result: Evaluation) -> None:
    from rich.table import Table

    found = result.to_dict()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    for name in found["metrics"]:
        table.add_column(f"{name} (dB)" if name in IN_DECIBELS else plain(name), justify="right")
    rows = {"reconstruction": found["metrics"], **{NAMES.get(who, who): values for who, values in found["baselines"].items()}}
    for who, values in rows.items():
        table.add_row(who, *[f"{value['mean']:.3f} ± {value['std']:.3f}" for value in values.values()], style="bold" if who == "reconstruction" else "")
    for who, values in found["baselines"].items():
        gains = [found["metrics"][name]["mean"] - value["mean"] for name, value in values.items()]
        table.add_row(f"gain over {NAMES.get(who, who)}", *[f"{gain:+.3f}" for gain in gains])
    answer_table(table)
    calls, seconds = found["network_calls"], found["seconds_per_image"]
    answer(f"\n{found['n']} images, mean ± standard deviation; {calls_in_words(calls)} and {seconds:.2g} s an image")
    answer("; ".join(f"{name}: {text}" for name, text in found["conventions"].items()))


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    from es_cli.data.writers import write_bytes

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
