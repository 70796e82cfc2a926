"""How images are made: the average of T_g f(M₁y, M₁A T_g) over splits and group elements, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.splitting.consistency import Consistency, feed_each
from es_cli.splitting.group import IDENTITY, Batch, Element, Group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.parameters import for_copies
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.streams import stream_seed


@dataclass(frozen=True)
class TestRule:
    """Which (split, g) pairs are averaged.

    `splits` is the number of random splits, None for none (the full measurement). `elements` are averaged over; `draws` asks for
    that many random elements of the group instead. `repeats` is how often each pair is taken: a network that was trained on recorrupted
    measurements is fed another draw each time.
    """

    __test__ = False  # pytest takes the name for a test class

    splits: int | None
    elements: tuple[Element, ...] = (IDENTITY,)
    draws: int | None = None
    repeats: int = 1

    @property
    def network_calls(self) -> int:
        """Network evaluations for one image."""
        return (self.splits or 1) * (self.draws or len(self.elements)) * self.repeats


ONE_CALL = TestRule(splits=None)


def average(
    network: Any,
    y: Tensor,
    physics: Any,
    rule: TestRule,
    group: Group,
    splitter: Any = None,
    *,
    consistency: Consistency | None = None,
    noise: Any = None,
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """The reconstruction of y (B, …) by `rule`, at most `max_batch` images through the network at once (B at least).

    `consistency` feeds the network in place of y what it fed it in training, `noise` being that of y; None: y itself. Draws are keyed by the
    pair, the same for all samples, so that a sample's image does not depend on its batch. Equal to deepinv's adapted model in evaluation mode
    under the same splits and elements.
    """
    drawn: Sequence[Element] = group.sample(rule.draws, stream_seed(seed, "test-group")) if rule.draws else rule.elements
    elements = [element for element in drawn for _ in range(rule.repeats)]
    size = max(1, max_batch // len(y))
    total = torch.zeros((), device=y.device)
    for split in range(rule.splits or 1):
        mask, split_physics = sampling_mask(physics), physics
        if rule.splits:
            mask = _same_split(splitter, y, mask, stream_seed(seed, "test-split", split))
            split_physics = split_operator(physics, mask, y)
        for start in range(0, len(elements), size):
            part = elements[start : start + size]
            fed = [_fed(consistency, y, noise, stream_seed(seed, "test-noise", split, start + k)) for k in range(len(part))]
            copies = torch.cat(fed) if mask is None else (torch.stack(fed) * mask).flatten(0, 1)
            total = total + _sum_over(network, copies, len(y), split_physics, part, group.orthogonal)
    return total / ((rule.splits or 1) * len(elements))


def _same_split(splitter: Any, y: Tensor, full: Tensor | None, seed: int) -> Tensor:
    """M₁ of shape (1 or B, …): the draw of `seed` for every sample."""
    masks = [None] if full is None else list(full.split(1))
    return torch.cat([draw_split(splitter, (1, *y.shape[1:]), own, seed) for own in masks])


def _fed(consistency: Consistency | None, y: Tensor, noise: Any, seed: int) -> Tensor:
    return y if consistency is None else feed_each(consistency, y, noise, [seed] * len(y))


def _sum_over(network: Any, copies: Tensor, batch: int, physics: Any, elements: Sequence[Element], orthogonal: bool) -> Tensor:
    """Σ_g T_g f(y, A T_g) over `elements`, in one pass through the network; `copies` holds what each element is fed, one batch after another."""
    g = Batch(elements, run=batch)
    x = g.act(network(copies, virtual_operator(for_copies(physics, len(elements)), g, orthogonal)))
    return x.view(len(elements), batch, *x.shape[1:]).sum(0)
