"""Q = E_g[(A T_g)ᵀ A T_g], what the measurements of all virtual operators see together, as an action on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_cli.splitting.group import Batch, Element

# pixels that go through the operator at once
PIXELS_AT_ONCE = 1 << 19


class ExpectedNormal:
    """x ↦ E[(A T_g)ᵀ A T_g x] over operators A and elements g, for images x (P, C, …, H, W) with the same for each.

    Where the elements are not `orthogonal`, T_gᵀ is found by automatic differentiation.
    """

    def __init__(self, operators: Sequence[Any], elements: Sequence[Element], orthogonal: bool) -> None:
        self.operators, self.elements, self.orthogonal = list(operators), list(elements), orthogonal
        self._kept: dict[int, list[Batch]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for batch, count in self._batches(x):
            moved = batch.act(x.repeat(count, *[1] * (x.ndim - 1)))
            seen = sum(normal(physics, moved) for physics in self.operators)
            total += transposed(batch, seen, self.orthogonal).view(count, *x.shape).sum(0)
        return total / (len(self.operators) * len(self.elements))

    def _batches(self, x: Tensor) -> list[tuple[Batch, int]]:
        """The elements in equal parts, as many at once as memory is meant for: operators keep what they made for a batch of one size."""
        most = max(1, PIXELS_AT_ONCE // x.numel())
        count = max(n for n in range(1, len(self.elements) + 1) if len(self.elements) % n == 0 and n <= most)
        if len(x) not in self._kept:
            parts = [self.elements[i : i + count] for i in range(0, len(self.elements), count)]
            self._kept[len(x)] = [Batch(part, run=len(x)) for part in parts]
        return [(batch, count) for batch in self._kept[len(x)]]


def normal(physics: Any, x: Tensor) -> Tensor:
    """AᵀA x."""
    with torch.no_grad():
        return physics.A_adjoint(physics.A(x))


def transposed(batch: Batch, z: Tensor, orthogonal: bool) -> Tensor:
    """T_gᵀz for images z (B, C, …, H, W)."""
    if orthogonal:
        return batch.inverse(z)
    with torch.enable_grad():
        x = torch.zeros_like(z, requires_grad=True)
        return torch.autograd.grad(batch.act(x), x, z)[0]
