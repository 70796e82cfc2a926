"""Predicting a part of a measurement from the rest of it: what is known of an image's error where nobody knows the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.building.mask_generator import build_splitter
from es_cli.building.rivals import splits_of_losses
from es_cli.errors import SpecError
from es_cli.experiment import Reconstruction
from es_cli.judging.noise import noise_variance
from es_cli.spec.schema import Spec
from es_cli.splitting.averaging import TestRule, merged, passes
from es_cli.splitting.folds import Folds
from es_cli.splitting.masks import Splitter, draw_split, leave_out, sampling_mask
from es_cli.splitting.parameters import for_copies
from es_cli.streams import stream_seed

FOLDS = 5  # a fifth of what can be left out is held back: little enough that the image is nearly the one that is made of everything


@dataclass(frozen=True)
class HeldOut:
    """What was held back of y (B, …), and what the image made without it says there; all of the shape of y, in its units (squared for variances).

    `rest` M₂ is 0/1. `error` is M₂(Ax̂ − y) with x̂ the mean over the passes, `spread` their variance there, `noise` the variance of the noise of
    y as the operator has it, None where that is not known.
    """

    rest: Tensor
    y: Tensor
    error: Tensor
    spread: Tensor
    noise: Tensor | None


def splits_for_judging(spec: Spec, made: Reconstruction, device: torch.device) -> Splitter | None:
    """The splits that measurements are held back by: those of the spec, else the default for its operator; None where it cannot be split."""
    if made.splitter is not None:
        return made.splitter
    try:
        return build_splitter(spec.mask_generator or splits_of_losses(spec)[1], made.operator, spec.seed, device)[0]
    except SpecError:
        return None


def trained_on_splits(spec: Spec) -> bool:
    """Whether the network has met measurements of which a part was left out: if not, its error on such says little of its error on whole ones."""
    return splits_of_losses(spec)[0]


def predict(
    made: Reconstruction, splitter: Splitter, y: Tensor, params: dict[str, Tensor], seeds: Sequence[int], rule: TestRule | None = None, max_batch: int = 32
) -> HeldOut:
    """Hold a part of each y (B, …) back, drawn from the sample's seed, make the image from the rest by the very rule that images are made by, and
    compare there. `params` are the operator's where these samples have their own; `rule` None is that of `made`.

    As many network calls as making the images takes. Nothing that is compared was seen by the network or averaged over (a reconstruction from the
    whole y has seen all that it could be judged on).
    """
    physics = made.physics_of(y, params)
    full = sampling_mask(physics)
    kept = held_back(splitter, tuple(y.shape), full, seeds)
    rest = (1 - kept) if full is None else (full - kept)
    arguments, scale = made.arguments(y, physics, rule, max_batch, kept)
    with torch.inference_mode():
        found = merged(_measured(passes(**arguments), physics, scale))
    noise = noise_variance(made, physics, found.mean)
    return HeldOut(rest, y, rest * (found.mean - y), rest * found.variance, None if noise is None else rest * noise)


def held_back(splitter: Splitter, shape: tuple[int, ...], full: Tensor | None, seeds: Sequence[int]) -> Tensor:
    """M₁ (B, …) of each sample: all but one fold of a random partition, or a random split where the generator's splits make no partition."""
    keys = [stream_seed(seed, "judging") for seed in seeds]
    try:
        return leave_out(splitter, shape, full, Folds(keys, 0, FOLDS))
    except SpecError:
        own = [None if full is None else full if len(full) == 1 else full[i : i + 1] for i in range(len(keys))]
        return torch.cat([draw_split(splitter, (1, *shape[1:]), mask, key) for mask, key in zip(own, keys, strict=True)])


def _measured(parts: Iterator[Tensor], physics: Any, scale: Tensor | None) -> Iterator[Tensor]:
    """A x of the images (pairs, B, C, …) of each pass, in the units of y: (pairs, B, …)."""
    for images in parts:
        pairs = len(images)
        if scale is not None:
            images = images * scale.view(1, -1, *[1] * (images.ndim - 2))
        predicted = for_copies(physics, pairs).A(images.flatten(0, 1))
        yield predicted.view(pairs, -1, *predicted.shape[1:])
