"""Small problems that every test of the whole tool can train on in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

if TYPE_CHECKING:
    from es_cli.spec.schema import Spec


def es(arguments: list[str]) -> int:
    """The exit code of a command line, run in this process."""
    from es_cli.cli.app import app

    with pytest.raises(SystemExit) as stopped:
        app(arguments, prog_name="es")
    return int(stopped.value.code or 0)


def smooth(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Random smooth pictures (n, H, W) in [0, 1], float32: something that a small network can learn."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    a = rng.normal(size=(count, 4))[:, :, None, None]
    field = np.sin(3 * a[:, 0] * x + a[:, 1]) + np.cos(3 * a[:, 2] * y + a[:, 3])
    return ((field + 2) / 4).astype(np.float32)


@pytest.fixture
def inpainting(tmp_path: Path) -> Path:
    """A spec that trains on measurements alone: 20 grey pictures of 16 × 16, 60 % of the pixels; the folder holds test pairs too."""
    return inpainting_in(tmp_path)


def inpainting_in(tmp_path: Path) -> Path:
    """What the fixture of that name is, in a folder."""
    mask = (np.random.default_rng(1).random((16, 16)) < 0.6).astype(np.float32)
    images = smooth(24, 16)
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "train_y.npy", (images[:20] * mask)[:, None])
    np.save(tmp_path / "test_x.npy", images[20:, None])
    np.save(tmp_path / "test_y.npy", (images[20:] * mask)[:, None])
    return write_spec(tmp_path / "spec.yaml")


@pytest.fixture
def mri(tmp_path: Path) -> Path:
    """A spec for complex k-space (n, 16, 16) with every second column acquired."""
    rng = np.random.default_rng(2)
    images = smooth(12, 16) * np.exp(1j * rng.normal(size=(12, 1, 1)))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    mask = np.zeros((16, 16), bool)
    mask[:, ::2] = True
    mask[:, 7:9] = True
    np.save(tmp_path / "train_y.npy", (kspace * mask)[:8].astype(np.complex64))
    np.save(tmp_path / "test_y.npy", (kspace * mask)[8:].astype(np.complex64))
    np.save(tmp_path / "test_x.npy", images[8:].astype(np.complex64))
    return write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MRI", "mask": "from-data"},
        mask_generator={"name": "LineSplittingMaskGenerator", "split_ratio": 0.6, "center_lines": 2},
        model={"name": "DataConsistentMoDL", "num_iter": 2, "denoiser": network(2)},
    )


def network(channels: int) -> dict:
    return {"name": "UNet", "in_channels": channels, "out_channels": channels, "channels_per_scale": [4, 8], "batch_norm": False}


def write_spec(path: Path, **changes: object) -> Path:
    """A spec at `path` for the arrays beside it; `changes` replace whole sections."""
    spec: dict = {
        "name": "tiny",
        "physics": {"name": "Inpainting", "mask": {"file": "mask.npy"}},
        "data": {"train": {"measurements": "train_y.npy"}, "test": {"measurements": "test_y.npy", "images": "test_x.npy"}},
        "mask_generator": {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.7},
        "transforms": {"group": "D4"},
        "losses": ["EquivariantSplittingLoss"],
        "model": {"name": "ArtifactRemoval", "backbone_net": network(1)},
        "training": {"steps": 6, "batch_size": 4, "optimizer": {"name": "AdamW", "lr": 0.003}, "ema": 0.9, "validate_every": 3, "preview": False},
    }
    path.write_text(yaml.safe_dump({**spec, **changes}))
    return path


def train_in(folder: Path, spec: Spec, overwrite: bool = False, **options: Any) -> Path:
    """The model.safetensors of a run of `spec` in `folder`, on the CPU."""
    from es_cli.training.folder import claim
    from es_cli.training.run import train

    return train(spec, claim(spec, folder, overwrite), device="cpu", **options)
