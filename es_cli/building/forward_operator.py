"""The forward operator of a spec: built from the spec and the shape of the data, or from a checkpoint's arrays alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.physics import MRI, Demosaicing, Denoising, DynamicMRI, Inpainting, MultiCoilMRI, SequentialMRI
from torch import Tensor

from es_cli.building.coil_maps import ESPIRIT, as_complex, estimate
from es_cli.building.image_shape import image_shape, is_pair, sample_rank
from es_cli.building.parts import Builder, as_tensor, bernoulli_mask
from es_cli.catalog import find, load_class
from es_cli.data import readers
from es_cli.data.layout import Layout
from es_cli.data.measurements import Samples, WholeArray
from es_cli.errors import LIBRARY_ERRORS, CheckpointError, DataError, Fault, SpecError, out_of_memory, said
from es_cli.spec.schema import ArrayFile, Component, TensorRef
from es_cli.splitting.sensing import SensingMatrix
from es_cli.splitting.tomography import Tomography
from es_cli.streams import generator, stream_seed

RANDOM_STATE = "initial_random_state"  # deepinv's generators leave it in every state dict that holds one
# what the tests make again bit by bit; others are made twice before they are trusted
REMADE = {Inpainting, Demosaicing, Denoising, MRI, MultiCoilMRI, DynamicMRI, SensingMatrix, Tomography}


@dataclass(frozen=True)
class Operator:
    """A forward operator with the layouts of what it measures and of its images; `part` and `arrays` build it again.

    `sizes` are the shapes of images where the data have several, that of `image` first; (): all have this one. `others` are the operators of
    the others, as far as they were asked for.
    """

    physics: Any
    measurement: Layout
    image: Layout
    part: Component
    arrays: dict[str, Tensor]
    sizes: tuple[tuple[int, ...], ...] = ()
    device: torch.device | str = "cpu"
    others: dict[tuple[int, ...], Operator] = field(default_factory=dict, compare=False, repr=False)

    def to(self, device: torch.device | str) -> Operator:
        return replace(self, physics=self.physics.to(device), device=device, others={})


def build_operator(part: Component, sample: Samples, pictures: bool, seed: int) -> Operator:
    """The operator for data like `sample`, which holds measurements, or the images to simulate them from if `pictures`.

    Raises SpecError for parameters that the class refuses, DataError where the data contradict them.
    """
    cls = _physics_class(part)
    size = image_shape(part, cls, sample, pictures)
    builder = Builder(seed=seed, context=_context(cls, size))
    if "mask" in part.parameters and issubclass(cls, (Inpainting, MRI, MultiCoilMRI)) and not issubclass(cls, SequentialMRI):
        part = _hold(builder, part, "mask", _sampling_mask(part, cls, size, sample, seed))
    if isinstance(part.parameters.get("coil_maps"), (str, ArrayFile)):
        part = _hold(builder, part, "coil_maps", _coil_maps(part, builder.arrays.get("physics.mask"), sample, pictures))
    if isinstance(part.parameters.get("angles"), (list, tuple)):
        part = _hold(builder, part, "angles", torch.tensor(part.parameters["angles"], dtype=torch.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "physics"))  # deepinv finds the norm of an operator from a random start
        physics, resolved = builder.build(part, "physics", "physics")
    operator = _operator(physics, resolved, builder.resolved, size, is_pair(cls))
    _check_remade(operator)
    return operator


def operator_of_size(part: Component, size: tuple[int, ...], arrays: Mapping[str, Tensor]) -> Operator:
    """The operator for images of `size` (C, …) whose `part` says nothing of it and refers to `arrays` for all that is drawn or read."""
    cls = _physics_class(part)
    builder = Builder(context=_context(cls, size), arrays=dict(arrays))
    physics, resolved = builder.build(part, "physics", "physics")
    return _operator(physics, resolved, builder.resolved, size, is_pair(cls))


def rebuild_operator(part: Component, size: tuple[int, ...], arrays: Mapping[str, Tensor]) -> Operator:
    """The operator of a checkpoint for images of `size` (C, …), from its part and the tensors stored under `physics.`.

    Raises CheckpointError where tensors are missing or do not fit.
    """
    pair = is_pair(_physics_class(part))
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
        raise CheckpointError(f"the operator's tensors do not fit it: {said(error)}") from error
    return _operator(physics, resolved, builder.resolved, size, pair)


def _operator(physics: Any, part: Component, arrays: dict[str, Tensor], size: tuple[int, ...], pair: bool) -> Operator:
    for name, buffer in physics.named_buffers():
        if buffer.dtype in {torch.bool, torch.uint8, torch.int32, torch.int64} and name == "mask":
            physics.mask = buffer.float()
    try:
        with torch.no_grad():
            y = physics.A(torch.zeros(1, *size))
    except LIBRARY_ERRORS as error:
        if out_of_memory(error):
            raise
        raise SpecError([Fault(f"{part.name} does not measure images of shape {size}: {said(error)}", "physics", "check img_size and the arrays")]) from error
    if not isinstance(y, Tensor):
        what = f"{part.name} measures several arrays at once, and masks, noise and files of measurements are of one"
        raise SpecError([Fault(what, "physics", "name StackedLinearPhysics, which flattens and joins what linear operators measure")])
    arrays = {**arrays, **{f"physics.{key}": value for key, value in _state(physics).items()}}
    return Operator(physics, Layout(tuple(y.shape[1:]), pair), Layout(tuple(size), pair), part, arrays)


def _hold(builder: Builder, part: Component, name: str, array: Tensor) -> Component:
    """`part` with `array` as its parameter `name`, kept as the checkpoint keeps it."""
    key = f"physics.{name}"
    builder.arrays[key] = array
    return Component(name=part.name, parameters={**part.parameters, name: TensorRef(tensor=key)})


def _check_remade(operator: Operator) -> None:
    """SpecError where the arrays that a checkpoint holds do not make the same operator again, as where a part of it is drawn and not kept."""
    if type(operator.physics) in REMADE:
        return
    remade = rebuild_operator(operator.part, operator.image.shape, operator.arrays).physics
    probe = torch.rand(1, *operator.image.shape, generator=generator(stream_seed(0, "probe")))
    with torch.no_grad():
        same = torch.equal(operator.physics.A(probe), remade.A(probe))
    if not same:
        name = operator.part.name
        raise SpecError([Fault(f"{name} draws something that it does not keep, so that no checkpoint could hold it", "physics", "use another operator")])


def _state(physics: Any) -> dict[str, Tensor]:
    return {key: value for key, value in physics.state_dict().items() if not key.endswith(RANDOM_STATE)}


def _physics_class(part: Component) -> type:
    entry = find(part.name, ("physics",))
    if entry is None:
        raise SpecError([Fault(f"no physics is called {part.name}", "physics.name")])
    return load_class(entry)


def as_samples(stack: Samples, part: Component, pictures: bool = False) -> Samples:
    """`stack`, or the one sample that its array is where the rank says that there is no sample axis; it holds images if `pictures`."""
    size = part.parameters.get("img_size")
    wanted = tuple(size) if isinstance(size, (list, tuple)) else None
    if stack.shapes is not None:
        return stack
    whole = (len(stack), *stack.sample_shape)
    rank = sample_rank(_physics_class(part), part, np.issubdtype(stack.dtype, np.complexfloating), pictures)
    return WholeArray(stack) if len(stack.sample_shape) < rank or whole == wanted else stack


def _sampling_mask(part: Component, cls: type, size: tuple[int, ...], sample: Samples, seed: int) -> Tensor:
    """The 0/1 mask of a sampling operator, read, drawn or seen in the data: shape of the image for Inpainting, (H, W) for MRI."""
    given = part.parameters["mask"]
    wanted = size[1:] if is_pair(cls) else size
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        pixelwise = bool(part.parameters.get("pixelwise", True))
        return bernoulli_mask(given, wanted if issubclass(cls, Inpainting) else (1, *wanted), pixelwise, stream_seed(seed, "physics.mask"))
    if given == "from-data":
        layout = _kspace(sample) if is_pair(cls) else Layout(size, pair=False)
        seen = _measured_entries(sample, layout)
        mask, where = seen.amax(0) if issubclass(cls, MultiCoilMRI) else seen, sample.names[0]
    elif isinstance(given, ArrayFile):
        mask, where = as_tensor(readers.open_array(Path(given.file), given.key)), given.file
    else:
        builder = Builder(seed=seed, context={"img_size": size})
        mask, where = builder.build(Component(name=part.name, parameters={"mask": given, "img_size": wanted}), "physics", "physics")[0].mask, ""
    return _fit_mask(mask, wanted, where)


def _kspace(sample: Samples) -> Layout:
    """The layout of k-space as it lies on disk, (2, …, H, W) with coils or frames."""
    is_complex = np.issubdtype(sample.dtype, np.complexfloating)
    return Layout((2, *sample.sample_shape) if is_complex else tuple(sample.sample_shape), pair=True)


def _coil_maps(part: Component, mask: Tensor | None, sample: Samples, pictures: bool) -> Tensor:
    """The coil maps of a MultiCoilMRI, complex64 (coils, …, H, W): read, or estimated from the first measurement."""
    given = part.parameters["coil_maps"]
    if isinstance(given, ArrayFile):
        return as_complex(as_tensor(readers.open_array(Path(given.file), given.key)))
    if given != ESPIRIT:
        raise SpecError([Fault(f"no way to make coil maps is called '{given}'", "physics.coil_maps", f"give {{file: PATH}}, a number of coils, or {ESPIRIT}")])
    if pictures:
        raise SpecError([Fault("coil maps are estimated from measurements, and data.train has none", "physics.coil_maps", "give {file: PATH}")])
    y, _ = _kspace(sample).arrange(sample.read([0]), sample.names[0])
    full = torch.ones(y.shape[3:]) if mask is None else mask.expand(y.shape[3:]) if mask.ndim < y.ndim - 2 else mask[0]
    return estimate(torch.from_numpy(y[0]), full)


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


def _context(cls: type, size: tuple[int, ...]) -> dict[str, Any]:
    """What the operator's constructor is told without the spec saying so."""
    return {"img_width": size[-1], "img_size": size[1:] if is_pair(cls) else size}
