"""Pictures of a run: what was reconstructed, and how training went. PNG files, through matplotlib without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.writers import write_bytes

TRUTH = "ground truth"
MARK = {"Software": "es"}  # in every picture, so that it is known for one that may be replaced
INK, HELD_OUT, BEST, INFORMS = "#333333", "#1f77b4", "#d62728", "#2ca02c"
DOTS_PER_INCH = 110
MOST_ROWS = 8
VISIBLE = 0.01  # of what is seen best, from which on a place counts as seen
BRIGHTEST = 99.5  # percentile of the last panel that is shown white


def preview(path: Path, panels: Mapping[str, np.ndarray]) -> None:
    """One row for each sample, one column for each title; arrays (n, C, H, W), two channels being a complex image shown by magnitude.

    A row has one grey window, 0 to the 99.5th percentile of its last panel. Where a panel is called "ground truth", the others say their
    PSNR (dB, dynamic range 1, as `es evaluate`). Raises OutputError.
    """
    shown = {title: [as_picture(image) for image in images] for title, images in panels.items()}
    rows, columns = min(len(images) for images in shown.values()), len(shown)
    figure = _figure(2.3 * columns, 2.45 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        white = white_of(list(shown.values())[-1][row])
        for column, (title, images) in enumerate(shown.items()):
            axis = axes[row][column]
            axis.imshow(np.clip(images[row] / white, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=10, color=INK)
            if TRUTH in shown and title != TRUTH:
                axis.set_xlabel(f"{_psnr(images[row], shown[TRUTH][row]):.1f} dB", fontsize=9, color=INK)
    _save(figure, path)


def parts(path: Path, images: Mapping[str, np.ndarray], error_bar: np.ndarray | None = None) -> None:
    """One row for each sample: the image and the parts that it is the sum of, by title, arrays (n, C, H, W), in one grey window from 0, signs left out.

    The first is the whole. Below each is its share of the whole's energy. `error_bar` is shown from 0 to its 99.5th percentile, which is
    written below it; None: not at all. Raises OutputError.
    """
    rows, columns = min(MOST_ROWS, len(next(iter(images.values())))), len(images) + (error_bar is not None)
    figure = _figure(2.3 * columns, 2.45 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        shown = {title: np.abs(as_picture(array[row])) for title, array in images.items()}
        whole = next(iter(shown.values()))
        for column, (title, image) in enumerate(shown.items()):
            share = float((image**2).sum() / max(float((whole**2).sum()), np.finfo(np.float32).tiny))
            _panel(axes[row][column], image / white_of(whole), title if row == 0 else "", f"{share:.0%} of the energy")
        if error_bar is not None:
            bar = _size(error_bar[row])
            _panel(axes[row][-1], bar / white_of(bar), "error bar" if row == 0 else "", f"white: {white_of(bar):.2g}", "inferno")
    _save(figure, path)


def _panel(axis: Any, image: np.ndarray, title: str, below: str, colours: str = "gray") -> None:
    axis.imshow(np.clip(image, 0, 1), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=10, color=INK)
    axis.set_xlabel(below, fontsize=9, color=INK)


def progress(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss in training and held-out loss over the steps, from the rows of metrics.jsonl, the best one marked; PSNR below, where it is known.

    Raises OutputError.
    """
    known = [(row["step"], row["validation_psnr"]) for row in rows if row.get("validation_psnr") is not None]
    figure = _figure(7, 5.2 if known else 3.6)
    axes = figure.subplots(2 if known else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if known else [1])[:, 0]
    _losses(axes[0], rows)
    if known:
        axes[1].plot(*zip(*known, strict=True), color=INFORMS, lw=1.2, marker=".")
        axes[1].set_ylabel("PSNR in dB\n(informs only)")
        axes[1].grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    _save(figure, path)


def maps(path: Path, panels: Mapping[str, np.ndarray], where: str) -> None:
    """How well each place is seen, from 0 to 1, by title: pictures (H, W) in one colour scale, or profiles (n,) over 180° as lines in one plot.

    `where` says what places are: "pixels", "k-space" or "angles". Raises OutputError.
    """
    if all(values.ndim == 1 for values in panels.values()):
        _save(_profiles(panels), path)
        return
    figure = _figure(3.2 * len(panels) + 0.9, 3.5)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        drawn = axis.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=where)
        axis.set_title(f"{title}: {100 * float(np.mean(values >= VISIBLE)):.0f} % is seen", fontsize=10, color=INK)
    figure.colorbar(drawn, ax=list(axes), shrink=0.85, label="how well it is seen")
    _save(figure, path)


def _profiles(panels: Mapping[str, np.ndarray]) -> Any:
    figure = _figure(7, 3.2)
    axis = figure.subplots()
    for (title, values), colour in zip(panels.items(), (INK, HELD_OUT, BEST), strict=False):
        degrees = np.arange(len(values)) * 180 / len(values)
        axis.plot(degrees, values, color=colour, lw=1.3, label=title)
        axis.fill_between(degrees, values, color=colour, alpha=0.15)
    axis.set(xlim=(0, 180), ylim=(0, None), xticks=range(0, 181, 30), xlabel="direction in the Fourier plane, in degrees", ylabel="how well it is seen")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper right")
    return figure


def is_ours(path: Path) -> bool:
    """Whether a file is a picture that was drawn here, and may be replaced by another one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.format == "PNG" and image.info.get("Software") == MARK["Software"]
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False


def _losses(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    steps = [row["step"] for row in rows]
    train, held_out = [row["loss"] for row in rows], [row["validation_loss"] for row in rows]
    axis.plot(steps, train, color=INK, lw=1, label="training loss")
    axis.plot(steps, held_out, color=HELD_OUT, lw=1.5, marker=".", label="held-out loss")
    finite = [(value, step) for value, step in zip(held_out, steps, strict=True) if value is not None and math.isfinite(value)]
    if finite:
        value, step = min(finite)
        axis.plot([step], [value], "o", color=BEST, label=f"best: {value:.3g} at step {step}")
    # losses that estimate an error without ground truth can be negative
    if rows and min([*train, *held_out]) > 0:
        axis.set_yscale("log")
    if rows:
        axis.legend(fontsize=8, loc="upper right")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3, which="both")


def _figure(width: float, height: float) -> Any:
    # the object-oriented interface: pyplot would look for a screen and keep figures alive
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata=MARK)
    write_bytes(path, content.getvalue())


def as_picture(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) as matplotlib takes it: (H, W), or (H, W, 3) for colour; what is not finite is 0. Of a volume, the middle slice."""
    image = np.nan_to_num(np.asarray(image, np.float32), nan=0, posinf=0, neginf=0)
    image = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    if image.shape[0] == 2:
        return np.asarray(np.hypot(image[0], image[1]))
    return image.transpose(1, 2, 0) if image.shape[0] == 3 else image[0]


def _size(image: np.ndarray) -> np.ndarray:
    """One number for each pixel of an image (C, …, H, W): the root of the sum of squares over its channels; of a volume, the middle slice."""
    size = np.sqrt((np.asarray(image, np.float32) ** 2).sum(0))
    return np.asarray(size[len(size) // 2] if size.ndim == 3 else size)


def white_of(image: np.ndarray) -> float:
    value = float(np.percentile(image, BRIGHTEST))
    return value if value > 0 else 1.0


def _psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = float(np.mean((image - truth) ** 2))
    return -10 * math.log10(error) if error else math.inf
