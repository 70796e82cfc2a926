"""Mask generators of our own: whole lines of k-space, and the angles of a sinogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from deepinv.physics.generator import PhysicsGenerator
from torch import Tensor

from es_cli.splitting.folds import Folds


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
        """M₁ of `shape` before the acquisition mask, which broadcasts to it, is multiplied in.

        The network is given at least one line, and at least one that is not central is left to predict where there is one.
        """
        outer, centre = self.lines(shape, mask)
        return self._spread(self._choose(outer, ratios(self, shape[0], rng), rng, centre.any(1)) + centre, shape)

    def leave_out(self, shape: Sequence[int], mask: Tensor | None, folds: Folds) -> Tensor:
        """`draw` for a fold of a partition of the lines in place of a random choice."""
        outer, centre = self.lines(shape, mask)
        return self._spread((outer & ~self._fold(outer, folds, centre.any(1)) | centre).float(), shape)

    def lines(self, shape: Sequence[int], mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The acquired lines that are split, and those of the centre, which are not: bool (B, count) each."""
        acquired, centre = self._acquired(shape, mask), self.centre(shape[self.dim])
        return acquired & ~centre, acquired & centre

    def _spread(self, lines: Tensor, shape: Sequence[int]) -> Tensor:
        view = [1] * len(shape)
        view[0], view[self.dim] = lines.shape
        return lines.view(view).expand(tuple(shape))

    def centre(self, count: int) -> Tensor:
        """Which of `count` lines always stay with the network, bool (count,)."""
        centre = torch.zeros(count, dtype=torch.bool, device=self.device)
        first = (count - self.center_lines) // 2
        centre[max(first, 0) : first + self.center_lines] = True
        return centre

    def _acquired(self, shape: Sequence[int], mask: Tensor | None) -> Tensor:
        """Which lines were acquired, bool (B, count)."""
        count = shape[self.dim]
        if mask is None:
            return torch.ones(shape[0], count, dtype=torch.bool, device=self.device)
        return mask.transpose(self.dim, -1).flatten(1, -2).amax(1).bool().expand(shape[0], count)

    def _choose(self, lines: Tensor, ratio: Tensor, rng: torch.Generator, given: Tensor) -> Tensor:
        """Which of `lines` (B, count) the network gets, float32; `given` (B,) says which samples have lines on its side already."""
        return keep_fraction(lines, ratio, rng, given)

    def _fold(self, lines: Tensor, folds: Folds, given: Tensor) -> Tensor:
        """Which of `lines` (B, count) are in the fold, bool."""
        return folds.left_out(lines, given)


class AngleSplittingMaskGenerator(LineSplittingMaskGenerator):
    """Split the angles of a sinogram, whose last axis they are. The paper's split for CT: each angle with probability 0.6.

    :param tuple img_size: shape (C, detectors, angles) of the mask.
    :param float split_ratio: fraction of the angles that the network is given.
    :param bool random_split_ratio: draw that fraction for each sample, between min_split_ratio and max_split_ratio.
    :param float min_split_ratio: smallest fraction drawn.
    :param float max_split_ratio: largest fraction drawn.
    :param str pattern: bernoulli chooses angles at random; interleaved spaces those that are predicted evenly, from a random first one on.
    """

    def __init__(
        self,
        img_size: tuple[int, ...],
        split_ratio: float = 0.6,
        random_split_ratio: bool = False,
        min_split_ratio: float = 0.5,
        max_split_ratio: float = 1.0,
        pattern: Literal["bernoulli", "interleaved"] = "bernoulli",
        device: str | torch.device = "cpu",
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__(img_size, split_ratio, random_split_ratio, min_split_ratio, max_split_ratio, device=device, rng=rng)
        if pattern not in ("bernoulli", "interleaved"):
            raise ValueError(f"pattern is bernoulli or interleaved, not {pattern}")
        self.pattern = pattern

    def _choose(self, lines: Tensor, ratio: Tensor, rng: torch.Generator, given: Tensor) -> Tensor:
        if self.pattern == "bernoulli":
            return super()._choose(lines, ratio, rng, given)
        count = lines.sum(1)
        predicted = (count - wanted_count(count, ratio, given))[:, None]
        first = (torch.rand(len(lines), generator=rng, device=rng.device) * count).long()[:, None]
        rank = lines.cumsum(1) - 1 + first
        # Euclid's rhythm: `predicted` of `count` angles, as evenly spaced as they can be
        taken = (rank * predicted) % count.clamp(min=1)[:, None] < predicted
        return (lines & ~taken).float()

    def _fold(self, lines: Tensor, folds: Folds, given: Tensor) -> Tensor:
        return folds.left_out(lines, given, interleaved=self.pattern == "interleaved")


def ratios(generator: Any, batch: int, rng: torch.Generator) -> Tensor:
    """The fraction that each sample keeps, shape (B,)."""
    if not generator.random_split_ratio:
        return torch.full((batch,), float(generator.split_ratio), device=rng.device)
    low, high = generator.min_split_ratio, generator.max_split_ratio
    return low + (high - low) * torch.rand(batch, generator=rng, device=rng.device)


def wanted_count(count: Tensor, ratio: Tensor, given: Tensor | None = None) -> Tensor:
    """⌊ratio · count⌋ of `count` (B,) sites, but at least one on either side where there are two; `given` (B,) samples need none on the first.

    deepinv rounds down to none, or keeps all.
    """
    fewest = torch.ones_like(count) if given is None else (~given).long()
    wanted = torch.maximum((ratio * count).floor().long(), fewest)
    return torch.minimum(wanted, torch.maximum(count - 1, fewest)).minimum(count)


def keep_fraction(sites: Tensor, ratio: Tensor, rng: torch.Generator, given: Tensor | None = None) -> Tensor:
    """Keep `wanted_count` of the true sites (B, …) of each sample, chosen uniformly: float32, 1 where kept."""
    flat = sites.flatten(1)
    count = flat.sum(1)
    left = count - wanted_count(count, ratio, given)
    scores = torch.rand(flat.shape, generator=rng, device=rng.device).masked_fill(~flat, -1)
    # the highest scores are left out; ordering these alone is several times faster than ordering all. How many there are only a CPU is asked:
    # a GPU would have to catch up first
    most = max(1, int(left.max())) if left.device.type == "cpu" else flat.shape[1]
    highest = scores.topk(most, 1).values
    threshold = highest.gather(1, (left - 1).clamp(min=0)[:, None])
    return (flat & ((scores < threshold) | (left == 0)[:, None])).view(sites.shape).float()
