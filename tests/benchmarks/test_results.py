"""The README's lines and picture, from results as the scripts write them."""

from __future__ import annotations

import numpy as np
from figure import draw
from matplotlib.colors import to_rgb
from PIL import Image
from reaching import compared
from speed import said
from table import speed, time_to_quality

RUNS = [
    {"who": "es", "date": "2026-01-02", "steps": 10, "wall": 10.0, "psnr": 20.0, "adjoint": 18.0},
    {"who": "es", "date": "2026-01-03", "steps": 40, "wall": 30.0, "psnr": 24.0, "adjoint": 18.0},
    {"who": "peer", "date": "2026-01-02", "steps": 100, "lr": 5e-4, "wall": 80.0, "validation": 40.0, "psnr": 22.0},
    {"who": "peer", "date": "2026-01-02", "steps": 100, "lr": 1e-3, "wall": 80.0, "validation": 40.0, "psnr": 25.0},
]
MADE = {"machine": "abacus, 3 cores", "threads": 3, "versions": {"torch": "9.9"}, "command": "python x.py"}
QUALITY = {**MADE, "tasks": {"mri64": {"runs": RUNS, "compared": compared(RUNS)}}}
RATIO = {"ratio": 1.0312, "low": 0.99, "high": 1.2, "rounds": 4, "seconds": 0.25, "against": 2.5, "at_most": 1.05}
CALLS = {"calls": 8, "against": 200, "at_most": 20}
SIZE = {"seconds": 2.0, "µs per pixel": 17.25, "MiB before": 400, "MiB at most": 900}


def test_a_row_says_when_es_was_as_good_as_the_peer_and_how_good_it_was_by_then():
    lines = "\n".join(time_to_quality(QUALITY))
    assert "| 100 steps, lr 0.0005 | 22.00 dB | 80 s | **24.00 dB** | +2.00 dB | 20 s | **0.25** | 0.50 |" in lines
    assert "| 100 steps, lr 0.001 | 25.00 dB | 80 s | **24.00 dB** | -1.00 dB | not reached | | |" in lines


def test_the_caption_says_when_where_and_by_which_command():
    assert "2026-01-02 to 2026-01-03; abacus, 3 cores, 3 threads; torch 9.9. Made by `python x.py`." in "\n".join(time_to_quality(QUALITY))
    grown = {**QUALITY, "commands": ["python x.py", "python x.py --task mri64"]}
    assert "Made by `python x.py`, `python x.py --task mri64`." in "\n".join(time_to_quality(grown))


def test_ratios_counts_and_sizes_have_a_row_each():
    parts = {"step": {"figures": {"a / b": RATIO}}, "r2r": {"figures": {"calls": CALLS}}, "scaling": {"figures": {"64²": SIZE, "2048²": {"failed": "no memory", "MiB before": 400}}}}
    lines = "\n".join(speed({**MADE, "date": "2026-01-02", "parts": parts}))
    assert "| a / b | **1.03** | 0.99 to 1.2 | 250 ms | 2.5 s |" in lines
    assert "| calls, `es` against deepinv | **0.04** | counted | 8 | 200 |" in lines
    assert "| 64² | 2 s | 17.2 µs | 900 MiB, 400 of them before the image |" in lines
    assert "| 2048² | not made: no memory | | |" in lines


def test_what_is_said_of_a_figure_holds_what_was_wanted():
    assert said("a / b", RATIO) == "a / b: 1.03 (0.99 to 1.2; rounds: 4), wanted ≤ 1.05"
    assert said("calls", CALLS) == "calls: 8 against 200, wanted ≤ 20"
    assert said("64²", {"seconds": 2.0}) == "64²: seconds 2.0"


def test_the_picture_has_a_panel_for_each_task_and_a_colour_for_each_curve(tmp_path):
    draw(QUALITY["tasks"], tmp_path / "one.png")
    draw({**QUALITY["tasks"], "inpainting64": QUALITY["tasks"]["mri64"]}, tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name).convert("RGB") for name in ("one.png", "two.png"))
    assert two.width > 1.9 * one.width
    pixels = np.asarray(one, float).reshape(-1, 3) / 255
    for colour in ("#0072B2", "#E69F00", "#D55E00"):
        assert (np.abs(pixels - to_rgb(colour)).max(1) < 0.01).any()
