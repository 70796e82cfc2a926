"""`es evaluate`."""

from __future__ import annotations

import math
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
    from rich.table import Table

    from es_cli.evaluate import Evaluation

NAMES = {"adjoint": "adjoint", "pseudoinverse": "pseudo-inverse"}
IN_DECIBELS = {"PSNR"}
WORST = 5


def evaluate(
    ckpt: Checkpoint,
    measurements: Annotated[Path | None, typer.Option(metavar="FILE", help="Measurements, judged without ground truth where no --images are given; the run's own test data if left out, else its validation data.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="FILE", help="The ground truth of the measurements.")] = None,
    param: Param = None,
    test_rule: TestRule = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A metric of deepinv; may be repeated. PSNR and SSIM if left out.", autocompletion=components_of("metric")),
    ] = None,
    as_json: AsJson = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", "--per-image", metavar="FILE", help="Also write a table with one row for each image, the worst first.")] = None,
    metrics_only: Annotated[bool, typer.Option("--metrics-only", help="Only what ground truth says, which is two to three times as fast.")] = False,
    variation: Annotated[bool, typer.Option("--tv", help="Also compare with the image of least total variation, which is slow.")] = False,
    device: Device = "auto",
    precision: Precision = "float32",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge reconstructions: by ground truth where it is known, beside the adjoint and the pseudo-inverse, which need no network, and by the measurements alone.

    Measurements alone say how well a part that is held back is predicted, what is left when images are measured again, how equivariant the network is, and how sharp images are. Each number says whether it has been seen to rank networks.

    \b
    Examples:
      es evaluate --ckpt run/model.safetensors
      es evaluate --ckpt run/model.safetensors --metric PSNR --json
      es evaluate --ckpt run/model.safetensors --test-rule paper
      es evaluate --ckpt m.safetensors --test-rule splits=complementary
      es evaluate --ckpt m.safetensors --measurements y.npy --images x.npy
      es evaluate --ckpt m.safetensors --measurements y.npy --per-image y.csv
      es evaluate --ckpt m.safetensors --param mask=mask.npy
    """
    if measurements is None and images is not None:
        raise UsageError("--images are compared with what is made of measurements", hint="give --measurements too, or neither for the run's own test data")
    if metrics_only and (variation or (measurements is not None and images is None)):
        raise UsageError("--metrics-only leaves out all but ground truth", hint="give --images, and leave --tv out" if variation else "give --images")
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
            judging=not metrics_only,
            variation=variation,
            on_progress=on_progress,
        )
    if csv_file is not None:
        _write_csv(csv_file, result.rows())
    if as_json:
        answer_json(result.to_dict())
    else:
        _answer_in_words(result)


def _answer_in_words(result: Evaluation) -> None:
    found = result.to_dict()
    if "metrics" in found:
        _answer_metrics(found)
        _answer_worst(result.rows(), list(found["metrics"]))
    if "without_truth" in found:
        _answer_judged(found)
    calls, seconds = found["network_calls"], found["seconds_per_image"]
    answer(f"\n{found['n']} images of {found['source']}; {calls_in_words(calls)} and {seconds:.2g} s an image")
    answer("; ".join(f"{name}: {text}" for name, text in found["conventions"].items()))


def _answer_metrics(found: dict[str, Any]) -> None:
    """Mean and standard deviation of each metric, and what the network gains."""
    table = _table("", *[f"{name} (dB)" if name in IN_DECIBELS else plain(name) for name in found["metrics"]])
    rows = {"reconstruction": found["metrics"], **{NAMES.get(who, who): values for who, values in found["baselines"].items()}}
    for who, values in rows.items():
        table.add_row(who, *[f"{value['mean']:.3f} ± {value['std']:.3f}" for value in values.values()], style="bold" if who == "reconstruction" else "")
    for who, values in found["baselines"].items():
        gains = [found["metrics"][name]["mean"] - value["mean"] for name, value in values.items()]
        table.add_row(f"gain over {NAMES.get(who, who)}", *[f"{gain:+.3f}" for gain in gains])
    answer_table(table)


def _answer_worst(rows: list[dict[str, Any]], metrics: list[str]) -> None:
    if len(rows) > 1:
        worst = [f"{row['image']} ({row[metrics[0]]:.2f})" for row in rows[:WORST]]
        answer(f"\nworst images by {metrics[0]}: {', '.join(worst)}")


def _answer_judged(found: dict[str, Any]) -> None:
    """What measurements alone say, with the confidence interval of each mean, and whether it has been seen to rank networks."""
    from es_cli.without_truth import NAMES as JUDGED

    answer("\nby the measurements alone, without ground truth:")
    table = _table("", "mean", "95% interval", "as far as the benchmarks say it", right=2)
    for name, value in found["without_truth"].items():
        interval = "" if math.isnan(value["low"]) else f"{value['low']:.4g} to {value['high']:.4g}"
        table.add_row(JUDGED[name][0], f"{value['mean']:.4g}", interval, found["trust"][name])
    answer_table(table)
    bar = found["error_bar"]
    if bar is not None:
        one, two = bar["coverage"]
        answer(
            f"error bars ({bar['factor']:.3g} × the spread of the passes, by {bar['source']}; these measurements: {bar['factor_of_these']:.3g}) "
            f"cover {one:.0%} of {bar['entries']} held-out entries within one and {two:.0%} within two (68% and 95% if errors were normal)"
        )


def _table(*columns: str, right: int | None = None) -> Table:
    """A table without lines; columns 1 to `right` are numbers, None: all but the first."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if 0 < number <= (len(columns) if right is None else right) else "left")
    return table


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    from es_cli.data.writers import write_bytes

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
