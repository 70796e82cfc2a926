"""The training objective: a network and its losses in one module, so that whatever wraps the module wraps both.

deepinv finds the model of a loss by identity, which breaks under copies, compilation and data parallelism; here a loss is called with
the network that the objective holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from es_cli.splitting.consistency import Consistency, Split, Unsure, feed_each
from es_cli.splitting.folds import Visit
from es_cli.splitting.group import Batch, Element, Group
from es_cli.splitting.masks import draw_rows, draw_split, leave_out, sampling_mask
from es_cli.splitting.parameters import of_one_sample
from es_cli.splitting.shares import Random, Rows, Share, entries, rows_of
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.streams import generator, stream_seed


class Pass:
    """One batch on its way through the losses: y (B, …), x (B, C, H, W) or None, the physics, and the seed of its draws.

    `scale` (B,) is what y and the noise of the physics were divided by, None: nothing. `visit` is known in training only. `share`: these are the
    rows that a process has of a batch, None: all of it. The bare reconstruction of the full y is made once, for all losses that ask for it.
    """

    def __init__(
        self, network: nn.Module, physics: Any, y: Tensor, x: Tensor | None, seed: int,
        scale: Tensor | None = None, visit: Visit | None = None, share: Share | None = None,
    ) -> None:  # fmt: skip
        self.network, self.physics, self.y, self.x, self.seed, self.scale, self.visit, self.share = network, physics, y, x, seed, scale, visit, share
        self._bare: Tensor | None = None

    def elements(self, group: Group) -> list[Element]:
        """The random element of each sample."""
        total = len(self.y) if self.share is None else self.share.total
        return list(rows_of(group.draw(total, stream_seed(self.seed, "group")), self.share))

    def noise_stream(self) -> Random:
        """What draws of noise come from."""
        seed = stream_seed(self.seed, "noise")
        return generator(seed, self.y.device) if self.share is None else Rows(seed, self.y.device, self.share)

    @property
    def bare(self) -> Tensor:
        """f(y, A), shape (B, C, H, W)."""
        if self._bare is None:
            self._bare = self.network(self.y, self.physics)
        return self._bare

    def judging(self, image: Tensor) -> Pass:
        """The same pass with another image in place of the bare reconstruction."""
        other = Pass(self.network, self.physics, self.y, self.x, self.seed, self.scale, self.visit, self.share)
        other._bare = image
        return other


class Equivariant(nn.Module):
    """A term that judges T_g f(y, A T_g), with one random g for each sample, in place of the bare f(y, A): Reynolds averaging by one draw."""

    def __init__(self, term: Any, group: Group) -> None:
        super().__init__()
        self.term, self.group = term, group

    @property
    def needs_ground_truth(self) -> bool:
        return bool(self.term.needs_ground_truth)

    def forward(self, batch: Pass) -> Tensor:
        g = Batch(batch.elements(self.group))
        image = g.act(batch.network(batch.y, virtual_operator(batch.physics, g, self.group.orthogonal)))
        return self.term(batch.judging(image))


class EquivariantSplitting(nn.Module):
    """The loss of equivariant splitting, with one random g and one random split for each sample.

    ``w₁ consistency(A₁x̂, M₁y) / mean(M₁) + w₂ prediction(A₂x̂, M₂y) / mean(M₂)`` with ``x̂ = T_g f(M₁y, M₁A T_g)``. Equal to
    `deepinv.loss.EquivariantSplittingLoss` under the same split and g wherever that is right. Source: Sechaud et al., ICLR 2026.

    `consistency` may know about noise; `prediction` is a deepinv loss of (x_net, y, physics), unbiased for independent noise as it is. None
    switches a term off (deepinv cannot, trap 5). An empty side weighs nothing, where deepinv gives NaN. `folds` K: in K visits to a sample each
    of K complementary splits has its turn; None, or where no visit is known: a random split.
    """

    needs_ground_truth = False

    def __init__(
        self,
        group: Group,
        splitter: Any,
        consistency: Consistency | None,
        prediction: nn.Module | None,
        weights: tuple[float, float] = (1.0, 1.0),
        folds: int | None = None,
    ) -> None:
        super().__init__()
        self.group, self.splitter, self.weights, self.folds = group, splitter, weights, folds
        self.consistency, self.prediction = consistency, prediction

    def forward(self, batch: Pass) -> Tensor:
        return self.value(batch, self.split(batch), batch.elements(self.group))

    def split(self, batch: Pass) -> Tensor:
        """M₁ of the samples of a batch, (B, …)."""
        shape, full = batch.y.shape, sampling_mask(batch.physics)
        if self.folds is None or batch.visit is None:
            return draw_rows(self.splitter, shape, full, stream_seed(batch.seed, "split"), batch.share)
        return leave_out(self.splitter, shape, full, batch.visit.folds(self.folds))

    def held_out(self, batch: Pass, seeds: Sequence[int]) -> Tensor:
        """The prediction term of each sample under ONE fixed split and g, drawn from the sample's own seed: shape (B,).

        This is what selects weights: what is predicted was neither fed to the network nor averaged over (in evaluation mode
        deepinv's loss sees every pixel).
        """
        full = sampling_mask(batch.physics)
        mask = torch.cat([draw_split(self.splitter, (1, *batch.y.shape[1:]), own_of(full, i), stream_seed(seed, "split")) for i, seed in enumerate(seeds)])
        elements = [element for seed in seeds for element in self.group.draw(1, stream_seed(seed, "group"))]
        y = batch.y
        if self.consistency is not None:
            y = feed_each(self.consistency, y, self.consistency.noise(batch.physics, batch.scale), seeds)
        x = self._reconstructor(batch, mask, elements)(mask * y)
        rest = _complement(mask, full)
        error = (rest * (batch.physics.A(x) - batch.y)) ** 2
        return error.flatten(1).sum(1) / rest.flatten(1).sum(1).clamp(min=1)

    def value(self, batch: Pass, mask: Tensor, elements: Sequence[Element]) -> Tensor:
        """The loss of a batch for given M₁ (B, …) and the element of each sample."""
        rng = batch.noise_stream()
        noise = None if self.consistency is None else self.consistency.noise(batch.physics, batch.scale)
        fed = mask * (batch.y if self.consistency is None else self.consistency.feed(batch.y, noise, rng))
        reconstruct = self._reconstructor(batch, mask, elements)
        x = reconstruct(fed)
        total = torch.zeros((), device=x.device)
        if self.consistency is not None:
            inside = split_operator(batch.physics, mask, batch.y)
            split = Split(mask, batch.y, fed, inside, x, noise, lambda other: inside.A(reconstruct(other)), rng, batch.share)
            total = total + self.weights[0] * self.consistency(split)
        if self.prediction is not None:
            rest = _complement(mask, sampling_mask(batch.physics))
            value = self.prediction(x_net=x, y=rest * batch.y, physics=split_operator(batch.physics, rest, batch.y), model=batch.network)
            total = total + self.weights[1] * value.mean() / entries(rest, batch.share)
        return total

    def _reconstructor(self, batch: Pass, mask: Tensor, elements: Sequence[Element]) -> Callable[[Tensor], Tensor]:
        """fed ↦ T_g f(fed, M₁A T_g): whoever calls it twice meets the same split and the same g."""
        g = Batch(elements)
        virtual = virtual_operator(split_operator(batch.physics, mask, batch.y), g, self.group.orthogonal)
        return lambda fed: g.act(batch.network(fed, virtual))


def own_of(per_sample: Tensor | None, i: int) -> Tensor | None:
    """The part of a tensor (1 or B, …) that belongs to sample `i`, with its leading axis."""
    return per_sample if per_sample is None or len(per_sample) == 1 else per_sample[i : i + 1]


class Objective(nn.Module):
    """The weighted sum of the losses of a spec over a batch; `network` is the bare reconstructor that a checkpoint keeps."""

    def __init__(self, network: nn.Module, terms: Sequence[tuple[str, float, nn.Module]]) -> None:
        super().__init__()
        self.network = network
        self.names = [name for name, _, _ in terms]
        self.weights = [weight for _, weight, _ in terms]
        self.terms = nn.ModuleList([term for _, _, term in terms])

    @classmethod
    def like(cls, other: Objective, network: nn.Module) -> Objective:
        """The same losses for another network."""
        return cls(network, list(zip(other.names, other.weights, other.terms, strict=True)))

    def learned(self) -> dict[str, Tensor]:
        """What the losses themselves have learned, such as the σ² of UNSURE, by a name that is stable from run to run."""
        modules = [(f"{i}.{path}", one) for i, term in enumerate(self.terms) for path, one in term.named_modules()]
        found = [(path.rstrip("."), one) for path, one in modules if isinstance(one, Unsure) or getattr(one, "learns", False)]
        return {f"{path}.{name}": value for path, one in found for name, value in one.named_buffers(recurse=False)}

    def restore(self, learned: Mapping[str, Tensor]) -> None:
        """Go on from what `learned` gave. Raises KeyError where something is missing."""
        for name, buffer in self.learned().items():
            buffer.copy_(learned[name])

    @property
    def needs_ground_truth(self) -> bool:
        return any(bool(term.needs_ground_truth) for term in self.terms)

    def forward(
        self, y: Tensor, physics: Any, seed: int, x: Tensor | None = None,
        scale: Tensor | None = None, visit: Visit | None = None, share: Share | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """The loss of y (B, …), a scalar, and its unweighted terms, detached. `x` is only there for a loss that the spec names as supervised.

        `scale` (B,) is what y and the noise of the physics were divided by, None: nothing. `visit` says which samples these are, for splits
        that take turns; None: splits are random. `share`: these are a process's rows of a batch, and its loss is such that the mean over all
        processes, each by its weight, is the loss of the batch.
        """
        batch = Pass(self.network, physics, y, x, seed, scale, visit, share)
        total = torch.zeros((), device=y.device)
        values: dict[str, Tensor] = {}
        for name, weight, term in zip(self.names, self.weights, self.terms, strict=True):
            value = term(batch)
            total = total + weight * value
            values[name] = value.detach()
        return total, values

    @torch.no_grad()
    def held_out(self, y: Tensor, physics: Any, seeds: Sequence[int], x: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """The loss that selects weights, one value for each sample, shape (B,): the held-out error of equivariant splitting where
        the objective has it, else the objective itself, sample by sample."""
        for term in self.terms:
            if isinstance(term, EquivariantSplitting):
                return term.held_out(Pass(self.network, physics, y, None, 0, scale), seeds)
        values = []
        for i, seed in enumerate(seeds):
            values.append(self(y[i : i + 1], of_one_sample(physics, i), seed, own_of(x, i), own_of(scale, i))[0])
        return torch.stack(values)


def _complement(mask: Tensor, full: Tensor | None) -> Tensor:
    """M₂ = M − M₁; M is everything where `full` is None."""
    return (1 - mask) if full is None else (full - mask)
