"""Split operators: M A for a mask M of the measurement, keeping all that A is and its closed forms."""

from __future__ import annotations

import copy
from typing import Any

from deepinv.physics import (
    MRI,
    ComposedPhysics,
    Denoising,
    Inpainting,
    LinearPhysics,
    MultiCoilMRI,
    NonCartesianMRI,
    SinglePixelCamera,
)
from torch import Tensor, nn

from es_cli.splitting.conjugate_gradients import least_squares
from es_cli.splitting.gram import gram_dagger, gram_matrix, gram_prox
from es_cli.splitting.tomography import Tomography


class MaskedOperator(LinearPhysics):
    """M A, for A of any kind and a 0/1 mask M of the measurement's shape (1 or B, …).

    Closed forms: A† and the proximal step through the Gram matrix where A is given by a matrix; A† by filtered back-projection for
    tomography, refined by least squares. Elsewhere deepinv's solver.
    """

    def __init__(self, physics: Any, mask: Tensor) -> None:
        solver = {name: getattr(physics, name) for name in ("max_iter", "tol", "solver", "implicit_backward_solver")}
        super().__init__(noise_model=own(physics.noise_model), img_size=getattr(physics, "img_size", None), device=mask.device, **solver)
        self.physics = physics
        self.register_buffer("mask", mask)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.mask * self.physics.A(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A_adjoint(self.mask * y)

    def noise(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Noise where something is measured, as Inpainting has it."""
        return self.mask * self.noise_model(x, **kwargs)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudoinverse; for tomography that of the whole sinogram, its start divided by the fraction of the angles that are kept."""
        gram = gram_matrix(self.physics)
        if gram is not None:
            return gram_dagger(self.physics, gram, self.mask, y)
        if isinstance(self.physics, Tomography):
            kept = self.mask.flatten(1).mean(1).clamp(min=1 / self.mask[0].numel())
            start = self.physics.fbp(self.mask * y) / kept.view(-1, 1, 1, 1)
            return least_squares(self, self.mask * y, start, self.physics.refine_steps)
        return super().A_dagger(self.mask * y, **kwargs)

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """argmin_x γ/2 ‖M(A x − y)‖² + ½ ‖x − z‖²; z None or a number stands for a constant image."""
        gram = gram_matrix(self.physics)
        if gram is not None:
            return gram_prox(self.physics, gram, self.mask, z, y, gamma)
        return super().prox_l2(z, self.mask * y, gamma, **kwargs)


def sampling_mask(physics: Any) -> Tensor | None:
    """The 0/1 mask of what `physics` measures, (1 or B, …), broadcastable to y: of size 1 along the coils, which share it. None: everything.

    `physics.mask` alone will not do: in BlurFFT and others it holds singular values. An operator of several says itself what is `sampled`.
    """
    if hasattr(physics, "sampled"):
        return physics.sampled
    if isinstance(physics, ComposedPhysics):
        return sampling_mask(physics.physics_list[-1])
    if isinstance(physics, NonCartesianMRI):
        return None  # its mask is one of the image grid, and all ones
    if isinstance(physics, MultiCoilMRI):
        return physics.mask[:, :, None]
    if not _samples(physics):
        return None
    mask = physics.mask
    if isinstance(physics, MRI) and physics.three_d and mask.ndim == 4:
        return mask[:, None]  # deepinv takes the slices of a volume's mask for its channels
    missing = len(physics.img_size) + 1 - mask.ndim if isinstance(physics, Inpainting) else 0
    return mask[(None,) * missing] if missing > 0 else mask


def split_operator(physics: Any, mask: Tensor, y: Tensor) -> Any:
    """M A for a mask M of the shape of y (B, …), of the same kind as `physics` where the kind allows.

    The noise model is a copy of that of `physics`, so that updating the split leaves `physics` as it was.
    """
    if isinstance(physics, Denoising):
        return Inpainting(tuple(y.shape[1:]), mask=mask, noise_model=own(physics.noise_model), device=mask.device)
    full = sampling_mask(physics)
    mask = mask if full is None else mask * full
    several = isinstance(physics, ComposedPhysics) or hasattr(physics, "sampled")
    return MaskedOperator(physics, mask) if full is None or several else with_mask(physics, mask)


def with_mask(physics: Any, mask: Tensor) -> Any:
    """The sampling operator `physics` with another mask (1 or B, …), shaped as `sampling_mask` gives it or as y; all else is kept."""
    if isinstance(physics, MaskedOperator):
        return MaskedOperator(physics.physics, mask)
    if isinstance(physics, Inpainting):
        return Inpainting(physics.img_size, mask=mask, noise_model=own(physics.noise_model), device=mask.device)
    twin = _twin(physics)
    twin.mask = mask[:, :, 0] if isinstance(physics, MultiCoilMRI) and mask.ndim > physics.mask.ndim else mask
    return twin


def with_noise(physics: Any, noise_model: Any) -> Any:
    """`physics` with another noise model; updating it leaves `physics` as it was."""
    twin = _twin(physics)
    twin.noise_model = noise_model
    return twin


def _samples(physics: Any) -> bool:
    """Whether `physics.mask` says which entries of y are measured."""
    return isinstance(physics, (Inpainting, MRI, MultiCoilMRI, MaskedOperator)) or (isinstance(physics, SinglePixelCamera) and physics.fast)


def _twin(physics: Any) -> Any:
    """A shallow copy whose tensors can be replaced without the original's knowing, with a noise model of its own."""
    twin = own(physics)
    twin.noise_model = own(physics.noise_model)
    return twin


def own(module: Any) -> Any:
    """A shallow copy of a module with tables of its own; anything else as it is."""
    if not isinstance(module, nn.Module):
        return module
    twin = copy.copy(module)
    for table in ("_buffers", "_parameters", "_modules"):
        twin.__dict__[table] = dict(module.__dict__[table])
    return twin
