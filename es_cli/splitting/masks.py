"""Splits of a measurement: masks M₁ (fed to the network) and M₂ (predicted) with M₁ + M₂ = M, the mask of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from deepinv.physics import MRI, DynamicMRI, Inpainting, MultiCoilMRI
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, PhysicsGenerator
from torch import Tensor

from es_cli.streams import generator as new_generator
from es_cli.streams import reseed


def sampling_mask(physics: Any) -> Tensor | None:
    """The 0/1 mask of what `physics` measures, shape (1 or B, C, …, H, W); None where it measures every entry.

    `physics.mask` alone will not do: in BlurFFT and others it holds singular values.
    """
    if isinstance(physics, (Inpainting, MRI, MultiCoilMRI, DynamicMRI)):
        return physics.mask
    return None


def draw_split(splitter: Any, shape: Sequence[int], mask: Tensor | None, seed: int) -> Tensor:
    """A random M₁ of `shape` (B, …), 0/1 float32, zero where `mask` is; the same seed draws the same split.

    Neither side is empty where a sample has two entries to split, if `splitter` is Bernoulli or splits lines. Others may draw an empty
    side, which then weighs nothing in the objective.
    """
    device = splitter.device
    if type(splitter) is BernoulliSplittingMaskGenerator:
        rng = new_generator(seed, device)
        ratio = _ratios(splitter, shape[0], rng)
        sites = _observed_sites(shape, mask, splitter.pixelwise, device)
        kept = _keep_fraction(sites, ratio, rng).expand(shape)
    elif isinstance(splitter, LineSplittingMaskGenerator):
        kept = splitter.draw(shape, mask, new_generator(seed, device))
    else:
        reseed(splitter, seed)
        kept = splitter.step(shape[0], input_mask=mask)["mask"].expand(shape)
    return kept if mask is None else kept * mask


class LineSplittingMaskGenerator(PhysicsGenerator):
    """Split the acquired lines of a measurement, such as the phase-encoding lines of a Cartesian k-space.

    :param tuple img_size: shape (C, H, W) of the mask.
    :param float split_ratio: fraction of the acquired lines that the network is given.
    :param bool random_split_ratio: draw that fraction for each sample, between min_split_ratio and max_split_ratio.
    :param float min_split_ratio: smallest fraction drawn.
    :param float max_split_ratio: largest fraction drawn.
    :param int center_lines: number of central lines that are always given to the network (the autocalibration lines).
    :param int dim: axis along which lines are counted; -1 for columns, -2 for rows.
    """

    def __init__(
        self,
        img_size: tuple[int, ...],
        split_ratio: float = 0.8,
        random_split_ratio: bool = False,
        min_split_ratio: float = 0.5,
        max_split_ratio: float = 1.0,
        center_lines: int = 0,
        dim: int = -1,
        device: str | torch.device = "cpu",
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(device=device, rng=rng)
        self.img_size = img_size
        self.split_ratio, self.random_split_ratio = split_ratio, random_split_ratio
        self.min_split_ratio, self.max_split_ratio = min_split_ratio, max_split_ratio
        self.center_lines, self.dim = center_lines, dim

    def step(self, batch_size: int = 1, input_mask: Tensor | None = None, seed: int | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """A mask (batch_size, *img_size) under "mask", as deepinv's generators give it."""
        self.rng_manual_seed(seed)
        shape = (batch_size, *(self.img_size if input_mask is None else input_mask.shape[1:]))
        drawn = self.draw(shape, input_mask, self.rng)
        return {"mask": drawn if input_mask is None else drawn * input_mask}

    def draw(self, shape: Sequence[int], mask: Tensor | None, rng: torch.Generator) -> Tensor:
        """M₁ of `shape` before the acquisition mask is multiplied in."""
        count = shape[self.dim]
        lines = torch.ones(shape[0], count, dtype=torch.bool, device=self.device)
        if mask is not None:
            lines = mask.transpose(self.dim, -1).flatten(1, -2).amax(1).bool().expand(shape[0], count)
        centre = torch.zeros(count, dtype=torch.bool, device=self.device)
        first = (count - self.center_lines) // 2
        centre[first : first + self.center_lines] = True
        kept = _keep_fraction(lines & ~centre, _ratios(self, shape[0], rng), rng) + (lines & centre)
        view = [1] * len(shape)
        view[0], view[self.dim] = shape[0], count
        return kept.view(view).expand(tuple(shape))


def _ratios(splitter: Any, batch: int, rng: torch.Generator) -> Tensor:
    """The fraction that each sample keeps, shape (B,)."""
    if not splitter.random_split_ratio:
        return torch.full((batch,), float(splitter.split_ratio), device=rng.device)
    low, high = splitter.min_split_ratio, splitter.max_split_ratio
    return low + (high - low) * torch.rand(batch, generator=rng, device=rng.device)


def _observed_sites(shape: Sequence[int], mask: Tensor | None, pixelwise: bool, device: torch.device) -> Tensor:
    """Which sites a split chooses from, bool (B, 1 or C, …): a site is a pixel with all of its channels where `pixelwise`."""
    pixelwise = pixelwise and len(shape) > 2
    sites = (shape[0], 1, *shape[2:]) if pixelwise else tuple(shape)
    if mask is None:
        return torch.ones(sites, dtype=torch.bool, device=device)
    observed = mask.amax(1, keepdim=True) if pixelwise else mask
    return (observed > 0).expand(sites)


def _keep_fraction(sites: Tensor, ratio: Tensor, rng: torch.Generator) -> Tensor:
    """Keep ⌊ratio · n⌋ of the n true sites of each sample, chosen uniformly: float32, 1 where kept.

    deepinv rounds down to none or keeps all; here both sides get at least one site where there are two.
    """
    flat = sites.flatten(1)
    count = flat.sum(1)
    wanted = (ratio * count).floor().long()
    wanted = torch.minimum(wanted.clamp(min=1), (count - 1).clamp(min=1))
    scores = torch.rand(flat.shape, generator=rng, device=rng.device).masked_fill(~flat, math.inf)
    threshold = scores.sort(1).values.gather(1, (wanted - 1)[:, None])
    return ((scores <= threshold) & flat).view(sites.shape).float()
