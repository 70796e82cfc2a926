"""An image and what to believe of it: its error bar, its measured and its invented part, its agreement with the measurements.

Usable from Python without the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from es_cli import figures
from es_cli.data.layout import Form, Layout
from es_cli.errors import UsageError
from es_cli.judging.agreement import consistent, measured_part
from es_cli.judging.calibration import Calibration, calibrate
from es_cli.judging.held_out import predict, splits_for_judging, trained_on_splits
from es_cli.reconstruct import Reconstructor
from es_cli.splitting.averaging import images_at_once

FROM_TRAINING, FROM_INPUT, NOT_CALIBRATED = "validation measurements", "this input's own held-out entries", "nothing"


@dataclass(frozen=True)
class ErrorBar:
    """The standard deviation of each pixel, real, of the shape of the image: √(σ_re² + σ_im²) where the image is complex.

    `calibration` is what it was made as large as the error by, None: it is the bare spread of the passes; `source` says on what that was found.
    """

    values: np.ndarray
    calibration: Calibration | None
    source: str

    @property
    def in_words(self) -> str:
        """What the numbers stand on."""
        if self.calibration is None:
            return "the bare spread of the passes, not calibrated: read where it is large, not how large it is"
        one, two = self.calibration.coverage
        return (
            f"{self.calibration.factor:.3g} × the spread of the passes, found on {self.source}: {one:.0%} of {self.calibration.entries} held-out "
            f"entries within one error bar and {two:.0%} within two (68% and 95% if errors were normal)"
        )


@dataclass(frozen=True)
class Parts:
    """Two images whose sum is the reconstruction, in its form: A†Ax̂, which the measurements tell, and (I − A†A)x̂, which they cannot."""

    measured: np.ndarray
    invented: np.ndarray


@dataclass(frozen=True)
class Examined:
    """An image as `Reconstructor.reconstruct` gives it, and what was asked for beside it, else None.

    `panels` are image, parts and, where it was asked for, error bar with channels, (n, C, …), by what they are.
    """

    image: np.ndarray
    error_bar: ErrorBar | None
    parts: Parts | None
    panels: dict[str, np.ndarray]

    def draw_parts(self, path: str | Path) -> None:
        """One picture of the image, its parts and its error bar, a PNG. Raises OutputError."""
        titles = {"image": "reconstruction", "measured": "measured A†Ax̂", "invented": "invented (I − A†A)x̂"}
        figures.parts(Path(path), {title: self.panels[name] for name, title in titles.items()}, self.panels.get("error_bar"))


def examine(
    model: Reconstructor,
    y: np.ndarray,
    where: str = "input",
    params: Mapping[str, np.ndarray | str] | None = None,
    *,
    error_bar: bool = False,
    parts: bool = False,
    agree: bool = False,
) -> Examined:
    """Images from one measurement or a batch, as `model.reconstruct` makes them, and what to believe of them.

    `error_bar`: the standard deviation of each pixel over the passes of the test rule, which costs no further network call, times the factor that
    the checkpoint keeps from its validation measurements. Where it keeps none for this rule and the network was trained on splits, the factor
    is found on the input's own held-out entries, by as many calls again; the formula is that of `judging.calibration`.
    `agree`: the image is moved to the nearest one that agrees with the measurements to the noise level, before all else; its error bar stays that of
    the image that was moved. `parts`: the image as a sum of what was measured and what was invented.
    Raises what `model.reconstruct` raises, and UsageError where one network call makes an image and there is no spread, for parts of an image that
    was measured by an operator that is not linear, and where the noise that an image is to agree to is not known.
    """
    samples, form = model.samples(y, where)
    own = model.fit(params or {}, samples)
    layout = model.made.operator.image
    panels: dict[str, np.ndarray] = {}
    found = None
    if error_bar:
        panels["image"], spread = _with_spread(model, samples, own)
        calibration, source = _calibration(model, samples, own)
        panels["error_bar"] = (1.0 if calibration is None else calibration.factor) * spread
        found = ErrorBar(restore_real(layout, panels["error_bar"], form), calibration, source)
    else:
        panels["image"] = model.images(samples, params=own)
    if agree:
        panels["image"] = _operated(model, samples, own, panels["image"], lambda physics, x, y: consistent(model.made, physics, x, y), "--consistent")
    if parts:
        panels["measured"] = _operated(model, samples, own, panels["image"], lambda physics, x, y: measured_part(physics, x), "--parts")
        panels["invented"] = panels["image"] - panels["measured"]
    split = Parts(layout.restore(panels["measured"], form), layout.restore(panels["invented"], form)) if parts else None
    return Examined(layout.restore(panels["image"], form), found, split, panels)


def _with_spread(model: Reconstructor, samples: np.ndarray, params: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if model.network_calls < 2:
        hint = "give --test-rule full, or splits=5,group=full"
        raise UsageError("one network call makes an image here, and has no spread", where="--uncertainty", hint=hint)
    return model.with_spread(samples, params)


def _operated(
    model: Reconstructor, samples: np.ndarray, params: Mapping[str, np.ndarray], images: np.ndarray, work: Callable[[Any, Tensor, Tensor], Tensor], asked: str
) -> np.ndarray:
    """What `work` makes of the operator, the images (n, C, …) and their measurements (n, …), batch by batch."""
    if not isinstance(model.made.operator.physics, LinearPhysics):
        raise UsageError(f"{model.made.operator.part.name} is not linear", where=asked, hint=f"leave {asked} out")
    done = 0

    def make(y: Tensor, own: dict[str, Tensor]) -> Tensor:
        nonlocal done
        x = torch.from_numpy(images[done : done + len(y)]).to(y.device)
        done += len(y)
        return work(model.made.physics_of(y, own), x, y)

    return model.each_batch(samples, params, make, images_at_once(images.shape[1:], 8))


def restore_real(layout: Layout, deviations: np.ndarray, form: Form) -> np.ndarray:
    """Standard deviations (n, C, …) in the form of the images they belong to, but real: the two channels of a complex image become one."""
    if not (form.is_complex and layout.pair):
        return layout.restore(deviations, form)
    size = np.sqrt((deviations**2).sum(1))
    return size if form.batched else size[0]


def _calibration(model: Reconstructor, samples: np.ndarray, params: Mapping[str, np.ndarray]) -> tuple[Calibration | None, str]:
    kept = model.calibration
    if kept is not None:
        return kept, FROM_TRAINING
    splitter = splits_for_judging(model.spec, model.made, model.device)
    if splitter is None or not trained_on_splits(model.spec):
        return None, NOT_CALIBRATED
    parts = []

    def held_back(y: Tensor, own: dict[str, Tensor]) -> Tensor:
        parts.append(predict(model.made, splitter, y, own, range(len(y))))
        return y

    model.each_batch(samples, params, held_back, images_at_once(model.made.operator.image.fitted(samples.shape[1:]).shape, 8))
    found = calibrate(parts)
    return found, NOT_CALIBRATED if found is None else FROM_INPUT
