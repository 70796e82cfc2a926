"""Splits of a measurement: masks M₁ (fed to the network) and M₂ (predicted) with M₁ + M₂ = M, the mask of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import MRI, ComposedPhysics, DynamicMRI, MultiCoilMRI, NonCartesianMRI, Tomography
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, MultiplicativeSplittingMaskGenerator
from torch import Tensor

from es_cli.errors import Fault, SpecError
from es_cli.splitting.folds import Folds
from es_cli.splitting.generators import AngleSplittingMaskGenerator, LineSplittingMaskGenerator, keep_fraction, ratios
from es_cli.splitting.operators import MaskedOperator, sampling_mask
from es_cli.splitting.shares import Share, shape_of_whole, spread
from es_cli.streams import generator as new_generator
from es_cli.streams import reseed

__all__ = ["AngleSplittingMaskGenerator", "LineSplittingMaskGenerator", "Splitter", "draw_rows", "draw_split", "leave_out", "sampling_mask", "split_axes", "units"]


@dataclass(frozen=True)
class Splitter:
    """A mask generator, and the axes of a batch of measurements y (B, …) along which its splits vary."""

    generator: Any
    axes: tuple[int, ...]


def split_axes(physics: Any, ndim: int, pixelwise: bool = True) -> tuple[int, ...]:
    """The axes of y (B, …), `ndim` of them, along which a split varies; entries that differ on other axes only stay together.

    Points of k-space for MRI, which real and imaginary part and all coils share; frames for dynamic MRI; angles for tomography; single
    entries where y is a vector; else pixels, with all of their channels where `pixelwise`.
    """
    if isinstance(physics, MaskedOperator):
        return split_axes(physics.physics, ndim, pixelwise)
    if isinstance(physics, ComposedPhysics):
        return split_axes(physics.physics_list[-1], ndim, pixelwise)
    if isinstance(physics, DynamicMRI):
        return (2,)
    if isinstance(physics, (Tomography, NonCartesianMRI)):
        return (ndim - 1,)
    if isinstance(physics, (MRI, MultiCoilMRI)):
        return tuple(range(ndim - (3 if physics.three_d else 2), ndim))
    return tuple(range(2 if pixelwise and ndim > 3 else 1, ndim))


def draw_split(splitter: Any, shape: Sequence[int], mask: Tensor | None, seed: int) -> Tensor:
    """A random M₁ of `shape` (B, …), 0/1 float32, zero where `mask` is; the same seed draws the same split.

    `splitter` is a Splitter, or a mask generator, which then splits pixels. `mask` broadcasts to `shape`, and None stands for ones.
    Neither side is empty where a sample has two sites to split. Raises SpecError where the generator's masks do not fit `shape`.
    """
    generator, axes = _taken_apart(splitter, len(shape))
    rng = new_generator(seed, generator.device)
    if type(generator) is BernoulliSplittingMaskGenerator:
        kept = keep_fraction(_sites(shape, mask, axes, rng.device), ratios(generator, shape[0], rng), rng)
    elif isinstance(generator, LineSplittingMaskGenerator):
        kept = generator.draw(shape, mask, rng)
    else:
        reseed(generator, seed)
        drawn = _drawn(generator, shape, mask).expand(tuple(shape))
        kept = _repaired(drawn, mask, _sites(shape, mask, axes, rng.device), rng)
    kept = kept.expand(tuple(shape))
    return kept if mask is None else kept * mask


def draw_rows(splitter: Any, shape: Sequence[int], mask: Tensor | None, seed: int, share: Share | None) -> Tensor:
    """`draw_split` for the rows that a process has of a batch: those of what is drawn for all of it. `share` None: it has the batch.

    Equal to what one process draws wherever a generator's draws for a row do not depend on what the other rows have measured: ours do not.
    """
    if share is None:
        return draw_split(splitter, shape, mask, seed)
    return draw_split(splitter, shape_of_whole(shape, share), spread(mask, share), seed)[share.rows]


def leave_out(splitter: Any, shape: Sequence[int], mask: Tensor | None, folds: Folds) -> Tensor:
    """The complementary split M₁ of `shape` (B, …): all that is measured but for one fold. Arguments and value as `draw_split` has them.

    What the generator always gives to the network is in no fold. Raises SpecError for a generator whose splits make no partition.
    """
    generator, axes = _taken_apart(splitter, len(shape))
    _check_partition(generator)
    if isinstance(generator, LineSplittingMaskGenerator):
        kept = generator.leave_out(shape, mask, folds)
    else:
        sites = _sites(shape, mask, axes, torch.device(generator.device))
        kept = (sites & ~folds.left_out(sites)).float().expand(tuple(shape))
    return kept if mask is None else kept * mask


def units(splitter: Any, shape: Sequence[int], mask: Tensor | None) -> Tensor:
    """How many units of each sample can be dealt into folds, (B,): lines, angles, frames, pixels, entries. Raises SpecError as `leave_out` does."""
    generator, axes = _taken_apart(splitter, len(shape))
    _check_partition(generator)
    if isinstance(generator, LineSplittingMaskGenerator):
        return generator.lines(shape, mask)[0].sum(1)
    return _sites(shape, mask, axes, torch.device(generator.device)).flatten(1).sum(1)


def _check_partition(generator: Any) -> None:
    if type(generator) is not BernoulliSplittingMaskGenerator and not isinstance(generator, LineSplittingMaskGenerator):
        what = f"{type(generator).__name__} draws each split by itself, so that several do not add up to a partition of the measurement"
        hint = "use BernoulliSplittingMaskGenerator, LineSplittingMaskGenerator or AngleSplittingMaskGenerator"
        raise SpecError([Fault(what, "mask_generator", f"{hint}, or random splits")])


def _taken_apart(splitter: Any, ndim: int) -> tuple[Any, tuple[int, ...]]:
    if isinstance(splitter, Splitter):
        return splitter.generator, splitter.axes
    return splitter, split_axes(None, ndim, getattr(splitter, "pixelwise", True) is not False)


def _sites(shape: Sequence[int], mask: Tensor | None, axes: Sequence[int], device: torch.device) -> Tensor:
    """Which sites hold something measured: bool (B, …), of size 1 on the axes that a site spans."""
    sites = tuple(n if axis == 0 or axis in axes else 1 for axis, n in enumerate(shape))
    if mask is None:
        return torch.ones(sites, dtype=torch.bool, device=device)
    spanned = [axis for axis in range(1, len(shape)) if axis not in axes]
    return ((mask.amax(spanned, keepdim=True) if spanned else mask) > 0).expand(sites)


def _drawn(generator: Any, shape: Sequence[int], mask: Tensor | None) -> Tensor:
    """What a generator of deepinv draws for a measurement of `shape`, broadcastable to it."""
    if isinstance(generator, MultiplicativeSplittingMaskGenerator):
        # deepinv multiplies channel by channel, and fails for two of k-space on three of a picture
        drawn = generator.split_generator.step(batch_size=shape[0])
    elif isinstance(generator, BernoulliSplittingMaskGenerator):
        drawn = generator.step(batch_size=shape[0], input_mask=_shown_to(generator, mask, shape))
    else:
        drawn = generator.step(batch_size=shape[0])
    if "mask" not in drawn:
        hint = "name a mask generator, such as BernoulliSplittingMaskGenerator"
        raise SpecError([Fault(f"{type(generator).__name__} draws {', '.join(drawn)}, not a mask", "mask_generator", hint)])
    return _fitted(drawn["mask"], shape)


def _shown_to(generator: Any, mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """The acquisition mask in the shape of the generator's own: coils, or the frames of a generator of still masks, left out."""
    if mask is None:
        return None
    if len(generator.img_size) == len(shape) - 2 and len(shape) >= 5:
        return mask.amax(2)
    return mask.expand(len(mask), *shape[1:])


def _fitted(drawn: Tensor, shape: Sequence[int]) -> Tensor:
    """A drawn mask with singleton axes where the measurement has coils, frames or more channels. Raises SpecError."""
    found = tuple(drawn.shape[1:])
    if drawn.ndim == len(shape) - 1 and len(shape) >= 5:
        drawn = drawn.unsqueeze(2)
    if drawn.ndim > 2 and drawn.shape[1] != shape[1] and bool((drawn == drawn[:, :1]).all()):
        drawn = drawn[:, :1]
    if drawn.ndim != len(shape) or any(a not in (1, b) for a, b in zip(drawn.shape, shape, strict=True)):
        what = f"splits of shape {found} for measurements of shape {tuple(shape[1:])}"
        raise SpecError([Fault(what, "mask_generator.img_size", f"leave img_size out, or give {list(shape[1:])}")])
    return drawn


def _repaired(drawn: Tensor, mask: Tensor | None, sites: Tensor, rng: torch.Generator) -> Tensor:
    """`drawn` (B, …) with one random site moved to the side that a generator of deepinv left empty, in samples that have two sites."""
    full = torch.ones_like(drawn) if mask is None else mask
    nothing_given = ~(drawn * full > 0).flatten(1).any(1)
    nothing_left = ~((1 - drawn) * full > 0).flatten(1).any(1)
    flat = sites.flatten(1)
    chosen = torch.rand(flat.shape, generator=rng, device=rng.device).masked_fill(~flat, -1).argmax(1, keepdim=True)
    moved = torch.zeros_like(flat).scatter(1, chosen, flat.sum(1, keepdim=True) > 1).view(sites.shape)
    each = (-1, *[1] * (drawn.ndim - 1))
    drawn = torch.where(moved & nothing_given.view(each), 1.0, drawn)
    return torch.where(moved & nothing_left.view(each), 0.0, drawn)
