"""Sensitivity maps of the coils of a multi-coil MRI: from an array, or estimated once from the calibration region of a measurement."""

from __future__ import annotations

import torch
from deepinv.physics import MultiCoilMRI
from torch import Tensor

from es_cli.errors import Fault, SpecError

ESPIRIT = "espirit"
WIDEST = 24  # lines of the calibration region, as ESPIRiT was published
NARROWEST = 8  # ESPIRiT slides a kernel of 6 × 6 over the region
PATH = "physics.coil_maps"


def as_complex(maps: Tensor) -> Tensor:
    """Maps complex64 (coils, …), from complex ones or from (2, coils, …), real and imaginary part."""
    if maps.is_complex():
        return maps
    if maps.ndim < 4 or maps.shape[0] != 2:
        raise SpecError([Fault(f"real coil maps of shape {tuple(maps.shape)}", PATH, "give them complex (coils, H, W), or as (2, coils, H, W): real and imaginary part")])
    return torch.complex(maps[0], maps[1])


def estimate(y: Tensor, mask: Tensor) -> Tensor:
    """Maps complex64 (coils, …, H, W) by ESPIRiT from one measurement y (2, coils, …, H, W) that was sampled by `mask` (…, H, W).

    Source: Uecker et al., ESPIRiT, MRM 2014. Raises SpecError where sigpy is not installed, or the centre of k-space was not sampled.
    """
    size = calibration_size(mask)
    if size < NARROWEST:
        what = f"the fully sampled centre of k-space is {size} points wide, and ESPIRiT needs {NARROWEST}"
        raise SpecError([Fault(what, PATH, "give the maps: coil_maps: {file: maps.npy}")])
    try:
        maps = MultiCoilMRI.estimate_coil_maps(y[None], calib_size=size)
    except ImportError as error:
        raise SpecError([Fault("ESPIRiT needs the package sigpy, which is not installed", PATH, "pip install 'es-cli[mri]'")]) from error
    return maps[0].to(torch.complex64)


def calibration_size(mask: Tensor) -> int:
    """The width of the largest fully sampled square or cube around the centre of `mask`, at most WIDEST."""
    for size in range(min(WIDEST, *mask.shape), 0, -1):
        centre = tuple(slice(n // 2 - size // 2, n // 2 - size // 2 + size) for n in mask.shape)
        if bool((mask[centre] > 0).all()):
            return size
    return 0
