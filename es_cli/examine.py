"""An image and what to believe of it: its error bar, its measured and its invented part, its agreement with the measurements.

Usable from Python without the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from es_cli.data.layout import Form, Layout
from es_cli.errors import UsageError
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
class Examined:
    """An image as `Reconstructor.reconstruct` gives it, and what was asked for beside it, else None."""

    image: np.ndarray
    error_bar: ErrorBar | None = None


def examine(
    model: Reconstructor,
    y: np.ndarray,
    where: str = "input",
    params: Mapping[str, np.ndarray | str] | None = None,
    *,
    error_bar: bool = False,
) -> Examined:
    """Images from one measurement or a batch, as `model.reconstruct` makes them, and what to believe of them.

    `error_bar`: the standard deviation of each pixel over the passes of the test rule, which costs no further network call, times the factor that
    the checkpoint keeps from its validation measurements. Where it keeps none for this rule and the network was trained on splits, the factor
    is found on the input's own held-out entries, by as many calls again; the formula is that of `judging.calibration`.
    Raises what `model.reconstruct` raises, and UsageError where one network call makes an image and there is no spread.
    """
    samples, form = model.samples(y, where)
    own = model.fit(params or {}, samples)
    image = model.made.operator.image
    if not error_bar:
        return Examined(image.restore(model.images(samples, params=own), form))
    if model.network_calls < 2:
        raise UsageError(
            "one network call makes an image here, and has no spread", where="--uncertainty", hint="give --test-rule full, or splits=5,group=full"
        )
    made, spread = model.with_spread(samples, own)
    calibration, source = _calibration(model, samples, own)
    factor = 1.0 if calibration is None else calibration.factor
    return Examined(image.restore(made, form), ErrorBar(restore_real(image, factor * spread, form), calibration, source))


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
