"""What measurements alone say of reconstructions: numbers for each image, and how far they are to be trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from es_cli.errors import UsageError
from es_cli.judging.calibration import Calibration, calibrate, coverage
from es_cli.judging.held_out import HeldOut, predict, splits_for_judging, trained_on_splits
from es_cli.judging.images import change, equivariance, sharpness
from es_cli.judging.residual import residual
from es_cli.judging.total_variation import least_variation, weight_for
from es_cli.reconstruct import Reconstructor
from es_cli.streams import stream_seed

BATCH = 8
CALIBRATED_ON = 64  # samples at most: an error bar is one number, and what it is found on is held in memory
RESAMPLES, INTERVAL = 2000, 0.95
TRUSTED = 0.8  # rank correlation with PSNR, of either sign, on every task that was measured

# what each number is, in words, and the sign that a better image has: + more, − less, 0 neither; the order is that of the answer
NAMES = {
    "held_out_nrmse": ("held-out prediction error, relative", -1),
    "held_out_mse": ("held-out prediction error, mean square", -1),
    "consistency": ("residual, relative", 0),
    "residual_mean": ("residual, mean", 0),
    "residual_std": ("residual, standard deviation", 0),
    "residual_over_noise": ("residual over noise", 0),
    "residual_correlation": ("residual, correlation of neighbours", 0),
    "residual_lines": ("residual, spread of k-space lines over white noise's", 0),
    "equivariance_db": ("equivariance of the network (EQUIV), dB", 1),
    "equivariance_relative_db": ("equivariance of the network, relative, dB", 1),
    "change_from_adjoint": ("change from the adjoint, relative", 0),
    "change_from_pseudoinverse": ("change from the pseudo-inverse, relative", 0),
    "change_from_variation": ("change from least total variation, relative", 0),
    "BlurStrength": ("blur (BlurStrength)", -1),
    "SharpnessIndex": ("sharpness (SharpnessIndex)", 1),
}


def judgeable(model: Reconstructor) -> bool:
    """Whether anything can be said without ground truth: of images by linear operators."""
    return isinstance(model.made.operator.physics, LinearPhysics)


class Judge:
    """Takes images with their measurements, batch by batch, and says what can be said without ground truth.

    `variation` also compares with the image of least total variation, which is slow. Raises UsageError where nothing can be judged.
    """

    def __init__(self, model: Reconstructor, variation: bool = False) -> None:
        if not judgeable(model):
            raise UsageError(f"{model.made.operator.part.name} is not linear, and nothing can be judged without ground truth", hint="give --images")
        self.model, self.variation = model, variation
        self.splitter = splits_for_judging(model.spec, model.made, model.device)
        self._held: list[HeldOut] = []
        self._weight: float | None = None

    def values(
        self, y: np.ndarray, params: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], keys: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The numbers of each image, by the names of NAMES, (n,) each, NaN where there is none, of measurements y (n, …) of one shape.

        `images` are the reconstruction, the adjoint and the pseudoinverse (n, C, …), `keys` the number of each sample, which its draws follow from.
        """
        parts = []
        for start in range(0, len(y), BATCH):
            rows = slice(start, start + BATCH)
            own = {name: torch.from_numpy(value if len(value) == 1 else value[rows]).to(self.model.device) for name, value in params.items()}
            batch = {name: torch.from_numpy(array[rows]).to(self.model.device) for name, array in images.items()}
            found = self._of_batch(torch.from_numpy(y[rows]).to(self.model.device), own, batch, list(keys[rows]))
            parts.append({name: value.float().cpu().numpy() for name, value in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}

    @torch.no_grad()
    def _of_batch(self, y: Tensor, params: dict[str, Tensor], images: dict[str, Tensor], keys: list[int]) -> dict[str, Tensor]:
        made, x = self.model.made, images["reconstruction"]
        physics = made.physics_of(y, params)
        nothing = torch.full((len(y),), math.nan)
        found = {"held_out_nrmse": nothing, "held_out_mse": nothing, "change_from_variation": nothing}
        if self.splitter is not None:
            held = predict(made, self.splitter, y, params, keys)
            error = held.error.flatten(1).square().sum(1)
            found["held_out_mse"] = error / held.rest.flatten(1).sum(1)
            found["held_out_nrmse"] = (error / (held.rest * y).flatten(1).square().sum(1)).sqrt()
            if sum(len(part.y) for part in self._held) < CALIBRATED_ON:
                self._held.append(held)
        found |= residual(made, physics, x, y) | equivariance(made, y, params) | sharpness(x, made.operator.image.pair)
        found |= {f"change_from_{name}": change(x, images[name]) for name in ("adjoint", "pseudoinverse")}
        if self.variation and self.splitter is not None:
            self._weight = weight_for(physics, y, self.splitter) if self._weight is None else self._weight
            found["change_from_variation"] = change(x, least_variation(physics, y, self._weight))
        return found

    def error_bar(self) -> dict[str, Any] | None:
        """Coverage of the error bars on what was held out of these measurements, with the checkpoint's factor or else their own; None: there are none."""
        if not self._held or self.model.network_calls < 2 or not trained_on_splits(self.model.spec):
            return None
        own, kept = calibrate(self._held), self.model.calibration
        if own is None:
            return None
        used = own if kept is None else Calibration(kept.factor, own.entries, coverage(self._held, kept.factor))
        return {**used.to_dict(), "factor_of_these": own.factor, "source": "these measurements" if kept is None else "the checkpoint"}


def summary(values: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """Mean and the ends of its 95 % confidence interval of each of the numbers that there are, over the images that have it.

    The interval is the bootstrap's over images, by percentiles, NaN for one image. Source: Efron, The jackknife, the bootstrap, 1982.
    """
    found = {}
    for name, of_name in values.items():
        known = of_name[np.isfinite(of_name)].astype(np.float64)
        if len(known):
            rng = np.random.default_rng(stream_seed(seed, "bootstrap"))
            means = known[rng.integers(0, len(known), (RESAMPLES, len(known)))].mean(1)
            low, high = np.quantile(means, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]) if len(known) > 1 else (math.nan, math.nan)
            found[name] = {"mean": float(known.mean()), "low": float(low), "high": float(high)}
    return found


@cache
def ranking() -> dict[str, dict[str, float]]:
    """How each number ranks networks: the rank correlation of its mean with PSNR, by task, as `benchmarks/ranking.py` measured it."""
    return json.loads((files("es_cli.judging") / "ranking.json").read_text(encoding="utf-8"))["correlation"]


def trust(name: str) -> str:
    """What the benchmarks support of a number, in words."""
    measured = ranking().get(name, {})
    if not measured:
        return "not measured"
    said = ", ".join(f"{value:+.2f} on {task}" for task, value in measured.items())
    wanted = NAMES[name][1]
    agrees = all(abs(value) >= TRUSTED and (not wanted or value * wanted > 0) for value in measured.values())
    one_sign = len({value > 0 for value in measured.values()}) == 1
    return f"{'ranks networks' if agrees and one_sign else 'does not rank networks'} ({said})"
