"""Images + operator → measurements, once: one operator, one noise draw for each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from es_cli.data.shapes import runs
from es_cli.errors import DataError, said
from es_cli.streams import reseed, stream_seed

if TYPE_CHECKING:
    from es_cli.data.measurements import Samples


def simulate(images: np.ndarray | Samples, physics: Any, seed: int, batch_size: int = 32, of_sample: Callable[[int], Any] | None = None) -> list[np.ndarray]:
    """What `measure_each` gives, all of it in memory."""
    return list(measure_each(images, physics, seed, batch_size, of_sample))


def measure_each(
    images: np.ndarray | Samples, physics: Any, seed: int, batch_size: int = 32, of_sample: Callable[[int], Any] | None = None
) -> Iterator[np.ndarray]:
    """Measure images (C, H, W), float32, with noise: a measurement (…) of each, float32. Each sample has a noise stream of its own, keyed by its number.

    Fresh noise in each epoch would average out and leak the ground truth, so this is done once, before training. `batch_size` is how many
    images of a stack are read together; it never changes the result. `of_sample` gives the operator of each sample, None: all are measured
    with `physics`. Raises DataError where one measurement is more than one array.
    """
    for i, image in enumerate(_each(images, batch_size)):
        # around each sample by itself: whoever asks for the next one may draw and differentiate meanwhile
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "noise", i))
            own = physics if of_sample is None else of_sample(i)
            reseed(own, stream_seed(seed, "noise", i))
            y = _measured(own, torch.from_numpy(np.array(image, np.float32))[None])
        if not isinstance(y, torch.Tensor):
            raise DataError(f"{type(physics).__name__} measures several arrays at once", hint="simulate with one operator")
        yield y[0].cpu().numpy()


def _measured(physics: Any, x: torch.Tensor) -> Any:
    try:
        return physics(x)
    except ValueError as error:  # noise models refuse values that their noise cannot have
        noise = type(physics.noise_model).__name__
        hint = "choose another noise model, or images and an operator that fit it"
        raise DataError(f"{type(physics).__name__} with {noise} cannot measure these images: {said(error, 160)}", hint=hint) from error


def _each(images: np.ndarray | Samples, batch_size: int) -> Iterator[np.ndarray]:
    if isinstance(images, np.ndarray):
        yield from images
        return
    for rows in runs(images, batch_size):
        yield from images.read(rows)
