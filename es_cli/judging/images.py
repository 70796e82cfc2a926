"""What images themselves say: whether the network turns with them, how sharp they are, how far they are from what needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from deepinv.loss.metric import BlurStrength, SharpnessIndex
from torch import Tensor

from es_cli.experiment import Reconstruction
from es_cli.splitting.averaging import TestRule, passes
from es_cli.splitting.group import IDENTITY

ELEMENTS = 8  # of a group that has more
# of deepinv's metrics that need no reference, those that need no weights to be downloaded
NO_REFERENCE = {"BlurStrength": BlurStrength, "SharpnessIndex": SharpnessIndex}
SMALLEST = 16  # pixels along a side that sharpness is measured on


def equivariance(made: Reconstruction, y: Tensor, params: Mapping[str, Tensor], max_batch: int = 32) -> dict[str, Tensor]:
    """How far the bare network f is from f(y, A T_g) = T_g⁻¹ f(y, A), in dB, more being closer: (B,) each, NaN where the group is trivial.

    `equivariance_db` is EQUIV of the paper, −10 log₁₀ of the mean over g ≠ 1 of MSE(f(y, A), T_g f(y, A T_g)): a PSNR of dynamic range 1.
    `equivariance_relative_db` takes the energy of f(y, A) in place of 1, for images in other units. As many network calls as elements, 8 at most.
    A network that is equivariant by construction has much; images that are averaged over the whole group are equivariant whatever the network.
    Source: Sechaud et al., Equivariant Splitting, ICLR 2026, section 3 and tables; deepinv has no such metric.
    """
    others = [element for element in made.group.representatives(ELEMENTS, made.seed) if element.label != IDENTITY.label]
    if not others:
        nothing = torch.full((len(y),), math.nan, device=y.device)
        return {"equivariance_db": nothing, "equivariance_relative_db": nothing}
    arguments, scale = made.arguments(y, made.physics_of(y, params), TestRule(None, (IDENTITY, *others)), max_batch)
    with torch.inference_mode():
        # the very measurement: a recorruption of its own for each g would be taken for a lack of equivariance
        images = torch.cat(list(passes(**{**arguments, "consistency": None})))
    if scale is not None:
        images = images * scale.view(1, -1, *[1] * (images.ndim - 2))
    error = (images[1:] - images[:1]).square().flatten(2).mean(2).mean(0)
    energy = images[0].square().flatten(1).mean(1)
    return {"equivariance_db": -10 * error.log10(), "equivariance_relative_db": 10 * (energy / error).log10()}


def sharpness(x: Tensor, pair: bool) -> dict[str, Tensor]:
    """deepinv's metrics without reference of images (B, C, H, W), (B,) each, `pair`: by magnitude; NaN for what they do not take."""
    fits = x.ndim == 4 and (pair or x.shape[1] in (1, 3)) and min(x.shape[-2:]) >= SMALLEST
    nothing = torch.full((len(x),), math.nan, device=x.device)
    return {name: metric(complex_abs=pair, reduction="none")(x).to(x.dtype) if fits else nothing for name, metric in NO_REFERENCE.items()}


def change(x: Tensor, other: Tensor) -> Tensor:
    """‖x − other‖ / ‖x‖ of images (B, C, …), (B,)."""
    return (x - other).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
