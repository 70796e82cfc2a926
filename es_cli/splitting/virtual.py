"""Split operators A₁ = M₁A and virtual operators A T_g, in closed form wherever A has one.

deepinv composes a split with a generic solver where the class is not Inpainting or MRI, drops `three_d` of a split MRI, and solves
the proximal step of a virtual operator by conjugate gradients (deepinv 0.5.0). For orthogonal T_g,
prox_{A T_g}(z, y) = T_g⁻¹ prox_A(T_g z, y).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from deepinv.loss import SplittingLoss
from deepinv.physics import MRI, Denoising, Inpainting, LinearPhysics
from torch import Tensor

from es_cli.splitting.group import Batch


def split_operator(physics: Any, mask: Tensor, y: Tensor) -> Any:
    """M A for a mask M of the measurement's shape (B, …), of the same kind as `physics` where the kind allows.

    The noise model is that of `physics`.
    """
    if isinstance(physics, Denoising):
        return Inpainting(tuple(mask.shape[1:]), mask=mask, noise_model=physics.noise_model, device=mask.device)
    if isinstance(physics, Inpainting) or type(physics) is MRI:
        return with_mask(physics, mask * physics.mask)
    return SplittingLoss.split(mask, y, physics)[1]


def with_mask(physics: Any, mask: Tensor) -> Any:
    """The sampling operator `physics`, an Inpainting or an MRI, with another mask of shape (1 or B, C, …)."""
    if isinstance(physics, Inpainting):
        return Inpainting(physics.img_size, mask=mask, noise_model=physics.noise_model, device=mask.device)
    return MRI(mask=mask, three_d=physics.three_d, noise_model=physics.noise_model, device=mask.device)


def with_noise(physics: Any, noise_model: Any) -> Any:
    """`physics` with another noise model; everything else is shared with the original, which stays as it was."""
    clone = copy.copy(physics)
    clone._modules = dict(physics._modules)
    clone.noise_model = noise_model
    return clone


class VirtualOperator(LinearPhysics):
    """A T_g, with the closed forms of A. `g` may give each sample its own element.

    Shapes of images and measurements are those of A. Source: Sechaud et al., Equivariant Splitting, ICLR 2026, section 3.
    """

    def __init__(self, physics: Any, g: Batch, orthogonal: bool) -> None:
        super().__init__(noise_model=physics.noise_model, img_size=getattr(physics, "img_size", None))
        self.physics, self.g, self.orthogonal = physics, g, orthogonal

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A(self.g.act(x), **kwargs)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """T_g⁻¹Aᵀy, the adjoint where T_g is orthogonal (deepinv takes it in every case)."""
        return self.g.inverse(self.physics.A_adjoint(y, **kwargs))

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.g.inverse(self.physics.A_dagger(y, **kwargs))

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.g.inverse(self.physics.A_adjoint_A(self.g.act(x), **kwargs))

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """argmin_x γ/2 ‖A T_g x − y‖² + ½ ‖x − z‖²; z None or a number stands for a constant image."""
        if not self.orthogonal:
            return super().prox_l2(z, y, gamma, **kwargs)
        moved = self.g.act(z) if isinstance(z, torch.Tensor) else z
        return self.g.inverse(self.physics.prox_l2(moved, y, gamma, **kwargs))


def virtual_operator(physics: Any, g: Batch, orthogonal: bool) -> Any:
    """A T_g; A itself where g is the identity alone."""
    if all(element.label == "identity" for element in g.elements):
        return physics
    return VirtualOperator(physics, g, orthogonal)
