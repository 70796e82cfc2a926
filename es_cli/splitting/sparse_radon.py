"""The Radon transform of a tomography operator as a sparse matrix: on a CPU many images at once go through it in the time of one.

deepinv interpolates a rotated image for every angle of every image, and differentiates that for the adjoint (deepinv 0.5.0). The matrix holds the same
weights, so that both are products: for 31 images of 320 × 320 and 50 angles, a second in place of half a minute.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from deepinv.physics import Tomography
from torch import Tensor, nn

from es_cli.splitting.operators import own

MOST_WEIGHTS = 1 << 25  # of a matrix; with its transpose half a gigabyte
AGREE = 1e-4  # relative difference from deepinv's transform in single precision
_known: WeakKeyDictionary[nn.Module, nn.Module | None] = WeakKeyDictionary()


def with_sparse_radon(physics: Any) -> Any:
    """The same operator with its Radon transform as a sparse matrix, and with the adjoint that belongs to it.

    `physics` itself where it is no tomography, not on a CPU, too large, or where the matrix does not give what deepinv's transform gives.
    """
    if not isinstance(physics, Tomography) or physics.radon.all_grids.device.type != "cpu":
        return physics
    if physics.radon not in _known:
        _known[physics.radon] = _checked(physics)
    radon = _known[physics.radon]
    if radon is None:
        return physics
    twin: Any = own(physics)
    twin.radon, twin.adjoint_via_backprop, twin._auto_grad_adjoint_fn = radon, True, None
    twin._auto_grad_adjoint_input_shape = None
    return twin


def _checked(physics: Any) -> nn.Module | None:
    """The matrix of the transform of `physics`; None where it would be too large, or does not agree with it."""
    grids = _grids(physics.radon)
    if 4 * grids[..., 0].numel() > 2 * MOST_WEIGHTS:  # half of the points lie outside of the image
        return None
    size = physics.img_width
    with torch.no_grad():
        made = SparseRadon(grids, size, physics.radon)
        x = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
        wanted = physics.radon(x)
        found = made(x)
        back = (made.pair.transposed @ (made.pair.matrix @ x.view(-1, 1))).view_as(x)
    energy = float(wanted.double().square().sum())
    agrees = found.shape == wanted.shape and float((found - wanted).norm()) <= AGREE * math.sqrt(energy)
    return made if agrees and abs(float((x.double() * back).sum()) - energy) <= AGREE * energy else None


def _grids(radon: Any) -> Tensor:
    """Where deepinv interpolates, (angles, points of a ray, detectors, 2), in units that span the padded image from −1 to 1."""
    count, grids = len(radon.theta), radon.all_grids
    if radon.parallel_computation:
        return grids[0].view(grids.shape[1], count, -1, 2).transpose(0, 1)
    return grids.view(count, *grids.shape[-3:])


class SparseRadon(nn.Module):
    """Images (B, C, W, W) → sinograms (B, C, detectors, angles), float32, as deepinv's Radon does, from its `grids`."""

    def __init__(self, grids: Tensor, size: int, radon: Any) -> None:
        super().__init__()
        self.theta, self.size, self.detectors = radon.theta, size, grids.shape[2]
        padded = size if radon.circle else size + math.ceil(math.sqrt(2) * size - size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # what is used of it is checked before it is trusted
            matrix = _matrix(grids, size, padded, radon.circle)
            columns = matrix.to_sparse_csc()
            # torch asks for sorted and distinct columns in a row; sums over them need neither, and sorting takes longer than all the rest
            transposed = torch.sparse_csr_tensor(columns.ccol_indices(), columns.row_indices(), columns.values(), matrix.shape[::-1], check_invariants=False)
        self.pair = _Pair(matrix, transposed)

    def forward(self, x: Tensor) -> Tensor:
        rows = _Product.apply(x.flatten(0, 1).flatten(1).T, self.pair)
        return rows.T.reshape(*x.shape[:2], len(self.theta), self.detectors).transpose(-2, -1)


@dataclass(frozen=True)
class _Pair:
    """A matrix and its transpose, both in compressed rows. torch would transpose anew at each use, and its vjp takes no such tensors."""

    matrix: Tensor
    transposed: Tensor


class _Product(torch.autograd.Function):
    """matrix · x for the columns of x, and its derivative."""

    @staticmethod
    def forward(x: Tensor, pair: _Pair) -> Tensor:
        return pair.matrix @ x.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Pair], output: Tensor) -> None:
        ctx.pair = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradient, _Pair(ctx.pair.transposed, ctx.pair.matrix)), None


def _matrix(grids: Tensor, size: int, padded: int, circle: bool) -> Tensor:
    """The weights of bilinear interpolation, one row for each angle and detector, in compressed rows; built angle by angle to spare memory."""
    columns, weights, counts = [], [], []
    before = padded // 2 - size // 2
    inside = _disc(size).flatten() if circle else None
    for grid in grids:
        at = (grid.transpose(0, 1) + 1) / 2 * (padded - 1)  # detector, point of the ray, (x, y)
        low = at.floor()
        share = at - low
        first = low.int() - before
        x, y = (torch.stack([first[..., i], first[..., i] + 1], -1) for i in range(2))
        across, down = (torch.stack([1 - share[..., i], share[..., i]], -1) for i in range(2))
        weight = (across[..., :, None] * down[..., None, :]).flatten(-2)
        within = (((x >= 0) & (x < size))[..., :, None] & ((y >= 0) & (y < size))[..., None, :]).flatten(-2) & (weight > 0)
        pixel = (x[..., :, None] + size * y[..., None, :]).flatten(-2)
        if inside is not None:
            within &= inside[pixel.clamp(0, size**2 - 1)]
        columns.append(pixel[within])
        weights.append(weight[within])
        counts.append(within.flatten(1).sum(1))
    ends = F.pad(torch.cat(counts).cumsum(0), (1, 0)).int()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support is in beta|invariant checks)", UserWarning)  # nothing that a user could act on
        return torch.sparse_csr_tensor(ends, torch.cat(columns), torch.cat(weights), (len(ends) - 1, size**2), check_invariants=False)


def _disc(size: int) -> Tensor:
    """The pixels within the circle, bool (W, W), as deepinv has it."""
    axis = 2 * torch.arange(size, dtype=torch.float) / (size - 1) - 1
    return axis[:, None] ** 2 + axis**2 <= 1
