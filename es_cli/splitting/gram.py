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
    """argmin_x γ/2 ‖M(A x − y)‖² + ½ ‖x − z‖² = z + AᵀM (M G M + I/γ)⁻¹ M(y − A z), by Cholesky.

    y (B, m) or (B, C, m); `mask` of the same shape, or None for ones; z an image, a number or None (0); γ a number, or one for each sample.
    """
    z = torch.full_like(physics.A_adjoint(y), float(z or 0)) if not isinstance(z, Tensor) else z
    ridge = 1 / torch.as_tensor(gamma, dtype=y.dtype, device=y.device).flatten()
    ridge = ridge.view(-1, *[1] * (y.ndim - 1)) if len(ridge) > 1 else ridge
    residual = y - physics.A(z)
    return z + physics.A_adjoint(_solve(gram, mask, ridge, residual))


def gram_dagger(physics: Any, gram: Tensor, mask: Tensor | None, y: Tensor) -> Tensor:
    """The pseudoinverse of M A applied to y: AᵀM (M G M)† M y, by Cholesky where the rows are independent."""
    system = gram if mask is None else mask[..., :, None] * gram * mask[..., None, :] + torch.diag_embed(1 - mask)
    factor, failed = torch.linalg.cholesky_ex(system)
    held = y if mask is None else mask * y
    singular = bool(failed.any()) or len(gram) > physics.A_adjoint(y[:1])[0].numel()
    weights = _apply(torch.linalg.pinv(system, hermitian=True), held) if singular else _back_substitute(factor, held)
    return physics.A_adjoint(weights if mask is None else mask * weights)


def _solve(gram: Tensor, mask: Tensor | None, ridge: Tensor, residual: Tensor) -> Tensor:
    """M (M G M + ridge)⁻¹ M r; entries outside M are 0."""
    if mask is None:
        system = gram + ridge[..., None] * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return _back_substitute(torch.linalg.cholesky(system), residual)
    # ones stand on the diagonal outside M, where nothing is coupled, so that a small ridge costs no accuracy
    system = mask[..., :, None] * gram * mask[..., None, :] + torch.diag_embed(mask * ridge + (1 - mask))
    return mask * _back_substitute(torch.linalg.cholesky(system), mask * residual)


def _back_substitute(factor: Tensor, right: Tensor) -> Tensor:
    if factor.ndim == 2:  # one system for all samples: they are its columns
        return torch.cholesky_solve(right.reshape(-1, right.shape[-1]).mT, factor).mT.reshape(right.shape)
    return torch.cholesky_solve(right[..., None], factor)[..., 0]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
