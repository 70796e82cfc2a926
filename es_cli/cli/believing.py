"""Options of `es reconstruct` for what goes beside an image, so that somebody can decide whether to believe it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Uncertainty = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write the standard deviation of each pixel over the passes of the test rule, at no further network call, calibrated on held-out "
        "measurements. Real, of the image's shape. A folder (DIR/) takes one for each image.",
        show_default=False,
    ),
]

PartsFolder = Annotated[
    Path | None,
    typer.Option(
        "--parts",
        metavar="DIR",
        help="Also write what the measurements tell of the image, measured.npy, what they cannot, invented.npy (their sum is the image), and parts.png. "
        "With several inputs DIR holds a folder for each.",
        show_default=False,
    ),
]
Consistent = Annotated[
    bool,
    typer.Option("--consistent", help="Move the image to the nearest one that agrees with the measurements to the level of their noise, which the checkpoint's operator says."),
]
