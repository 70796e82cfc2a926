"""The rows of a batch that one of several processes has, so that what they compute together is what one process computes.

A process draws for the whole batch and takes its rows; numbers that belong to the whole batch, such as the size of its masks, are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from es_cli.streams import generator, stream_seed


@dataclass(frozen=True)
class Share:
    """`rows` of a batch of `total` samples. `weight` is their part of it, 0 for a process that none were left for: it computes a row of another
    for company.

    `add` gives the sum over all processes of a few numbers (n,), n ≤ 3, without a gradient; all of them have to ask for it equally often.
    """

    rows: slice
    total: int
    weight: float
    add: Callable[[Tensor], Tensor]

    @property
    def part(self) -> float:
        """The part of the batch that the rows are, whoever they belong to."""
        return (self.rows.stop - self.rows.start) / self.total

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the whole batch of what is a mean over the rows here: numbers, () or (n,)."""
        return self.add(self.weight * value.detach().reshape(-1)).view(value.shape)


def entries(mask: Tensor, share: Share | None) -> Tensor:
    """The mean of a mask (B, …) over the whole batch, which a mean over all entries is divided by; an empty mask weighs nothing."""
    if share is None:
        return mask.mean().clamp(min=1 / mask.numel())
    return share.mean(mask.mean()).clamp(min=share.part / mask.numel())


class Rows:
    """A stream of draws for a whole batch, of which a process takes its rows."""

    def __init__(self, seed: int, device: torch.device, share: Share) -> None:
        self.share = share
        self.whole = generator(seed, device)
        # for draws of which nobody knows how many numbers those of another row take
        self.own = generator(stream_seed(seed, "rows", share.rows.start), device)

    def room(self, like: Tensor) -> Tensor:
        """An empty tensor of the whole batch for rows like these (B, …), in the same order in memory."""
        flat = like.ndim != 4 or like.is_contiguous()
        order = torch.contiguous_format if flat else torch.channels_last
        return torch.empty((self.share.total, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=order)


Random: TypeAlias = "torch.Generator | Rows"


def normal(like: Tensor, rng: Random) -> Tensor:
    """Independent numbers from N(0, 1) in the shape of `like` (B, …)."""
    if isinstance(rng, Rows):
        return rng.room(like).normal_(generator=rng.whole)[rng.share.rows]
    return torch.empty_like(like).normal_(generator=rng)


def uniform(like: Tensor, rng: Random) -> Tensor:
    """Independent numbers from [0, 1) in the shape of `like` (B, …)."""
    if isinstance(rng, Rows):
        return rng.room(like).uniform_(generator=rng.whole)[rng.share.rows]
    return torch.empty_like(like).uniform_(generator=rng)


def own_stream(rng: Random) -> torch.Generator:
    """What to draw from where the values decide how many numbers are taken: rows are then equal to those of one process in distribution only."""
    return rng.own if isinstance(rng, Rows) else rng


def rows_of(drawn: Any, share: Share | None) -> Any:
    """The rows of what was drawn for a whole batch, a tensor (B, …) or a sequence."""
    return drawn if share is None else drawn[share.rows]


def spread(mask: Tensor | None, share: Share) -> Tensor | None:
    """A mask of these rows (B or 1, …) as one of the whole batch, whose other rows are of no account."""
    if mask is None or len(mask) == 1:
        return mask
    whole = mask[:1].expand(share.total, *mask.shape[1:]).clone()
    whole[share.rows] = mask
    return whole


def shape_of_whole(shape: Sequence[int], share: Share) -> tuple[int, ...]:
    """The shape (B, …) of the whole batch, of that of these rows."""
    return (share.total, *shape[1:])
