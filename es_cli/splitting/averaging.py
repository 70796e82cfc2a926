"""How images are made: the average of T_g f(M₁y, M₁A T_g) over splits and group elements, in batches of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.splitting.consistency import Consistency, feed_each
from es_cli.splitting.folds import Folds
from es_cli.splitting.group import IDENTITY, Batch, Element, Group
from es_cli.splitting.masks import draw_split, leave_out, sampling_mask
from es_cli.splitting.parameters import for_copies
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.streams import stream_seed


@dataclass(frozen=True)
class TestRule:
    """Which (split, g) pairs are averaged.

    `splits` is the number of splits, None for none (the full measurement); they are random, or if `complementary` the folds of one partition.
    `elements` are averaged over; `draws` asks for that many random elements of the group instead, new ones for each split. `repeats` is how
    often each pair is taken: a network that was trained on recorrupted measurements is fed another draw each time.
    """

    __test__ = False  # pytest takes the name for a test class

    splits: int | None
    elements: tuple[Element, ...] = (IDENTITY,)
    draws: int | None = None
    repeats: int = 1
    complementary: bool = False

    @property
    def network_calls(self) -> int:
        """Network evaluations for one image."""
        return (self.splits or 1) * (self.draws or len(self.elements)) * self.repeats

    def pairs(self, group: Group, seed: int) -> list[Pair]:
        """Every pair, split by split; an element of `group` that is drawn follows from `seed` and the split."""
        made = []
        for split in range(self.splits or 1):
            drawn = group.sample(self.draws, stream_seed(seed, "test-group", split)) if self.draws else self.elements
            repeated = [element for element in drawn for _ in range(self.repeats)]
            made += [Pair(split, element, stream_seed(seed, "test-noise", split, k)) for k, element in enumerate(repeated)]
        return made


@dataclass(frozen=True)
class Pair:
    """The number of a split, the element beside it, and what keys the draw of noise that the network is fed, if any."""

    split: int
    element: Element
    noise_seed: int


@dataclass(frozen=True)
class Averaged:
    """The mean over all pairs, and their variance around it, 0 for one pair: both of the shape of images (B, C, …, H, W)."""

    mean: Tensor
    variance: Tensor


ONE_CALL = TestRule(splits=None)
# pixels that go through the network at once: a batch of small images, or one large one
PIXELS_AT_ONCE = 1 << 19


def images_at_once(image_shape: Sequence[int], most: int) -> int:
    """How many images of shape (C, …, H, W) go through the network at once: `most`, fewer where they are large, one at least."""
    return max(1, min(most, PIXELS_AT_ONCE // math.prod(image_shape[1:])))


def average(network: Any, y: Tensor, physics: Any, rule: TestRule, group: Group, splitter: Any = None, **options: Any) -> Tensor:
    """The reconstruction of y (B, …) by `rule`: the mean over its pairs; `options` are those of `passes`.

    Equal to deepinv's adapted model in evaluation mode under the same splits and elements.
    """
    total, count = torch.zeros((), device=y.device), 0
    for images in passes(network, y, physics, rule, group, splitter, **options):
        total, count = total + images.sum(0), count + len(images)
    return total / count


def moments(network: Any, y: Tensor, physics: Any, rule: TestRule, group: Group, splitter: Any = None, **options: Any) -> Averaged:
    """Mean and variance over the pairs of `rule`, at no further network call; `options` are those of `passes`. The mean is that of `average`."""
    return merged(passes(network, y, physics, rule, group, splitter, **options))


def merged(parts: Iterable[Tensor]) -> Averaged:
    """Mean and variance over the leading axis of all `parts` (n, B, …) together, of which one at a time is held. Source: Chan et al., 1979."""
    total = squares = torch.zeros(())
    done = 0
    for images in parts:
        here, count = images.mean(0), len(images)
        if done:
            squares = squares + (here - total / done).square() * (done * count / (done + count))
            total = total + images.sum(0)
        else:
            total = images.sum(0)
        squares = squares + (images - here).square().sum(0)
        done += count
    return Averaged(total / done, squares / done)


def passes(
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
) -> Iterator[Tensor]:
    """T_g f(M₁y, M₁A T_g) of the pairs of `rule`, (pairs of this pass, B, C, …, H, W): at most `max_batch` images at once (B at least).

    `consistency` feeds the network in place of y what it fed it in training, `noise` being that of y; None: y itself. Draws are keyed by the
    pair, the same for all samples, so that a sample's image does not depend on its batch.
    """
    pairs = rule.pairs(group, seed)
    size = max(1, max_batch // len(y))
    drawn: dict[int, Tensor] = {}
    for done in range(0, len(pairs), size):
        part = pairs[done : done + size]
        fed = [y if consistency is None else feed_each(consistency, y, noise, [pair.noise_seed] * len(y)) for pair in part]
        copies, operator = torch.cat(fed), for_copies(physics, len(part))
        if rule.splits:
            # a split that goes on from the last pass is not drawn again
            splits = dict.fromkeys(pair.split for pair in part)
            drawn = {i: drawn[i] if i in drawn else _same_split(rule, splitter, y, sampling_mask(physics), i, seed) for i in splits}
            masks = _masks(y, part, drawn)
            copies, operator = masks * copies, split_operator(operator, masks, copies)
        g = Batch([pair.element for pair in part], run=len(y))
        images = g.act(network(copies, virtual_operator(operator, g, group.orthogonal)))
        yield images.view(len(part), len(y), *images.shape[1:])


def _masks(y: Tensor, part: Sequence[Pair], drawn: Mapping[int, Tensor]) -> Tensor:
    """M₁ for each copy of each sample, (copies · B, …), or (1, …) where all share it: then one solver serves them all."""
    if len(drawn) == 1 and len(drawn[part[0].split]) == 1:
        return drawn[part[0].split]
    return torch.cat([drawn[pair.split].expand(y.shape) for pair in part])


def _same_split(rule: TestRule, splitter: Any, y: Tensor, full: Tensor | None, split: int, seed: int) -> Tensor:
    """M₁ of shape (1 or B, …) for one split: the same draw for every sample."""
    shape, own = tuple(y.shape[1:]), [None] if full is None else list(full.split(1))
    if rule.complementary and rule.splits:
        folds = Folds([stream_seed(seed, "test-folds")] * len(own), split, rule.splits)
        return leave_out(splitter, (len(own), *shape), full, folds)
    return torch.cat([draw_split(splitter, (1, *shape), mask, stream_seed(seed, "test-split", split)) for mask in own])
