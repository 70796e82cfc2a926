"""Folders as users have them, made with an operator that `es init --from` has to find again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from problems import smooth


def rough(count: int, size: int, seed: int = 0, width: int | None = None) -> np.ndarray:
    """Random pictures (n, H, W) in [0, 1] with detail at all scales, as pictures have: float32."""
    rng = np.random.default_rng(seed)
    width = width or size
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / size) ** 1.6
    noise = np.fft.rfft2(rng.normal(size=(count, size, width)))
    pictures = np.fft.irfft2(noise * amplitude, s=(size, width))
    low, high = pictures.min((1, 2), keepdims=True), pictures.max((1, 2), keepdims=True)
    return (0.05 + 0.95 * (pictures - low) / (high - low)).astype(np.float32)


def pixels(size: int, part: float, seed: int = 1) -> np.ndarray:
    """A random mask (H, W)."""
    return np.random.default_rng(seed).random((size, size)) < part


def columns(size: int, acs: int, every: int, width: int | None = None) -> np.ndarray:
    """A mask (H, W) of columns: one in `every`, and `acs` in the middle."""
    at = np.arange(width or size)
    chosen = (at % every == 0) | ((at >= len(at) // 2 - acs // 2) & (at < len(at) // 2 - acs // 2 + acs))
    return np.broadcast_to(chosen, (size, len(at))).copy()


def kspace(images: np.ndarray, sigma: float = 0.0, seed: int = 3) -> np.ndarray:
    """Centred k-space of images (…, H, W), with noise of deviation `sigma` in real and imaginary part."""
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=spectrum.shape) + 1j * rng.normal(size=spectrum.shape)
    return (spectrum + sigma * noise).astype(np.complex64)


def phased(count: int, size: int, seed: int = 0, width: int | None = None) -> np.ndarray:
    """Complex pictures with a smooth phase."""
    pictures = rough(count, size, seed, width)
    phase = smooth(count, max(size, width or 0), seed)[:, :size, : width or size]
    return (pictures * np.exp(2j * phase)).astype(np.complex64)


def coil_maps(coils: int, size: int) -> np.ndarray:
    """Smooth sensitivities (coils, H, W), complex."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    around = 2 * np.pi * np.arange(coils) / coils
    maps = [np.exp(-0.4 * ((x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2)) * np.exp(1j * a) for a in around]
    return np.array(maps, np.complex64)


def noise(shape: tuple[int, ...], sigma: float, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=sigma, size=shape).astype(np.float32)


def save(folder: Path, **arrays: np.ndarray) -> Path:
    """Each array as NAME.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder
