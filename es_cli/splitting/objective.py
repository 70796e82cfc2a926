"""The training objective: a network and its losses in one module, so that whatever wraps the module wraps both.

deepinv finds the model of a loss by identity, which breaks under copies, compilation and data parallelism; here a loss is called with
the network that the objective holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from es_cli.splitting.group import Batch, Element, Group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.streams import stream_seed


class Pass:
    """One batch on its way through the losses: y (B, …), x (B, C, H, W) or None, the physics, and the seed of its draws.

    The bare reconstruction of the full y is made once, for all losses that ask for it.
    """

    def __init__(self, network: nn.Module, physics: Any, y: Tensor, x: Tensor | None, seed: int) -> None:
        self.network, self.physics, self.y, self.x, self.seed = network, physics, y, x, seed
        self._bare: Tensor | None = None

    @property
    def bare(self) -> Tensor:
        """f(y, A), shape (B, C, H, W)."""
        if self._bare is None:
            self._bare = self.network(self.y, self.physics)
        return self._bare


class EquivariantSplitting(nn.Module):
    """The loss of equivariant splitting, with one random g and one random split for each sample.

    ``consistency(A₁x̂, M₁y) / mean(M₁) + prediction(A₂x̂, M₂y) / mean(M₂)`` with ``x̂ = T_g f(M₁y, M₁A T_g)``. Equal to
    `deepinv.loss.EquivariantSplittingLoss` under the same split and g. Source: Sechaud et al., ICLR 2026.

    `consistency` and `prediction` are deepinv losses of (x_net, y, physics); None switches a term off (deepinv cannot).
    An empty side weighs nothing, where deepinv gives NaN.
    """

    needs_ground_truth = False

    def __init__(self, group: Group, splitter: Any, consistency: nn.Module | None, prediction: nn.Module | None) -> None:
        super().__init__()
        self.group, self.splitter = group, splitter
        self.consistency, self.prediction = consistency, prediction

    def forward(self, batch: Pass) -> Tensor:
        g = self.group.draw(len(batch.y), stream_seed(batch.seed, "group"))
        mask = draw_split(self.splitter, batch.y.shape, sampling_mask(batch.physics), stream_seed(batch.seed, "split"))
        return self.value(batch, mask, g)

    def held_out(self, batch: Pass, seeds: Sequence[int]) -> Tensor:
        """The prediction term of each sample under ONE fixed split and g, drawn from the sample's own seed: shape (B,).

        This is what selects weights: what is predicted was neither fed to the network nor averaged over (in evaluation mode
        deepinv's loss sees every pixel).
        """
        full = sampling_mask(batch.physics)
        masks, elements = [], []
        for i, seed in enumerate(seeds):
            own = full if full is None or len(full) == 1 else full[i : i + 1]
            masks.append(draw_split(self.splitter, (1, *batch.y.shape[1:]), own, stream_seed(seed, "split")))
            elements += self.group.draw(1, stream_seed(seed, "group"))
        mask = torch.cat(masks)
        x = self._reconstruct(batch, mask, elements)
        rest = _complement(mask, full)
        error = (rest * (batch.physics.A(x) - batch.y)) ** 2
        return error.flatten(1).sum(1) / rest.flatten(1).sum(1).clamp(min=1)

    def value(self, batch: Pass, mask: Tensor, elements: Sequence[Element]) -> Tensor:
        """The loss of a batch for given M₁ (B, …) and the element of each sample."""
        x = self._reconstruct(batch, mask, elements)
        rest = _complement(mask, sampling_mask(batch.physics))
        total = torch.zeros((), device=x.device)
        for loss, side in ((self.consistency, mask), (self.prediction, rest)):
            if loss is not None:
                part = split_operator(batch.physics, side, batch.y)
                value = loss(x_net=x, y=side * batch.y, physics=part, model=batch.network)
                total = total + value.mean() / side.mean().clamp(min=1 / side.numel())
        return total

    def _reconstruct(self, batch: Pass, mask: Tensor, elements: Sequence[Element]) -> Tensor:
        g = Batch(elements)
        split = split_operator(batch.physics, mask, batch.y)
        return g.act(batch.network(mask * batch.y, virtual_operator(split, g, self.group.orthogonal)))


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

    @property
    def needs_ground_truth(self) -> bool:
        return any(bool(term.needs_ground_truth) for term in self.terms)

    def forward(self, y: Tensor, physics: Any, seed: int, x: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of y (B, …), a scalar, and its unweighted terms, detached. `x` is only there for a loss that the spec names as supervised."""
        batch = Pass(self.network, physics, y, x, seed)
        total = torch.zeros((), device=y.device)
        values: dict[str, Tensor] = {}
        for name, weight, term in zip(self.names, self.weights, self.terms, strict=True):
            value = term(batch)
            total = total + weight * value
            values[name] = value.detach()
        return total, values

    @torch.no_grad()
    def held_out(self, y: Tensor, physics: Any, seeds: Sequence[int], x: Tensor | None = None) -> Tensor:
        """The loss that selects weights, one value for each sample, shape (B,): the held-out error of equivariant splitting where
        the objective has it, else the objective itself, sample by sample."""
        for term in self.terms:
            if isinstance(term, EquivariantSplitting):
                return term.held_out(Pass(self.network, physics, y, None, 0), seeds)
        values = []
        for i, seed in enumerate(seeds):
            own = None if x is None else x[i : i + 1]
            values.append(self(y[i : i + 1], physics, seed, own)[0])
        return torch.stack(values)


def _complement(mask: Tensor, full: Tensor | None) -> Tensor:
    """M₂ = M − M₁; M is everything where `full` is None."""
    return (1 - mask) if full is None else (full - mask)
