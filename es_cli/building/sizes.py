"""Samples of several sizes: which operators serve them, and the operator of each size.

An operator serves any size where nothing that it holds has one: its masks and coil maps are those of the samples, or follow from the size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from deepinv.physics import MultiCoilMRI

from es_cli import catalog
from es_cli.building.forward_operator import Operator, operator_of_size
from es_cli.building.image_shape import Size, image_rank
from es_cli.data.measurements import Samples
from es_cli.data.shapes import several_shapes
from es_cli.spec.schema import ArrayFile, Component, TensorRef

# operators that measure images of any size, a measurement being as high and wide as its image
OF_ANY_SIZE = ("Denoising", "Inpainting", "Demosaicing", "MRI", "MultiCoilMRI", "DynamicMRI", "Blur", "BlurFFT")
HELD = ("img_size", *catalog.OF_PHYSICS)  # parameters that have a size
KEPT = 32  # operators of other sizes; another is built in milliseconds
CROP = "add crop: 64 or resize: 64, or grey: true where only some are in colour"
SPLIT_UP = "give the samples of one size, and train once for each"


def check_sizes(part: Component, samples: Samples, pictures: bool) -> None:
    """DataError, with the shapes and what to do, where samples of several shapes are more than the operator `part` serves."""
    if samples.shapes is None:
        return
    held = [name for name in HELD if part.parameters.get(name) is not None]
    own = [name for name in held if name != "img_size"]
    crop = CROP if pictures else SPLIT_UP
    if pictures and len({shape[:-2] for shape in samples.shapes}) > 1:
        raise several_shapes(samples, "some are in colour and some are not", "add grey: true")
    if part.name not in OF_ANY_SIZE:
        raise several_shapes(samples, f"{part.name} is built for one size", crop)
    if own:
        given = "{mask: from-data}" if own[0] == "mask" and not pictures else f"{{{own[0]}: FOLDER}}"
        hint = f"leave physics.{own[0]} out and give each sample its own, data.params: {given}; or {crop}"
        raise several_shapes(samples, f"physics.{own[0]} has one size", hint)
    if held:
        raise several_shapes(samples, f"physics.{held[0]} is one size", f"leave it out; or {crop}")
    noise = part.parameters.get("noise_model")
    if isinstance(noise, Component) and any(isinstance(level, ArrayFile) for level in noise.parameters.values()):
        raise several_shapes(samples, "the noise level is an array of one size", "give a number, or one for each sample: data.params: {sigma: FILE}")
    if part.name == "Blur" and part.parameters.get("padding", "valid") == "valid":
        raise several_shapes(samples, "a blur without padding measures less than the image", f"add padding: circular to physics; or {crop}")


def of_any_size(operator: Operator) -> Operator:
    """An operator that also takes measurements of other sizes, which `sized` serves."""
    free = image_rank(type(operator.physics), operator.part)
    return replace(operator, measurement=replace(operator.measurement, free=free), image=replace(operator.image, free=free))


def with_sizes(operator: Operator, sizes: Iterable[Size]) -> Operator:
    """An operator of any size for images of these sizes, beside its own; one that has one size as it is."""
    if not operator.image.free:
        return operator
    return replace(operator, sizes=tuple(dict.fromkeys((operator.image.shape, *sizes))))


def sized(operator: Operator, shape: Size) -> Operator:
    """The operator for samples whose measurements or images have `shape` (…, H, W); itself where it has one size."""
    image = operator.image.fitted(shape)
    if image.shape == operator.image.shape:
        return operator
    if image.shape not in operator.others:
        if len(operator.others) >= KEPT:
            operator.others.clear()
        operator.others[image.shape] = _of_size(operator, image.shape).to(operator.device)
    return operator.others[image.shape]


def _of_size(operator: Operator, size: Size) -> Operator:
    """The operator of another size: everything is measured, until the masks of samples are known."""
    part, arrays = operator.part, dict(operator.arrays)
    kept: dict[str, Any] = {name: value for name, value in part.parameters.items() if name not in HELD}
    if part.name == "Inpainting":
        kept["mask"], arrays["physics.mask"] = TensorRef(tensor="physics.mask"), torch.ones(size)
    if isinstance(operator.physics, MultiCoilMRI):
        coils = operator.measurement.shape[1]
        kept["coil_maps"], arrays["physics.coil_maps"] = TensorRef(tensor="physics.coil_maps"), torch.ones(coils, *size[1:], dtype=torch.complex64)
    made = operator_of_size(Component(name=part.name, parameters=kept), size, arrays)
    return replace(made, measurement=replace(made.measurement, free=operator.measurement.free), image=replace(made.image, free=operator.image.free))
