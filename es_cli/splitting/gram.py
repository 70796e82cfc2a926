"""Closed forms in measurement space: for A with m rows, G = A Aᵀ is m × m, and small where few measurements see a large image."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import SinglePixelCamera
from torch import Tensor


def gram_matrix(physics: Any) -> Tensor | None:
    """G = A Aᵀ of one channel or of the whole image, (m, m); None where A is not given by a matrix."""
    gram = getattr(physics, "gram", None)
    if isinstance(gram, Tensor):
        return gram
    if isinstance(physics, SinglePixelCamera) and not physics.fast:
        return (physics.u * physics.mask**2) @ physics.u.mT
    return None


def gram_prox(physics: Any, gram: Tensor, mask: Tensor | None, z: Any, y: Tensor, gamma: Any) -> Tensor:
    """argmin_x γ/2 ‖M(A x − y)‖² + ½ ‖x − z‖² = z + AᵀM (M G M + I/γ)⁻¹ M(y − A z).

    y (B, m) or (B, C, m); `mask` of the same shape, or None for ones; z an image, a number or None (0); γ a number, or one for each sample.
    """
    z = torch.full_like(physics.A_adjoint(y), float(z or 0)) if not isinstance(z, Tensor) else z
    ridge = 1 / torch.as_tensor(gamma, dtype=y.dtype, device=y.device).flatten()
    ridge = ridge.view(-1, *[1] * (y.ndim - 1)).expand(*y.shape[:-1], 1)
    mask = torch.ones_like(y) if mask is None else mask.expand_as(y)
    right = mask * (y - physics.A(z))
    with torch.no_grad():
        inverse = _inverse(gram, ridge)
        weights = _restricted_solve(inverse, mask, right)
    # one step of refinement, whose gradient is the implicit one: no gradient goes through the inverse itself
    error = right - mask * (weights @ gram + ridge * weights)
    return z + physics.A_adjoint(weights + _Restricted.apply(error, inverse, mask))


def gram_dagger(physics: Any, gram: Tensor, mask: Tensor | None, y: Tensor) -> Tensor:
    """The pseudoinverse of M A applied to y: AᵀM (M G M)† M y, by Cholesky where the rows are independent."""
    system = gram if mask is None else mask[..., :, None] * gram * mask[..., None, :] + torch.diag_embed(1 - mask)
    factor, failed = torch.linalg.cholesky_ex(system)
    held = y if mask is None else mask * y
    singular = bool(failed.any()) or len(gram) > physics.A_adjoint(y[:1])[0].numel()
    weights = _apply(torch.linalg.pinv(system, hermitian=True), held) if singular else _back_substitute(factor, held)
    return physics.A_adjoint(weights if mask is None else mask * weights)


class _Restricted(torch.autograd.Function):
    """r ↦ M (M H M)⁻¹ M r, which is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, inverse: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, mask)
        return _restricted_solve(inverse, mask, right)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        inverse, mask = ctx.saved_tensors
        return _restricted_solve(inverse, mask, mask * gradient), None, None


def _inverse(gram: Tensor, ridge: Tensor) -> Tensor:
    """H⁻¹ = (G + ridge)⁻¹: (m, m), or (…, m, m) where samples have a ridge of their own."""
    ridge = ridge[..., None] if len(ridge) > 1 and bool((ridge != ridge.flatten()[0]).any()) else ridge.flatten()[0]
    return torch.cholesky_inverse(torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))


def _restricted_solve(inverse: Tensor, mask: Tensor, right: Tensor) -> Tensor:
    """M (M H M)⁻¹ M r from P = H⁻¹, by eliminating the few entries R that M leaves out: M (t − P_R P_RR⁻¹ t_R) with t = P r.

    `mask` and `right` (…, m), `right` zero outside M. One inverse serves all samples; only P_RR is theirs.
    """
    solved = _apply(inverse, right)
    count = int((1 - mask).sum(-1).max())
    if count == 0:
        return solved
    left_out, at = (1 - mask).topk(count, -1)  # padded with entries of M where a sample leaves out fewer
    block = inverse.expand(*mask.shape, mask.shape[-1]).gather(-2, at[..., None].expand(*at.shape, mask.shape[-1]))
    block = block.gather(-1, at[..., None, :].expand(*at.shape, count))
    block = left_out[..., :, None] * block * left_out[..., None, :] + torch.diag_embed(1 - left_out)
    weights = torch.linalg.solve(block, left_out * solved.gather(-1, at))
    correction = torch.zeros_like(right).scatter(-1, at, left_out * weights)
    return mask * (solved - _apply(inverse, correction))


def _back_substitute(factor: Tensor, right: Tensor) -> Tensor:
    if factor.ndim == 2:  # one system for all samples: they are its columns
        return torch.cholesky_solve(right.reshape(-1, right.shape[-1]).mT, factor).mT.reshape(right.shape)
    return torch.cholesky_solve(right[..., None], factor)[..., 0]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return vector @ matrix if matrix.ndim == 2 else (matrix @ vector[..., None])[..., 0]
