"""Every operator that es splits, at 8 to 16 pixels: what the spec says of it, and images that it measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from es_cli.building.forward_operator import Operator, build_operator
from es_cli.data.stacks import ArrayStack
from es_cli.spec.component import as_component

RNG = np.random.default_rng(0)
MASK = (RNG.random((16, 16)) < 0.5).astype(np.float32)
FILTER = RNG.random((1, 1, 3, 3)).astype(np.float32)
MATRIX = (RNG.normal(size=(40, 256)) / 6).astype(np.float32)
COILS = (RNG.normal(size=(3, 16, 16)) + 1j * RNG.normal(size=(3, 16, 16))).astype(np.complex64)
COILS_3D = (RNG.normal(size=(2, 4, 8, 8)) + 1j * RNG.normal(size=(2, 4, 8, 8))).astype(np.complex64)
ANGLES = np.linspace(0, 170, 12).astype(np.float32)
ARRAYS = {"mask": MASK, "filter": FILTER, "matrix": MATRIX, "coils": COILS, "coils3": COILS_3D, "angles": ANGLES}
ARRAYS |= {"mask3": (RNG.random((4, 8, 8)) < 0.5).astype(np.float32), "small": MATRIX[:20, :64]}

IMAGE, VOLUME = (1, 16, 16), (2, 4, 8, 8)
# name → (the spec's physics, the shape of an image)
OPERATORS: dict[str, tuple[dict, tuple[int, ...]]] = {
    "Inpainting": ({"name": "Inpainting", "mask": {"file": "mask"}}, IMAGE),
    "Demosaicing": ({"name": "Demosaicing"}, (3, 16, 16)),
    "Denoising": ({"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}, IMAGE),
    "MRI": ({"name": "MRI", "mask": {"file": "mask"}}, (2, 16, 16)),
    "MRI-3D": ({"name": "MRI", "mask": {"file": "mask3"}, "three_d": True}, VOLUME),
    "MultiCoilMRI": ({"name": "MultiCoilMRI", "mask": {"file": "mask"}, "coil_maps": {"file": "coils"}}, (2, 16, 16)),
    "MultiCoilMRI-3D": ({"name": "MultiCoilMRI", "mask": {"file": "mask3"}, "coil_maps": {"file": "coils3"}, "three_d": True}, VOLUME),
    "DynamicMRI": ({"name": "DynamicMRI", "mask": {"file": "mask3"}}, VOLUME),
    "CompressedSensing": ({"name": "CompressedSensing", "m": 40}, IMAGE),
    "CompressedSensing-channels": ({"name": "CompressedSensing", "m": 20, "channelwise": True}, (3, 8, 8)),
    "SensingMatrix": ({"name": "SensingMatrix", "matrix": {"file": "matrix"}}, IMAGE),
    "SensingMatrix-channels": ({"name": "SensingMatrix", "matrix": {"file": "small"}}, (3, 8, 8)),
    "SinglePixelCamera": ({"name": "SinglePixelCamera", "m": 100}, IMAGE),
    "SinglePixelCamera-random": ({"name": "SinglePixelCamera", "m": 40, "fast": False}, IMAGE),
    "Tomography": ({"name": "Tomography", "angles": {"file": "angles"}, "normalize": True}, IMAGE),
    "Tomography-number": ({"name": "Tomography", "angles": 9, "circle": True, "normalize": False}, IMAGE),
    "Tomography-fan": (
        {"name": "Tomography", "angles": [0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330], "fan_beam": True, "fan_parameters": {"n_detector_pixels": 20}, "normalize": True},
        IMAGE,
    ),
    "Blur": ({"name": "Blur", "filter": {"file": "filter"}, "padding": "circular"}, IMAGE),
    "Blur-valid": ({"name": "Blur", "filter": {"name": "GaussianBlurGenerator", "psf_size": [3, 3]}}, IMAGE),
    "BlurFFT": ({"name": "BlurFFT", "filter": {"file": "filter"}}, IMAGE),
    "Downsampling": ({"name": "Downsampling", "factor": 2, "filter": "gaussian"}, IMAGE),
    "Downsampling-file": ({"name": "Downsampling", "factor": 2, "filter": {"file": "filter"}}, IMAGE),
    "ComposedLinearPhysics": (
        {
            "name": "ComposedLinearPhysics",
            "physics": [{"name": "Blur", "filter": {"file": "filter"}, "padding": "circular"}, {"name": "Inpainting", "mask": {"file": "mask"}}],
        },
        IMAGE,
    ),
    "StackedLinearPhysics": (
        {
            "name": "StackedLinearPhysics",
            "physics_list": [{"name": "Inpainting", "mask": {"file": "mask"}}, {"name": "Downsampling", "factor": 2, "filter": {"file": "filter"}}],
        },
        IMAGE,
    ),
}


def save_arrays(folder: Path) -> None:
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)


def physics_part(name: str, folder: Path) -> dict:
    """The spec's physics with the arrays of `folder` in it."""

    def filled(value):
        if isinstance(value, dict):
            return {key: str(folder / f"{inner}.npy") if key == "file" else filled(inner) for key, inner in value.items()}
        return [filled(inner) for inner in value] if isinstance(value, list) else value

    return filled(OPERATORS[name][0])


def made(name: str, folder: Path) -> Operator:
    """The operator, from images, with its arrays written to `folder`."""
    save_arrays(folder)
    images = np.zeros((1, *OPERATORS[name][1]), np.float32)
    return build_operator(as_component(physics_part(name, folder)), ArrayStack(images, ["x"]), pictures=True, seed=3)


def random(shape, seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
