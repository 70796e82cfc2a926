"""How images are made: the average of T_g f(M₁y, M₁A T_g) over splits and group elements, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import GaussianNoise
from torch import Tensor

from es_cli.splitting.group import IDENTITY, Batch, Element, Group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.virtual import split_operator, virtual_operator, with_mask, with_noise
from es_cli.streams import stream_seed


@dataclass(frozen=True)
class TestRule:
    """Which (split, g) pairs are averaged.

    `splits` is the number of random splits, None for none (the full measurement). `elements` are averaged over; `draws` asks for
    that many random elements of the group instead.
    """

    __test__ = False  # pytest takes the name for a test class

    splits: int | None
    elements: tuple[Element, ...] = (IDENTITY,)
    draws: int | None = None

    @property
    def network_calls(self) -> int:
        """Network evaluations for one image."""
        return (self.splits or 1) * (self.draws or len(self.elements))


ONE_CALL = TestRule(splits=None)


def average(
    network: Any,
    y: Tensor,
    physics: Any,
    rule: TestRule,
    group: Group,
    splitter: Any = None,
    *,
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """The reconstruction of y (B, …) by `rule`, at most `max_batch` images through the network at once (B at least).

    Equal to deepinv's adapted model in evaluation mode under the same splits and elements.
    """
    elements: Sequence[Element] = group.sample(rule.draws, stream_seed(seed, "test-group")) if rule.draws else rule.elements
    size = max(1, max_batch // len(y))
    total = torch.zeros((), device=y.device)
    for split in range(rule.splits or 1):
        y1, physics1 = y, physics
        if rule.splits:
            mask = draw_split(splitter, y.shape, sampling_mask(physics), stream_seed(seed, "test-split", split))
            y1, physics1 = mask * y, split_operator(physics, mask, y)
        for start in range(0, len(elements), size):
            total = total + _sum_over(network, y1, physics1, elements[start : start + size], group.orthogonal)
    return total / ((rule.splits or 1) * len(elements))


def _sum_over(network: Any, y: Tensor, physics: Any, elements: Sequence[Element], orthogonal: bool) -> Tensor:
    """Σ_g T_g f(y, A T_g) over `elements`, in one pass through the network."""
    g = Batch(elements, run=len(y))
    copies = y.repeat(len(elements), *[1] * (y.ndim - 1))
    x = g.act(network(copies, virtual_operator(_repeated(physics, len(y), len(elements)), g, orthogonal)))
    return x.view(len(elements), len(y), *x.shape[1:]).sum(0)


def _repeated(physics: Any, batch: int, copies: int) -> Any:
    """`physics` for `copies` copies of a batch: masks and σ that differ from sample to sample are repeated with the samples."""
    if copies == 1 or batch == 1:
        return physics
    mask, noise = sampling_mask(physics), physics.noise_model
    if mask is not None and len(mask) > 1:
        physics = with_mask(physics, mask.repeat(copies, *[1] * (mask.ndim - 1)))
    if isinstance(noise, GaussianNoise) and noise.sigma.numel() > 1:
        physics = with_noise(physics, GaussianNoise(sigma=noise.sigma.flatten().repeat(copies)))
    return physics
