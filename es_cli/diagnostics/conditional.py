"""Which elements of a group the theorem counts: those whose virtual operator sees all that the network was given, row(A₁) ⊂ row(A T_g).

Under them the network cannot tell the virtual operator from the one that measured. Source: Sechaud et al., Equivariant Splitting, ICLR 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from es_cli.diagnostics.expected import PIXELS_AT_ONCE, normal, transposed
from es_cli.diagnostics.quadrature import TOLERANCE, lanczos, residual
from es_cli.splitting.group import IDENTITY, Batch, Element

STEPS = 12
INSIDE = 1e-2  # energy of a random image of row(A₁) that A T_g may miss: what the ridge leaves of directions that A hardly sees


def including(physics: Any, split: Any, elements: Sequence[Element], orthogonal: bool, white: Tensor, top: float) -> list[Element]:
    """Those of `elements` for which row(A₁) ⊂ row(A T_g), for A₁ = `split` and A = `physics`; `top` is the largest eigenvalue of AᵀA.

    One `white` image (1, C, …, H, W), taken to row(A₁) by A₁ᵀA₁, lies in row(A T_g) with probability 0 unless all of row(A₁) does. The identity is
    among those that are kept by definition.
    """
    given = normal(split, white)
    at_once = max(1, PIXELS_AT_ONCE // given.numel())
    kept = [element for element in elements if element.label == IDENTITY.label]
    others = [element for element in elements if element.label != IDENTITY.label]
    for first in range(0, len(others), at_once):
        part = others[first : first + at_once]
        batch = Batch(part)
        starts = given.repeat(len(part), *[1] * (given.ndim - 1))
        measures = lanczos(_virtual_normal(physics, batch, orthogonal), starts, STEPS)
        kept += [element for element, one in zip(part, measures, strict=True) if residual(one, TOLERANCE * top) < INSIDE]
    return kept


def _virtual_normal(physics: Any, batch: Batch, orthogonal: bool) -> Callable[[Tensor], Tensor]:
    """x ↦ (A T_g)ᵀ A T_g x, each image of x with its own g."""
    return lambda x: transposed(batch, normal(physics, batch.act(x)), orthogonal)
