"""Whether measurements are like those that the network was trained on: its checkpoint says what those were, in a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from es_cli.errors import DataError
from es_cli.inspecting.typical import numbers_of, residuals
from es_cli.training.runtime import full_float32

if TYPE_CHECKING:
    from es_cli.reconstruct import Reconstructor

LOOKED_AT = 8  # samples of an input, at most
# below the least or above the greatest in training by such a factor is unlike it: wrong units are off by more, and the few samples of a small training
# do not tell how far others may lie
FACTORS = {"scale": 4.0, "noise": 2.0, "measured": 1.3, "residual": 3.0}
ABSOLUTE = ("scale", "lowest", "highest")  # which `data.scale: per-sample` takes away
WORDS = {
    "scale": "99 % of it is below", "lowest": "its least value is", "highest": "its greatest value is", "measured": "the share measured is",
    "noise": "its noise, in units of its scale, is at most", "residual": "the image leaves of it, unexplained,",
}  # fmt: skip
STRICT = "train on measurements like these; or leave --strict out"


@dataclass(frozen=True)
class Guard:
    """Compares with `typical`, the least, median and greatest of each number over the training samples; empty: with nothing."""

    typical: Mapping[str, Sequence[float]]
    pair: bool
    scaled: bool

    @classmethod
    def of(cls, model: Reconstructor) -> Guard:
        typical = model.metadata.measurement.get("typical", {})
        return cls(typical, bool(typical) and model.made.operator.measurement.pair, bool(typical) and model.made.scaling.mode == "per-sample")

    def measured(self, samples: np.ndarray) -> list[str]:
        """What of measurements as the operator takes them, (n, …), is unlike training, in words."""
        return self._unlike([numbers_of(y, self.pair) for y in _few(samples)]) if self.typical else []

    def explained(self, model: Reconstructor, samples: np.ndarray, images: np.ndarray, params: Mapping[str, np.ndarray]) -> list[str]:
        """The same of how well images (n, C, …) explain their measurements (n, …)."""
        if "residual" not in self.typical:
            return []
        y, x = _few(samples), _few(images)
        own = {name: torch.from_numpy(value if len(value) == 1 else _few(value)).to(model.device) for name, value in params.items()}
        with torch.no_grad(), full_float32(model.device):
            measured = torch.from_numpy(y).to(model.device)
            predicted = model.made.physics_of(measured, own).A(torch.from_numpy(x).to(model.device)).cpu().numpy()
        return self._unlike([{"residual": one} for one in residuals(predicted, y)])

    def _unlike(self, samples: Sequence[Mapping[str, float]]) -> list[str]:
        told = []
        for name, (least, _, greatest) in self.typical.items():
            values = [numbers[name] for numbers in samples if name in numbers]
            if name not in WORDS or not values or (self.scaled and name in ABSOLUTE):
                continue
            low, high = _bounds(name, least, greatest, self.typical)
            worst = max(values, key=lambda value: max(value - high, low - value))
            if not low <= worst <= high:
                told.append(f"{WORDS[name]} {worst:.3g}, and in training it was {_span(least, greatest)}")
        return told


def look(told: Sequence[str], where: str, strict: bool, tell: Callable[[str], None]) -> None:
    """Tell what is unlike training, on one line; raises DataError instead where that is `strict`."""
    if told and strict:
        raise DataError(f"unlike the measurements of training: {'; '.join(told)}", where=where, hint=STRICT)
    if told:
        tell(f"{where} is unlike the measurements of training: {'; '.join(told)}")


def _few(samples: np.ndarray) -> np.ndarray:
    """Some samples, evenly spread."""
    return samples if len(samples) <= LOOKED_AT else samples[np.linspace(0, len(samples) - 1, LOOKED_AT).round().astype(int)]


def _bounds(name: str, least: float, greatest: float, typical: Mapping[str, Any]) -> tuple[float, float]:
    if name in ("lowest", "highest"):
        # half of the range of the values may be missing, or be there once more
        span = typical["highest"][2] - (typical["lowest"][0] if "lowest" in typical else 0.0)
        return least - span / 2 if name == "highest" else least - span, greatest + span if name == "highest" else greatest + span / 2
    # an image may explain its measurements as well as it likes
    return 0.0 if name == "residual" else least / FACTORS[name], greatest * FACTORS[name]


def _span(least: float, greatest: float) -> str:
    return f"{least:.3g}" if least == greatest else f"{least:.3g} to {greatest:.3g}"
