"""Pictures of a run: what was reconstructed, and how training went. PNG files, through matplotlib without a screen."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.writers import write_bytes

INK, VALIDATION, BEST = "#333333", "#1f77b4", "#d62728"


def preview(path: Path, panels: Mapping[str, np.ndarray]) -> None:
    """One row for each sample, one column for each title; arrays (n, C, H, W), two channels being a complex image shown by magnitude.

    A row shares its grey window, 0 to the 99.5th percentile of its last panel. Where a panel is called "ground truth", the others say their
    PSNR (dB, dynamic range 1). Raises OutputError.
    """
    shown = {title: _shown(images) for title, images in panels.items()}
    rows, columns = len(next(iter(shown.values()))), len(shown)
    figure = _figure(2.3 * columns, 2.45 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False)
    truth = shown.get("ground truth")
    for row in range(rows):
        top = float(np.percentile(list(shown.values())[-1][row], 99.5)) or 1.0
        for column, (title, images) in enumerate(shown.items()):
            axis = axes[row][column]
            image = np.clip(images[row] / top, 0, 1) if images[row].ndim == 3 else images[row]
            axis.imshow(image, cmap="gray", vmin=0, vmax=top if images[row].ndim == 2 else None, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=10, color=INK)
            if truth is not None and title != "ground truth":
                axis.set_xlabel(f"{_psnr(images[row], truth[row]):.1f} dB", fontsize=9, color=INK)
    _save(figure, path)


def progress(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss in training and held-out loss over the steps, from the rows of metrics.jsonl; the best one is marked. Raises OutputError."""
    figure = _figure(7, 3.6)
    axis = figure.subplots()
    steps = [row["step"] for row in rows]
    axis.plot(steps, [row["loss"] for row in rows], color=INK, lw=1, label="training loss")
    held = [row["validation_loss"] for row in rows]
    axis.plot(steps, held, color=VALIDATION, lw=1.5, marker=".", label="held-out loss")
    if held:
        best = int(np.argmin(held))
        axis.plot(steps[best], held[best], "o", color=BEST, label=f"best: {held[best]:.3g} at step {steps[best]}")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.grid(alpha=0.3, which="both")
    known = [(row["step"], row["validation_psnr"]) for row in rows if row.get("validation_psnr") is not None]
    if known:
        other = axis.twinx()
        other.plot(*zip(*known, strict=True), color="#2ca02c", lw=1, ls="--", label="PSNR of validation (informs only)")
        other.set_ylabel("dB")
        other.legend(fontsize=8, loc="lower left")
    axis.legend(fontsize=8, loc="upper right")
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    # the object-oriented interface: pyplot would look for a screen and keep figures alive
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_bytes(path, content.getvalue())


def _shown(images: np.ndarray) -> list[np.ndarray]:
    """Images (C, H, W) as matplotlib takes them: (H, W), or (H, W, 3) for colour."""
    shown = []
    for image in images:
        if image.shape[0] == 2:
            shown.append(np.hypot(image[0], image[1]))
        else:
            shown.append(image.transpose(1, 2, 0) if image.shape[0] == 3 else image[0])
    return shown


def _psnr(image: np.ndarray, truth: np.ndarray) -> float:
    error = float(np.mean((image - truth) ** 2))
    return -10 * math.log10(error) if error else math.inf
