"""Random images that a coverage is measured with: white ones, which see every direction alike, and ones with the spectrum of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from es_cli.streams import generator, stream_seed


def white(count: int, shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Gaussian noise (count, C, …, H, W); each follows from `seed` and its number, and is the same on every device."""
    drawn = [torch.randn(tuple(shape), generator=generator(stream_seed(seed, "probe", i))) for i in range(count)]
    return torch.stack(drawn).to(device)


def pictures(count: int, shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Noise (count, C, …, H, W) of which the amplitude falls like 1/f along the last two axes, as it does in natural images.

    The mean of an image counts as its lowest frequency. Source: Field, Relations between the statistics of natural images and the response
    properties of cortical cells, 1987.
    """
    noise = white(count, shape, stream_seed(seed, "pictures"), device)
    height, width = noise.shape[-2:]
    down = torch.fft.fftfreq(height, device=noise.device) * height
    across = torch.fft.rfftfreq(width, device=noise.device) * width
    frequency = torch.hypot(down[:, None] * math.sqrt(width / height), across * math.sqrt(height / width)).clamp(min=1)
    return torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
