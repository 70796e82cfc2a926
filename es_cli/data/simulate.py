"""Images + operator → measurements, once: one operator, one noise draw for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from es_cli.streams import reseed, stream_seed


def simulate(images: np.ndarray, physics: Any, seed: int) -> np.ndarray:
    """Measure images (n, C, H, W), float32, with noise: (n, …), float32. Each sample has a noise stream of its own, keyed by its number.

    Fresh noise in each epoch would average out and leak the ground truth, so this is done once, before training.
    """
    measured = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for i, image in enumerate(images):
            torch.manual_seed(stream_seed(seed, "noise", i))
            reseed(physics, stream_seed(seed, "noise", i))
            measured.append(physics(torch.from_numpy(np.ascontiguousarray(image))[None])[0].cpu().numpy())
    return np.stack(measured)
