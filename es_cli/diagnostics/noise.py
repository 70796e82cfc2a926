"""The fifth section of `es check`: the noise that the data show against what the spec says, and whether a loss would fit it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.loss import MCLoss
from deepinv.physics import (
    MRI,
    DynamicMRI,
    GammaNoise,
    GaussianNoise,
    MultiCoilMRI,
    NonCartesianMRI,
    PoissonGaussianNoise,
    PoissonNoise,
    SinglePixelCamera,
    Tomography,
    ZeroNoise,
)
from torch import Tensor

from es_cli.catalog import LEVELS
from es_cli.diagnostics.context import last_operator
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.diagnostics.noise_level import Domain, NoiseLevel, noise_level
from es_cli.diagnostics.operator import looked_at
from es_cli.experiment import SCALES, Experiment
from es_cli.splitting.consistency import Measured, Recorrupted, Stein
from es_cli.splitting.library_loss import LibraryLoss
from es_cli.splitting.masks import sampling_mask
from es_cli.splitting.noise import level, noise_of_one, with_buffers
from es_cli.splitting.objective import Equivariant, EquivariantSplitting, Objective

SECTION = "noise"
NEGLIGIBLE = 1e-3  # of the energy of the measurements (30 dB): fitting so little noise costs less than anything else here
CLEAR = 2e-3  # likewise, of noise that the spec does not know: texture at the limit of the resolution looks the same
TOLERANCE = 0.15  # by which an assumed level may lie outside of what the data show
AWARE = {GaussianNoise: "R2RLoss", PoissonNoise: "R2RLoss", GammaNoise: "R2RLoss", PoissonGaussianNoise: "SurePGLoss"}


@dataclass(frozen=True)
class Comparison:
    """The noise of the data: its level over the assumed one, or in units of y where none is assumed (None: it cannot be seen), and the share of
    the energy of the measurements that the assumed noise makes up, and that the least noise which the data show does (None likewise)."""

    found: NoiseLevel | None
    assumed_share: float
    least_share: float | None


def assumed_variance(noise: Any, u: Tensor) -> Tensor | None:
    """The variance of a noise model of deepinv for the noiseless measurement u (B, …), broadcastable to it; None for a model without a number.

    Levels are of all samples or of each. No noise has the variance 0.
    """
    if isinstance(noise, ZeroNoise):
        return torch.zeros((), device=u.device)
    if isinstance(noise, GaussianNoise):
        return level(noise.sigma, u) ** 2
    if isinstance(noise, PoissonNoise):
        # counts that are not multiplied by the gain have their mean for their variance
        return u.clamp(min=0) * (level(noise.gain, u) if bool(noise.normalize) else 1.0)
    if isinstance(noise, PoissonGaussianNoise):
        return u.clamp(min=0) * level(noise.gain, u) + level(noise.sigma, u) ** 2
    return u**2 / level(noise.l, u) if isinstance(noise, GammaNoise) else None


def domain_of(physics: Any, y: Tensor) -> tuple[Domain | None, int]:
    """Where noise can be told from signal in measurements y (B, …) of `physics`, and how many axes k-space has; None: nowhere, as in random sums."""
    last = last_operator(physics)
    if y.ndim < 4 or isinstance(last, (SinglePixelCamera, NonCartesianMRI)):
        return None, 0
    if isinstance(last, (MRI, MultiCoilMRI)):
        return "k-space", 3 if last.three_d and not isinstance(last, DynamicMRI) else 2
    return ("sinogram" if isinstance(last, Tomography) else "image"), 2


def compare(y: Tensor, physics: Any, noise: Any) -> Comparison:
    """Measurements y (B, …) of `physics` against a noise model, all in the units of y."""
    mask, (domain, spatial) = sampling_mask(physics), domain_of(physics, y)
    measured = torch.ones_like(y) if mask is None else (mask > 0).to(y.dtype).expand(y.shape)
    energy = float((measured * y**2).sum()) or 1.0
    expected = assumed_variance(noise, y)
    share = 0.0 if expected is None else float((measured * expected).sum()) / energy
    told = expected is not None and share > 0

    def variance(i: int, u: Tensor) -> Tensor:
        own = assumed_variance(noise_of_one(noise, i, len(y)), u[None])
        assert own is not None  # told
        return own.reshape(-1) if own.numel() == 1 else own[0]

    found = None if domain is None else noise_level(y, mask, domain, variance if told else None, spatial)
    if found is None:
        return Comparison(None, share, None)
    return Comparison(found, share, found.lowest**2 * (share if told else float(measured.sum()) / energy))


def fitting_noise(objective: Objective) -> list[str]:
    """The names of the losses that compare with the very measurement that the network was given, as is right without noise."""
    found = []
    for name, weight, judged in _terms(objective):
        split = isinstance(judged, EquivariantSplitting) and isinstance(judged.consistency, Measured) and judged.weights[0] > 0
        plain = isinstance(judged, LibraryLoss) and isinstance(judged.loss, MCLoss)
        if weight > 0 and (split or plain):
            found.append(f"{name} with MCLoss for consistency" if split else name)
    return found


def relying_on_level(objective: Objective) -> list[str]:
    """The names of the losses that are right for the level of noise that the spec states, and for no other: R2R and SURE, but not UNSURE."""
    found = []
    for name, weight, judged in _terms(objective):
        split = isinstance(judged, EquivariantSplitting) and isinstance(judged.consistency, (Recorrupted, Stein)) and judged.weights[0] > 0
        library = isinstance(judged, LibraryLoss) and bool(judged.follows) and not judged.learns
        if weight > 0 and (split or library):
            found.append(name)
    return found


def _terms(objective: Objective) -> Iterator[tuple[str, float, Any]]:
    for name, weight, term in zip(objective.names, objective.weights, objective.terms, strict=True):
        yield name, weight, term.term if isinstance(term, Equivariant) else term


def noise_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """The noise in the data of an experiment against its noise model and its losses; `quick` looks at fewer samples. Never no. Sees no ground truth."""
    made, data, device = experiment.reconstruction, experiment.train, torch.device(experiment.operator.device)
    largest: tuple[Comparison, Any] | None = None
    with torch.no_grad():
        for positions in looked_at(data, 16 if quick else 64, 2 if quick else 4):
            y, _, params = data.batch(positions, device)
            physics = made.physics_of(y, params)
            noise = _of_samples(_known_to_losses(experiment.objective, physics.noise_model))
            compared = compare(y, physics, noise)
            # of several sizes, the one that has most to tell
            if largest is None or _count(compared) > _count(largest[0]):
                largest = compared, noise
    assert largest is not None  # a data set has a sample
    compared, noise = largest
    fitting, relying = fitting_noise(experiment.objective), relying_on_level(experiment.objective)
    verdict, reason, advice = judge(compared, noise, fitting, relying)
    return Finding(SECTION, verdict, reason, advice, _numbers(compared, noise, fitting))


def judge(compared: Comparison, noise: Any, fitting: Sequence[str], relying: Sequence[str]) -> tuple[Verdict, str, str]:
    """Verdict, reason and advice for a noise model and the losses that would fit noise, or rely on its level; for others noise does no harm."""
    found, share = compared.found, compared.assumed_share
    told, name = share > 0, type(noise).__name__
    unknown = not isinstance(noise, SCALES)
    if unknown and fitting:
        return "doubtful", f"MCLoss fits the noise, and how strong {name} is cannot be told: {fitting[0]}", f"use {_aware(noise)} if it is close to Gaussian"
    seen = "these measurements cannot show it" if found is None else f"the data show {_in_words(noise, found, told)}"
    said = f"the spec says {_said(noise)}, and {seen}"
    if found is not None and not unknown and _matters(compared) and (fitting or relying):
        advice = f"set physics.noise_model to {_part(noise, found, told)}"
        return "doubtful", said, advice + (f", and use {_aware(noise)} in place of MCLoss" if fitting else "")
    if fitting and share > NEGLIGIBLE:
        what = f"MCLoss fits the noise, {share:.1%} of the energy of the measurements ({_said(noise)}): {fitting[0]}"
        return "doubtful", what, f"use {_aware(noise)} in place of MCLoss"
    if not fitting and not relying:
        return "good", f"{said}; no loss fits it or relies on its level", ""
    little = f": {share:.2%} of the energy of the measurements, which MCLoss fits at little cost" if fitting and told else ""
    return "good", said + little, ""


def _matters(compared: Comparison) -> bool:
    """Whether the data contradict the assumed level, by so much that it matters."""
    found, share = compared.found, compared.assumed_share
    if found is None or compared.least_share is None:
        return False
    too_little = compared.least_share - share > CLEAR and (share == 0 or found.lowest > 1 + TOLERANCE)
    too_much = share > NEGLIGIBLE and found.highest < 1 - TOLERANCE
    return too_little or too_much


def _known_to_losses(objective: Objective, noise: Any) -> Any:
    """The noise model that a noise-aware consistency term was given in its own words, else the operator's."""
    for term in objective.terms:
        if isinstance(term, EquivariantSplitting) and term.consistency is not None and term.consistency.own_noise is not None:
            return term.consistency.own_noise
    return noise


def _of_samples(noise: Any) -> Any:
    """A noise model whose levels are numbers of all samples or of each: a map of levels as its mean."""
    maps = {name: value.float().flatten(1).mean(1) for name, value in noise.named_buffers() if name in LEVELS and value.ndim > 1}
    return with_buffers(noise, maps) if maps else noise


def _levels(noise: Any) -> dict[str, float]:
    """The levels of a noise model, the mean where samples have their own."""
    held = {name: getattr(noise, name, None) for name in (*LEVELS, "l")}
    return {name: float(value.float().mean()) for name, value in held.items() if isinstance(value, Tensor)}


def _scaled(noise: Any, ratio: float) -> dict[str, float]:
    """The levels at which the standard deviation would be `ratio` times what it is; those that would be infinite are left out."""
    powers = {"sigma": 1, "gain": 2, "l": -2}
    return {name: _rounded(value * ratio ** powers[name]) for name, value in _levels(noise).items() if ratio > 0 or powers[name] > 0}


def _in_terms(noise: Any, value: float, told: bool) -> dict[str, float]:
    """A standard deviation, over the assumed one or in units of y, as the levels of the noise model, or as a σ."""
    return _scaled(noise, value) if told else {"sigma": _rounded(value)}


def _in_words(noise: Any, found: NoiseLevel, told: bool) -> str:
    lowest, level, highest = (_in_terms(noise, value, told) for value in (found.lowest, found.level, found.highest))
    words = []
    for name, value in level.items():
        ends = sorted(end[name] for end in (lowest, highest) if name in end)
        words.append(f"{name} {value} at most" if found.lowest == 0 else f"{name} {value} ({' to '.join(map(str, ends))})")
    return ", ".join(words)


def _said(noise: Any) -> str:
    levels = ", ".join(f"{name} {value:.3g}" for name, value in _levels(noise).items())
    return "no noise" if isinstance(noise, ZeroNoise) else f"{type(noise).__name__}{f' with {levels}' if levels else ''}"


def _part(noise: Any, found: NoiseLevel, told: bool) -> str:
    levels = _in_terms(noise, found.level, told)
    return f"{{name: {type(noise).__name__ if told else 'GaussianNoise'}, {', '.join(f'{k}: {v}' for k, v in levels.items())}}}"


def _aware(noise: Any) -> str:
    return "R2RLoss, or SureGaussianLoss with unsure: true," if isinstance(noise, (GaussianNoise, ZeroNoise)) else AWARE.get(type(noise), "SureGaussianLoss with unsure: true")


def _numbers(compared: Comparison, noise: Any, fitting: Sequence[str]) -> dict[str, Any]:
    found, told = compared.found, compared.assumed_share > 0
    numbers: dict[str, Any] = {"noise_model": type(noise).__name__}
    if told:
        numbers["assumed"] = {name: _rounded(value) for name, value in _levels(noise).items()}
    if found is not None:
        levels = (("measured", found.level), ("lowest", found.lowest), ("highest", found.highest))
        numbers |= {name: _in_terms(noise, value, told) for name, value in levels}
        numbers |= {"estimated_from": found.method, "numbers_used": found.count}
    numbers["share_of_energy"] = _rounded(compared.assumed_share)
    return {**numbers, "losses_that_fit_noise": list(fitting)}


def _count(compared: Comparison) -> int:
    return 0 if compared.found is None else compared.found.count


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
