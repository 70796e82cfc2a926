"""Arrays and rows of metrics → pictures that lie inside the page: PNG as data URIs, curves as SVG."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from es_cli.figures import as_picture, white_of
from es_cli.report.runs import Run

INK = "#010203"  # stands for the colour of the page's text, which is not known before the page is shown
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # of Okabe and Ito: told apart by the colour-blind too
DASHES = ("solid", "dashed", "dotted", "dashdot")
CURVES = {"validation_loss": "held-out loss", "loss": "training loss", "validation_psnr": "PSNR on validation images (dB)"}


def data_uris(images: Mapping[str, np.ndarray], window: str, own: Collection[str] = ()) -> dict[str, str]:
    """Images (C, …, H, W) of one sample as PNGs in data URIs, in one grey window: 0 to the 99.5th percentile of the image called `window`.

    Negative values are shown by their size. Those in `own` have a window of their own.
    """
    shown = {title: np.abs(as_picture(image)) for title, image in images.items()}
    white = white_of(shown[window])
    return {title: _data_uri(image / (white_of(image) if title in own else white)) for title, image in shown.items()}


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)).save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def curves(runs: Sequence[Run]) -> dict[str, str]:
    """What was measured while each run trained, over its steps, as SVG by title; what no run knows is left out."""
    made = {}
    for column, title in CURVES.items():
        lines = {run.label: _points(run.rows, column) for run in runs}
        if any(lines.values()):
            made[title] = _chart(lines, title)
    return made


def _points(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[int, float]]:
    known = [(row["step"], row.get(column)) for row in rows]
    return [(step, float(value)) for step, value in known if isinstance(value, (int, float)) and math.isfinite(value)]


def _chart(lines: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axis = figure.subplots()
        for number, (label, points) in enumerate(lines.items()):
            if points:
                axis.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], ls=DASHES[number % len(DASHES)], lw=1.6, marker=".", ms=4, label=label)
        values = [value for points in lines.values() for _, value in points]
        if "loss" in title and min(values) > 0:
            axis.set_yscale("log")
        axis.set_xlabel("step", color=INK)
        axis.set_ylabel(title, color=INK)
        axis.tick_params(colors=INK, which="both")
        axis.grid(alpha=0.25, color=INK)
        for spine in axis.spines.values():
            spine.set_color(INK)
        if len(lines) > 1:
            axis.legend(fontsize=8, framealpha=0, labelcolor=INK)
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    return _own_ids(svg[svg.index("<svg") :].replace(INK, "currentColor"), title)


def _own_ids(svg: str, title: str) -> str:
    """The same with ids that no other picture of the page has."""
    mark = re.sub(r"\W+", "-", title)
    return re.sub(r'(\bid="|href="#|url\(#)', lambda found: found[1] + mark + "-", svg)
