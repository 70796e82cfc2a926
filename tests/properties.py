"""Properties that the mathematics must have, each as a function that asserts it."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_adjoint(physics, image_shape, measurement_shape, tolerance=1e-5):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for random x (1, *image_shape) and y (1, *measurement_shape)."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, *image_shape, generator=rng), torch.randn(1, *measurement_shape, generator=rng)
    left, right = (physics.A(x) * y).sum(), (x * physics.A_adjoint(y)).sum()
    assert torch.isclose(left, right, rtol=tolerance, atol=tolerance), (left, right)


def assert_undone(element, x: Tensor):
    """T⁻¹ T x = T T⁻¹ x = x, bit for bit."""
    assert torch.equal(element.inverse(element.act(x)), x)
    assert torch.equal(element.act(element.inverse(x)), x)


def assert_proximal(physics, prox: Tensor, z: Tensor, y: Tensor, gamma: float, tolerance=1e-4):
    """p = prox_l2(z, y, γ) solves the normal equations (γ AᵀA + I) p = γ Aᵀy + z."""
    left = gamma * physics.A_adjoint(physics.A(prox)) + prox
    right = gamma * physics.A_adjoint(y) + z
    assert torch.allclose(left, right, atol=tolerance, rtol=tolerance), (left - right).abs().max()
