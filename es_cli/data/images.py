"""Pictures → arrays in [0, 1], with crops that are drawn once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from es_cli.errors import DataError

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
FULL = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.bool_): 1.0}


def to_picture(array: np.ndarray, where: str, grey: bool = False) -> np.ndarray:
    """A picture (H, W) or (H, W, C) as float32 (C, H, W): 8 and 16 bit divided by their range, floats as they are.

    Raises DataError where the rank or the number of channels is none of a picture.
    """
    scaled = np.asarray(array, np.float32) / np.float32(FULL.get(array.dtype, 1.0))
    if scaled.ndim == 2:
        return scaled[None]
    if scaled.ndim != 3 or scaled.shape[-1] not in {1, 3, 4}:
        raise DataError(f"an array of shape {array.shape} is no picture", where=where, hint="wanted (H, W), or (H, W, 3)")
    scaled = scaled[..., :3]
    if grey and scaled.shape[-1] == 3:
        return (scaled @ LUMINANCE)[None]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def resize(image: np.ndarray, size: Any) -> np.ndarray:
    """An image (C, H, W) resized to `size`, pixels or [height, width], with antialiasing."""
    from PIL import Image

    height, width = _pair(size)
    channels = [np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)) for channel in image]
    return np.stack(channels).astype(np.float32)


def crops(image: np.ndarray, size: Any, count: int, seed: int, where: str) -> list[np.ndarray]:
    """`count` crops (C, h, w): the central one if there is one, else at random places that follow seed and file name.

    Raises DataError where the image is smaller than the crop.
    """
    height, width = _pair(size)
    spare_h, spare_w = image.shape[1] - height, image.shape[2] - width
    if spare_h < 0 or spare_w < 0:
        raise DataError(
            f"the image has {image.shape[1]} × {image.shape[2]} pixels, less than the crop of {height} × {width}", where=where, hint="make the crop smaller, or resize"
        )
    if count == 1:
        corners = [(spare_h // 2, spare_w // 2)]
    else:
        key = hashlib.blake2b(f"{seed}/{where.rsplit('/')[-1]}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        corners = [(int(rng.integers(spare_h + 1)), int(rng.integers(spare_w + 1))) for _ in range(count)]
    return [image[:, top : top + height, left : left + width] for top, left in corners]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
