"""Compressed sensing by a matrix, drawn or given, with pseudoinverse and proximal step in closed form."""

from __future__ import annotations

import math
from typing import Any

import deepinv.physics
from deepinv.physics import LinearPhysics
from torch import Tensor

from es_cli.splitting.gram import gram_dagger, gram_prox


class _ByGram:
    """The proximal step through `gram`, A Aᵀ (m, m), in place of deepinv's conjugate gradients."""

    gram: Tensor

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """argmin_x γ/2 ‖A x − y‖² + ½ ‖x − z‖²; z None or a number stands for a constant image."""
        return gram_prox(self, self.gram, None, z, y, gamma)


class CompressedSensing(_ByGram, deepinv.physics.CompressedSensing):
    """Compressed sensing with a random Gaussian matrix that is drawn once: deepinv's operator, with its proximal step in closed form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("gram", self._A @ self._A.mT, persistent=False)
        self.register_load_state_dict_post_hook(_renew_gram)


class SensingMatrix(_ByGram, LinearPhysics):
    """Compressed sensing with a given matrix: y = matrix · x, for an image x read row by row, channel by channel.

    Images are (B, C, H, W); measurements (B, m), or (B, C, m) where the matrix has H · W columns and sees each channel by itself.

    :param torch.Tensor matrix: the sensing matrix, of shape (m, C * H * W), or (m, H * W) to be applied to each channel.
    :param tuple img_size: shape (C, H, W) of images.
    """

    def __init__(self, matrix: Tensor, img_size: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(img_size=tuple(img_size), **kwargs)
        if matrix.ndim != 2 or matrix.shape[1] not in (math.prod(img_size), math.prod(img_size[1:])):
            raise ValueError(f"a matrix of shape {tuple(matrix.shape)} for images of {tuple(img_size)}, wanted (m, {math.prod(img_size)})")
        self.channelwise = matrix.shape[1] != math.prod(img_size)
        self.register_buffer("matrix", matrix)
        self.register_buffer("gram", matrix @ matrix.mT, persistent=False)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.flatten(2 if self.channelwise else 1) @ self.matrix.mT

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return (y @ self.matrix).view(len(y), *self.img_size)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return gram_dagger(self, self.gram, None, y)


def _renew_gram(physics: Any, _: Any) -> None:
    physics.gram = physics._A @ physics._A.mT
