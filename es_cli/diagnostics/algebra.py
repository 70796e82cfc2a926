"""What can be measured of an operator alone: its adjoint, linearity, norm and condition, and how much it does not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import DecomposablePhysics
from torch import Tensor

from es_cli.splitting.conjugate_gradients import conjugate_gradients
from es_cli.splitting.gram import gram_matrix
from es_cli.splitting.masks import sampling_mask
from es_cli.splitting.parameters import of_one_sample, sample_parameters, with_parameters
from es_cli.streams import generator, stream_seed

EPS = torch.finfo(torch.float32).eps
# singular values below √DAMPING of the largest count as unseen: what noise of a thousandth of the energy of the signal hides
DAMPING = 1e-3
LARGE = 128 * 128  # pixels
COUNTED = 0.25  # of the dimensions: where so many lack a measurement, solving would only say it more exactly
LARGEST_GRAM = 1024  # rows of a Gram matrix whose eigenvalues are computed; a second on one core


def rounding(entries: int) -> float:
    """The relative error that float32 leaves in sums over `entries` numbers: √entries roundings, with room for the few operations on each."""
    return 10 * EPS * math.sqrt(max(entries, 64))


def steps_for(image_shape: Sequence[int], quick: bool) -> int:
    """How many steps of Lanczos or conjugate gradients are taken: half as many for images of more than 128 × 128, where a step may take a second."""
    steps = 12 if quick else 40
    return steps if math.prod(image_shape[1:]) <= LARGE else steps // 2


def samples_of(physics: Any) -> int:
    """How many samples the operator has parameters of; 1 where all share them."""
    return max((len(value) for value in sample_parameters(physics).values()), default=1)


def first_samples(physics: Any, count: int) -> Any:
    """The operator of the first `count` samples of a batch."""
    return with_parameters(physics, {name: value[:count] for name, value in sample_parameters(physics).items()})


def probe_images(count: int, image_shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Random images (count, C, …, H, W) of norm √(entries) whose spectrum falls off like 1/f, as that of natural images does.

    Source: Field, Relations between the statistics of natural images and the response properties of cortical cells, 1987.
    """
    height, width = image_shape[-2:]
    white = torch.randn(count, *image_shape, generator=generator(seed))
    frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    spectrum = torch.fft.rfft2(white) / frequencies.clamp(min=1 / max(height, width))
    images = torch.fft.irfft2(spectrum, s=(height, width))
    norms = torch.linalg.vector_norm(images.flatten(1), dim=1).view(-1, *[1] * len(image_shape))
    return (images * math.sqrt(images[0].numel()) / norms).to(device)


def adjoint_error(physics: Any, image_shape: Sequence[int], seed: int = 0, device: torch.device | str = "cpu", draws: int = 4) -> float:
    """‖A − Bᵀ‖ / ‖A‖ in the Frobenius norm, for B what the operator takes for its adjoint, estimated by dot products ⟨A x, z⟩ − ⟨x, B z⟩.

    `draws` pairs of random x and z, of as many samples as the operator has parameters of. The estimate is that of
    `deepinv.physics.LinearPhysics.adjointness_test`, with sums in double precision. Infinity where B gives another shape.
    """
    wrong, right = 0.0, 0.0
    for i in range(draws):
        rng = generator(stream_seed(seed, "adjoint", i))
        x = torch.randn(samples_of(physics), *image_shape, generator=rng).to(device)
        y = physics.A(x)
        z = torch.randn(y.shape, generator=rng).to(device)
        back = physics.A_adjoint(z)
        if back.shape != x.shape:
            return math.inf
        left = _dots(y, z)
        wrong += float((left - _dots(x, back)).square().sum())
        right += float(left.square().sum())
    return math.sqrt(wrong / right) if right > 0 else math.sqrt(wrong)


def linearity_error(physics: Any, image_shape: Sequence[int], seed: int = 0, device: torch.device | str = "cpu") -> float:
    """‖A(a x + b z) − a A x − b A z‖ / ‖a A x + b A z‖ for random images x, z and numbers a, b that do not sum to 1, so that an offset shows."""
    count, a, b = samples_of(physics), 0.7, -1.9
    x, z = (torch.randn(count, *image_shape, generator=generator(stream_seed(seed, "linear", i))).to(device) for i in range(2))
    wanted = a * physics.A(x) + b * physics.A(z)
    error = torch.linalg.vector_norm(physics.A(a * x + b * z) - wanted)
    return float(error / torch.linalg.vector_norm(wanted).clamp(min=torch.finfo(wanted.dtype).tiny))


@dataclass(frozen=True)
class Spectrum:
    """‖A‖, the largest singular value; and the condition number, the largest over the smallest that is not 0.

    `condition` is None where it cannot be had cheaply; `condition_at_least` is a lower bound in every case.
    """

    norm: float
    condition: float | None
    condition_at_least: float


def spectrum(physics: Any, image_shape: Sequence[int], steps: int, seed: int = 0, device: torch.device | str = "cpu") -> Spectrum:
    """The ends of the spectrum of an operator, that of the first sample where samples have their own.

    Exact from the Gram matrix of a sensing matrix and from the singular values of a decomposable operator. Else by `steps` steps of Lanczos on
    AᵀA, which finds the norm faster than power iteration does, and the condition only where A has few different singular values.
    """
    physics = of_one_sample(physics, 0)
    gram = gram_matrix(physics)
    if gram is not None and len(gram) <= LARGEST_GRAM:
        return _ends(torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt())
    if gram is None and isinstance(physics, DecomposablePhysics) and isinstance(physics.mask, Tensor):
        return _ends(physics.mask.double().abs().flatten())
    ritz, complete = _lanczos(physics, image_shape, steps, seed, device)
    found = _ends(ritz.clamp(min=0).sqrt())
    # rounding ends the iteration too, where what is left is small; then smaller eigenvalues may lie beyond it
    trusted = complete and float(ritz.min()) > math.sqrt(rounding(math.prod(image_shape))) * float(ritz.max())
    return found if trusted else Spectrum(found.norm, None, found.condition_at_least)


def _ends(singular: Tensor) -> Spectrum:
    largest = float(singular.max())
    # what the rounding of eigenvalues of AᵀA leaves of a 0
    held = singular[singular > math.sqrt(EPS) * largest]
    condition = largest / float(held.min()) if len(held) else math.inf
    return Spectrum(largest, condition, condition)


def _lanczos(physics: Any, image_shape: Sequence[int], steps: int, seed: int, device: torch.device | str) -> tuple[Tensor, bool]:
    """Ritz values of AᵀA on the range of Aᵀ, ascending; and whether they are all of its eigenvalues there that are different.

    With full reorthogonalisation. Source: Golub, Van Loan, Matrix Computations, 4th edition, section 10.3.
    """
    x = torch.randn(1, *image_shape, generator=generator(stream_seed(seed, "lanczos"))).to(device)
    start = physics.A_adjoint(physics.A(x))
    basis, diagonal, off = [start / start.norm().clamp(min=torch.finfo(start.dtype).tiny)], [], []
    complete = False
    for _ in range(steps):
        applied = physics.A_adjoint(physics.A(basis[-1]))
        diagonal.append(float(_dots(basis[-1], applied)))
        for _ in range(2):  # once is not enough in float32
            for known in basis:
                applied = applied - _dots(known, applied).to(applied.dtype) * known
        length = float(applied.norm())
        complete = length <= rounding(x.numel()) * max(diagonal)
        if complete:
            break
        off.append(length)
        basis.append(applied / length)
    inner = torch.tensor(off[: len(diagonal) - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(inner, 1) + torch.diag(inner, -1)
    return torch.linalg.eigvalsh(matrix), complete


def unseen_part(physics: Any, x: Tensor, norm: float, steps: int) -> Tensor:
    """ε (AᵀA / ‖A‖² + ε)⁻¹ x for images x (B, …): what A does not see of them, or hides below a thirtieth of its norm.

    By `steps` steps of conjugate gradients, whose iterates only grow; `norm` is ‖A‖.
    """
    scale = 1 / max(norm, torch.finfo(x.dtype).tiny) ** 2
    return DAMPING * conjugate_gradients(lambda v: scale * physics.A_adjoint(physics.A(v)) + DAMPING * v, x, torch.zeros_like(x), steps)


def unseen_fraction(physics: Any, image_shape: Sequence[int], norm: float, steps: int, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """The fraction of the dimensions of images that A does not see, a lower bound; that of the first sample where samples have their own operator.

    Counted where there are many fewer measurements than pixels; else also the energy of the unseen part of white noise, see `unseen_part`.
    """
    physics = of_one_sample(physics, 0)
    x = torch.randn(1, *image_shape, generator=generator(stream_seed(seed, "unseen"))).to(device)
    y = physics.A(x)
    mask = sampling_mask(physics)
    measured = y[0].numel() if mask is None else int((mask.expand(1, *y.shape[1:]) > 0).sum())
    counted = max(0.0, 1 - measured / x.numel())
    if counted >= COUNTED or (counted > 0 and isinstance(physics, DecomposablePhysics)):
        return counted
    # coils that see the same count several times
    return max(counted, float(unseen_part(physics, x, norm, steps).square().sum() / x.square().sum()))


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ of each sample, (B,), in double precision."""
    return (a.double() * b.double()).flatten(1).sum(1)
