"""How large an image is, and how many axes a sample has, from the spec's physics and the data as they lie on disk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from deepinv.physics import (
    MRI,
    Blur,
    BlurFFT,
    CompressedSensing,
    Denoising,
    Downsampling,
    DynamicMRI,
    Inpainting,
    MultiCoilMRI,
    NonCartesianMRI,
    SequentialMRI,
    SinglePixelCamera,
    Tomography,
)

from es_cli.data.layout import infer_layout
from es_cli.data.measurements import Samples
from es_cli.errors import Fault, SpecError
from es_cli.spec.schema import Component
from es_cli.splitting.sensing import SensingMatrix
from es_cli.splitting.stacked import StackedLinearPhysics

Size = tuple[int, ...]


def is_pair(cls: type) -> bool:
    """Whether images of a physics are complex, as two channels."""
    return issubclass(cls, (MRI, MultiCoilMRI))


def image_rank(cls: type, part: Component) -> int:
    """How many axes an image has beside its channels: 3 for volumes and for frames, else 2."""
    frames = issubclass(cls, DynamicMRI) and not issubclass(cls, SequentialMRI)
    return 3 if frames or (is_pair(cls) and part.parameters.get("three_d") is True) else 2


def sample_rank(cls: type, part: Component, is_complex: bool, pictures: bool) -> int:
    """The fewest axes that one sample can have on disk."""
    if not pictures and measures_vectors(cls, part):
        return 1
    rank = image_rank(cls, part)
    if not pictures and issubclass(cls, (MultiCoilMRI, SequentialMRI)) and not issubclass(cls, NonCartesianMRI):
        rank += 1  # coils, or frames of one image
    return rank + (is_pair(cls) and not is_complex and not pictures)


def measures_vectors(cls: type, part: Component) -> bool:
    """Whether a measurement is a list of numbers, without the axes of an image."""
    return issubclass(cls, (CompressedSensing, SensingMatrix, StackedLinearPhysics)) or (issubclass(cls, SinglePixelCamera) and part.parameters.get("fast") is False)


def image_shape(part: Component, cls: type, sample: Samples, pictures: bool) -> Size:
    """(C, H, W), or (C, D, H, W), of an image: what the spec says, else what follows from the data.

    `sample` holds measurements, or images if `pictures`. Raises SpecError, saying what to add, where it cannot be known, DataError where the
    data cannot be measurements or images of this physics.
    """
    rank, pair = image_rank(cls, part), is_pair(cls)
    given = part.parameters.get("img_size")
    if isinstance(given, (list, tuple)):
        size = tuple(int(n) for n in given if isinstance(n, (int, float)))
        return ((2 if pair else 1), *size) if len(size) == rank else size
    is_complex = np.issubdtype(sample.dtype, np.complexfloating)
    shape = tuple(sample.sample_shape)
    if pictures:
        if pair and not is_complex and shape[0] != 2:
            return (2, *shape[-rank:])
        return infer_layout(shape, is_complex, pair, sample.names[0], rank).shape
    return infer_layout(_seen_shape(part, cls, shape, is_complex), is_complex, pair, sample.names[0], rank).shape


def _seen_shape(part: Component, cls: type, shape: Size, is_complex: bool) -> Size:
    """The shape that an image would have on disk where a measurement has `shape`."""
    if measures_vectors(cls, part) or issubclass(cls, NonCartesianMRI):
        raise _unknown(part, "img_size", "[C, H, W]")
    if issubclass(cls, (MultiCoilMRI, SequentialMRI)):
        return shape[1:] if is_complex else (*shape[:1], *shape[2:])
    if issubclass(cls, (Inpainting, MRI, Denoising, BlurFFT, SinglePixelCamera)):
        return shape
    if issubclass(cls, Tomography):
        width = _width(part, shape[-2])
        return (*shape[:-2], width, width)
    if issubclass(cls, Downsampling):
        factor = int(part.parameters.get("factor", 2))
        return (*shape[:-2], factor * shape[-2], factor * shape[-1])
    if issubclass(cls, Blur) and part.parameters.get("padding", "valid") != "valid":
        return shape
    raise _unknown(part, "img_size", "[C, H, W]")


def _width(part: Component, detectors: int) -> int:
    """The width of the image behind a sinogram of `detectors` rows."""
    given = part.parameters.get("img_width")
    if isinstance(given, int):
        return given
    if part.parameters.get("fan_beam") is True:
        raise _unknown(part, "img_width", "the width of the image in pixels")
    if part.parameters.get("circle") is True:
        return detectors
    width = math.floor(detectors / math.sqrt(2))
    if width + math.ceil(math.sqrt(2) * width - width) != detectors:  # the padding of deepinv's Radon transform
        raise _unknown(part, "img_width", "the width of the image in pixels")
    return width


def _unknown(part: Component, key: str, value: Any) -> SpecError:
    return SpecError([Fault(f"{part.name} does not tell the size of its images from measurements", f"physics.{key}", f"add {key}: {value}")])
