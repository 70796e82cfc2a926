"""The forward operator of a spec: built from the spec and the shape of the data, or from a checkpoint's arrays alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.physics import MRI, Denoising, Inpainting, MultiCoilMRI
from torch import Tensor

from es_cli.building import Builder, as_tensor, bernoulli_mask
from es_cli.catalog import find, load_class
from es_cli.data import readers
from es_cli.data.layout import Layout, infer_layout
from es_cli.data.measurements import Samples, WholeArray
from es_cli.errors import CheckpointError, DataError, Fault, SpecError
from es_cli.spec.schema import ArrayFile, Component, TensorRef
from es_cli.streams import stream_seed

RANDOM_STATE = "initial_random_state"  # deepinv's generators leave it in every state dict that holds one


@dataclass(frozen=True)
class Operator:
    """A forward operator with the layouts of what it measures and of its images; `part` and `arrays` build it again."""

    physics: Any
    measurement: Layout
    image: Layout
    part: Component
    arrays: dict[str, Tensor]

    def to(self, device: torch.device | str) -> Operator:
        return Operator(self.physics.to(device), self.measurement, self.image, self.part, self.arrays)


def build_operator(part: Component, sample: Samples, pictures: bool, seed: int) -> Operator:
    """The operator for data like `sample`, which holds measurements, or the images to simulate them from if `pictures`.

    Raises SpecError for parameters that the class refuses, DataError where the data contradict them.
    """
    cls = _physics_class(part)
    pair = issubclass(cls, (MRI, MultiCoilMRI))
    size = _image_size(part, sample, pair, pictures, cls)
    builder = Builder(seed=seed, context=_context(cls, part, size))
    if issubclass(cls, (Inpainting, MRI)) and "mask" in part.parameters:
        builder.arrays["physics.mask"] = _sampling_mask(part, cls, size, sample, seed)
        part = Component(name=part.name, parameters={**part.parameters, "mask": TensorRef(tensor="physics.mask")})
    physics, resolved = builder.build(part, "physics", "physics")
    return _operator(physics, resolved, builder.resolved, size, pair)


def rebuild_operator(part: Component, image_shape: tuple[int, ...], arrays: Mapping[str, Tensor]) -> Operator:
    """The operator of a checkpoint, from its part and the tensors stored under `physics.`.

    Raises CheckpointError where tensors are missing or do not fit.
    """
    pair = issubclass(_physics_class(part), (MRI, MultiCoilMRI))
    builder = Builder(arrays=dict(arrays))
    physics, resolved = builder.build(part, "physics", "physics")
    stored = {key.removeprefix("physics."): value for key, value in arrays.items()}
    state = _state(physics)
    missing = set(state) - set(stored)
    if missing:
        raise CheckpointError(f"the operator lacks {', '.join(sorted(missing))}", hint="the file is not complete; train again")
    try:
        physics.load_state_dict({key: stored[key] for key in state}, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the operator's tensors do not fit it: {' '.join(str(error).split())[:200]}") from error
    return _operator(physics, resolved, builder.resolved, image_shape, pair)


def _operator(physics: Any, part: Component, arrays: dict[str, Tensor], size: tuple[int, ...], pair: bool) -> Operator:
    for name, buffer in physics.named_buffers():
        if buffer.dtype in {torch.bool, torch.uint8, torch.int32, torch.int64} and name == "mask":
            physics.mask = buffer.float()
    with torch.no_grad():
        y = physics.A(torch.zeros(1, *size))
    if not isinstance(y, Tensor):
        raise SpecError([Fault(f"{part.name} measures several arrays at once, which es cannot split yet", "physics")])
    arrays = {**arrays, **{f"physics.{key}": value for key, value in _state(physics).items()}}
    return Operator(physics, Layout(tuple(y.shape[1:]), pair), Layout(tuple(size), pair), part, arrays)


def _state(physics: Any) -> dict[str, Tensor]:
    return {key: value for key, value in physics.state_dict().items() if not key.endswith(RANDOM_STATE)}


def _physics_class(part: Component) -> type:
    entry = find(part.name, ("physics",))
    if entry is None:
        raise SpecError([Fault(f"no physics is called {part.name}", "physics.name")])
    return load_class(entry)


def _image_size(part: Component, sample: Samples, pair: bool, pictures: bool, cls: type) -> tuple[int, ...]:
    """(C, H, W) of an image: what the spec says, else what the data are."""
    given = part.parameters.get("img_size")
    if isinstance(given, (list, tuple)):
        size = tuple(int(n) for n in given if isinstance(n, (int, float)))
        return (2, *size) if pair and len(size) == 2 else (1, *size) if len(size) == 2 else size
    is_complex = np.issubdtype(sample.dtype, np.complexfloating)
    if pictures and pair and not is_complex and sample.sample_shape[0] != 2:
        return (2, *sample.sample_shape[-2:])
    if not pictures and not issubclass(cls, (Inpainting, MRI, Denoising)):
        raise SpecError([Fault(f"{part.name} does not tell the size of its images from measurements", "physics.img_size", "add img_size: [C, H, W]")])
    return infer_layout(sample.sample_shape, is_complex, pair, sample.names[0]).shape


def as_samples(stack: Samples, part: Component) -> Samples:
    """`stack`, or the one sample that its array is where the rank says that there is no sample axis."""
    size = part.parameters.get("img_size")
    wanted = tuple(size) if isinstance(size, (list, tuple)) else None
    whole = (len(stack), *stack.sample_shape)
    one_image = len(stack.sample_shape) == 1 or whole == wanted
    return WholeArray(stack) if one_image else stack


def _sampling_mask(part: Component, cls: type, size: tuple[int, ...], sample: Samples, seed: int) -> Tensor:
    """The 0/1 mask of a sampling operator, read, drawn or seen in the data: shape of the image for Inpainting, (H, W) for MRI."""
    given = part.parameters["mask"]
    wanted = size[1:] if issubclass(cls, MRI) else size
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        pixelwise = bool(part.parameters.get("pixelwise", True))
        return bernoulli_mask(given, wanted if issubclass(cls, Inpainting) else (1, *wanted), pixelwise, stream_seed(seed, "physics.mask"))
    if given == "from-data":
        mask, where = _measured_entries(sample, Layout(size, pair=issubclass(cls, MRI))), sample.names[0]
    elif isinstance(given, ArrayFile):
        mask, where = as_tensor(readers.open_array(Path(given.file), given.key)), given.file
    else:
        builder = Builder(seed=seed, context={"img_size": size})
        mask, where = builder.build(Component(name=part.name, parameters={"mask": given, "img_size": wanted}), "physics", "physics")[0].mask, ""
    return _fit_mask(mask, wanted, where)


def _fit_mask(mask: Tensor, wanted: tuple[int, ...], where: str) -> Tensor:
    """`mask` with singleton axes dropped or channels repeated until it has the shape `wanted`; DataError where it cannot."""
    while mask.ndim > len(wanted) and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim > len(wanted) and bool((mask == mask[:1]).all()):
        mask = mask[0]  # MRI: the same mask for real and imaginary part
    if tuple(mask.shape[-2:]) != tuple(wanted[-2:]) or mask.ndim > len(wanted) or (mask.ndim == len(wanted) == 3 and mask.shape[0] not in {1, wanted[0]}):
        raise DataError(f"mask of shape {tuple(mask.shape)}, but the images are {wanted}", where=where, hint=f"give a mask of shape {tuple(wanted)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError("the mask holds values other than 0 and 1", where=where, hint="give 1 where something was measured and 0 elsewhere")
    if not bool(mask.any()):
        raise DataError("the mask is 0 everywhere: nothing was measured", where=where)
    return mask.expand(wanted).contiguous()


def _measured_entries(samples: Samples, layout: Layout) -> Tensor:
    """1 where any sample is not 0: what `mask: from-data` stands for."""
    seen: np.ndarray | None = None
    for start in range(0, len(samples), 64):
        chunk = range(start, min(start + 64, len(samples)))
        values, _ = layout.arrange(samples.read(chunk), samples.names[start])
        found = (values != 0).any(0)
        seen = found if seen is None else seen | found
    assert seen is not None  # a stack holds at least one sample
    return as_tensor(np.asarray(seen.any(0)) if layout.pair else seen)


def _context(cls: type, part: Component, size: tuple[int, ...]) -> dict[str, Any]:
    """What the operator's constructor is told without the spec saying so."""
    if "img_size" in part.parameters:
        return {}
    return {"img_size": size[1:] if issubclass(cls, (MRI, MultiCoilMRI)) else size}
