"""PSNR on test over wall time as one picture: `python benchmarks/figure.py benchmarks/results/time_to_quality.json -o benchmarks/results/psnr_over_time.png`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from quality_table import SETTING
from reaching import curve

# blue against shades of orange and brown: told apart by the colour-blind, and by their markers in grey
OURS, THEIRS, INK = "#0072B2", ("#E69F00", "#D55E00", "#8C4A00", "#CC79A7"), "#444444"
MARKERS = ("s", "^", "D", "v")
DOTS_PER_INCH = 130


def draw(tasks: Mapping[str, Any], path: Path) -> None:
    """One panel for each task: a point for each training of `es` and of the peer at each learning rate, and the adjoint as a line."""
    figure = Figure(figsize=(5.6 * len(tasks), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (name, task) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        _panel(axis, task["runs"])
        axis.set_title(SETTING[name], fontsize=10, color=INK)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _panel(axis: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    ours = sorted((run["wall"], run["psnr"], run["steps"]) for run in runs if run["who"] == "es")
    axis.plot([wall for wall, _, _ in ours], [psnr for _, psnr, _ in ours], color=OURS, marker="o", lw=2, label="es")
    for wall, psnr, steps in ours:
        axis.annotate(f"{steps}", (wall, psnr), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=7, color=OURS)
    for number, lr in enumerate(sorted({run["lr"] for run in runs if run["who"] == "peer"})):
        walls, psnrs = zip(*curve(runs, "peer", lr), strict=True)
        style = {"color": THEIRS[number % len(THEIRS)], "marker": MARKERS[number % len(MARKERS)]}
        axis.plot(walls, psnrs, lw=1.6, ls="--", label=f"deepinv's Trainer, learning rate {lr:g}", **style)
    adjoint = next(run["adjoint"] for run in runs if run["who"] == "es")
    axis.axhline(adjoint, color=INK, lw=1, ls=":", label="adjoint, no network")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="wall time of the whole training, s", ylabel="PSNR on the test images, dB")
    axis.margins(y=0.1)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8, loc="best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    draw(json.loads(args.results.read_text())["tasks"], args.out)


if __name__ == "__main__":
    main()
