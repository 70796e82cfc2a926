"""Virtual operators A T_g, in closed form wherever A has one.

deepinv solves the proximal step of a virtual operator by conjugate gradients (deepinv 0.5.0). For orthogonal T_g,
prox_{A T_g}(z, y) = T_g⁻¹ prox_A(T_g z, y).
"""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import MRI, DynamicMRI, LinearPhysics
from torch import Tensor

from es_cli.splitting.group import Batch
from es_cli.splitting.operators import own, sampling_mask, split_operator, with_mask, with_noise

__all__ = ["VirtualOperator", "split_operator", "virtual_operator", "with_mask", "with_noise"]


class VirtualOperator(LinearPhysics):
    """A T_g, with the closed forms of A. `g` may give each sample its own element.

    Shapes of images and measurements are those of A. Source: Sechaud et al., Equivariant Splitting, ICLR 2026, section 3.
    """

    def __init__(self, physics: Any, g: Batch, orthogonal: bool) -> None:
        super().__init__(noise_model=own(physics.noise_model), img_size=getattr(physics, "img_size", None))
        self.physics, self.g, self.orthogonal = physics, g, orthogonal

    @property
    def mask(self) -> Tensor:
        """The mask of A, as A holds it; AttributeError where A has none, or one of singular values."""
        if sampling_mask(self.physics) is None:
            raise AttributeError("mask")
        return self.physics.mask

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A(self.g.act(x))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """T_g⁻¹Aᵀy, the adjoint where T_g is orthogonal (deepinv takes it in every case)."""
        return self.g.inverse(self.physics.A_adjoint(y))

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.g.inverse(self.physics.A_dagger(y, **kwargs))

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.g.inverse(self.physics.A_adjoint_A(self.g.act(x)))

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """argmin_x γ/2 ‖A T_g x − y‖² + ½ ‖x − z‖²; z None or a number stands for a constant image."""
        if not self.orthogonal:
            return super().prox_l2(z, y, gamma, **kwargs)
        moved = self.g.act(z) if isinstance(z, Tensor) else z
        return self.g.inverse(_proximal(self.physics, moved, y, gamma, **kwargs))

    def update_parameters(self, **kwargs: Any) -> None:
        """Update A within A T_g, and leave the A that this was made from as it was."""
        self.physics = own(self.physics)
        self.physics.update_parameters(**kwargs)


def _proximal(physics: Any, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
    """`physics.prox_l2`; for MRI with one Fourier transform there and one back, where deepinv takes three for the same."""
    if not isinstance(physics, MRI) or isinstance(physics, DynamicMRI) or not isinstance(z, Tensor):
        return physics.prox_l2(z, y, gamma, **kwargs)
    mask = physics.mask
    weight = torch.as_tensor(gamma, dtype=z.dtype, device=z.device)
    weight = weight.view(*weight.shape, *[1] * (mask.ndim - weight.ndim)) if weight.ndim else weight
    return physics.V((weight * mask * y + physics.V_adjoint(z)) / (weight * mask**2 + 1))


def virtual_operator(physics: Any, g: Batch, orthogonal: bool) -> Any:
    """A T_g; A itself where g is the identity alone."""
    if all(element.label == "identity" for element in g.elements):
        return physics
    return VirtualOperator(physics, g, orthogonal)
