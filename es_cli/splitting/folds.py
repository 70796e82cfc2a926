"""Complementary splits: what was measured is dealt into folds, and each fold is left out once, in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from es_cli.streams import generator, stream_seed


@dataclass(frozen=True)
class Folds:
    """Fold `number` of `count`, to be left out; `seeds` has the partition of each sample of a batch, equal seeds the same one."""

    seeds: Sequence[int]
    number: int
    count: int

    def left_out(self, units: Tensor, given: Tensor | None = None, interleaved: bool = False) -> Tensor:
        """Which of the true `units` (B, …) are in the fold, bool (B, …).

        Folds differ by one unit at most. They are chosen at random, or if `interleaved` every `count`-th unit is in one. A sample with fewer
        units than folds has as many folds as units, some of which come twice; a unit that is alone stays with the network, except where
        `given` (B,) says that it has something else.
        """
        flat = units.flatten(1)
        have = flat.sum(1, keepdim=True)
        count = have.clamp(1, self.count)
        draws = [generator(seed, flat.device) for seed in self.seeds]
        if interleaved:
            first = torch.cat([torch.rand(1, generator=rng, device=rng.device) for rng in draws])[:, None]
            rank = flat.cumsum(1) - 1 + (first * count).long()
        else:
            order = torch.stack([torch.randperm(flat.shape[1], generator=rng, device=rng.device) for rng in draws])
            rank = torch.empty_like(order).scatter_(1, order, flat.gather(1, order).cumsum(1) - 1)
        alone = have == 1 if given is None else (have == 1) & ~given[:, None]
        return (flat & (rank % count == self.number % count) & ~alone).view(units.shape)


@dataclass(frozen=True)
class Visit:
    """The batch of one training step: `keys` are the numbers of its samples, each of which was seen `number` times before, in a run of `seed`."""

    seed: int
    keys: Sequence[int]
    number: int

    def folds(self, count: int) -> Folds:
        """The fold to be left out: in `count` visits each fold of a sample's partition has its turn, and then another partition is drawn."""
        turn, number = divmod(self.number, count)
        return Folds([stream_seed(self.seed, "folds", turn, key) for key in self.keys], number, count)
