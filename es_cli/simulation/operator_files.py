"""An operator that was drawn or read → files, and the part of a spec that names them, so that measurements can be read with the very operator
that made them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_cli import catalog
from es_cli.building.forward_operator import Operator
from es_cli.building.parameters import build_sampled_operator
from es_cli.building.sizes import sized
from es_cli.data.measurements import Samples
from es_cli.data.stacks import ArrayStack, ListStack
from es_cli.data.writers import write_array
from es_cli.errors import Fault, SpecError
from es_cli.spec.schema import ArrayFile, Component, Pair, Spec, TensorRef

ROWS = 256  # of the identity that are measured together
INSTEAD = "name an operator whose arrays can be given as {file: PATH}, or train on the images themselves"


def write_operator(operator: Operator, asked: Component, pair: Pair, folder: Path) -> Component:
    """The part of a spec that makes `operator` again from arrays that are written to `folder`, which it names without their folder.

    `asked` is the part that the user gave. What each sample of `pair` has of its own is left out. Raises OutputError.
    """
    part, arrays = _as_matrix(operator) if _is_drawn_matrix(asked) else (operator.part, operator.arrays)
    own = catalog.left_to_samples(asked, pair)
    kept = {name: value for name, value in part.parameters.items() if name not in own}
    if operator.image.free:  # it serves other sizes, if it is told none
        kept = {name: value for name, value in kept.items() if name != "img_size"}
    if isinstance(kept.get("coil_maps"), int):
        kept["coil_maps"] = TensorRef(tensor="physics.coil_maps")
    named = _Files(arrays)
    part = Component(name=part.name, parameters={name: named.value(value) for name, value in kept.items()})
    for name, array in named.written.items():
        write_array(folder / name, array)
    return part


def check_read_back(spec: Spec, operator: Operator, images: Samples, pair: Pair, folder: Path) -> None:
    """SpecError where measurements that `spec` names cannot be read with its physics, whose files lie in `folder`, or where it measures otherwise
    than `operator`. Nothing is measured yet: `images` say how many there will be and how large, `pair` where their parameters lie."""
    faults = catalog.check_spec(spec)
    if faults:
        raise SpecError([Fault(f"once its measurements are simulated, this spec is at fault: {fault.what}", fault.where, fault.hint) for fault in faults])
    read = build_sampled_operator(_within(spec.physics, folder), pair, _unmeasured(operator, images), False, spec.seed)
    probe = torch.rand(1, *operator.image.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = (one.physics.A(probe).flatten() for one in (operator, read))
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
        raise SpecError([Fault(f"{operator.part.name} measures otherwise when it is read back from files", "physics", INSTEAD)])


def _unmeasured(operator: Operator, images: Samples) -> Samples:
    """As many zeros as there will be measurements, of their shapes, which take no memory."""
    zero = np.zeros(1, np.float32)
    if images.shapes is None:
        return ArrayStack(np.broadcast_to(zero, (len(images), *operator.measurement.shape)), images.names)
    return ListStack([np.broadcast_to(zero, sized(operator, shape).measurement.shape) for shape in images.shapes], images.names)


def _is_drawn_matrix(part: Component) -> bool:
    """Whether the operator is a matrix that is drawn when it is built."""
    return part.name == "CompressedSensing" or (part.name == "SinglePixelCamera" and part.parameters.get("fast") is False)


def _as_matrix(operator: Operator) -> tuple[Component, dict[str, Tensor]]:
    """A SensingMatrix that measures what `operator` does, with its noise."""
    size = operator.image.shape
    channelwise = len(operator.measurement.shape) > 1
    count = math.prod(size[1:] if channelwise else size)
    columns = []
    for start in range(0, count, ROWS):
        rows = torch.arange(min(ROWS, count - start))
        x = torch.zeros(len(rows), math.prod(size))
        x[rows, start + rows] = 1  # each channel is measured alike: the first stands for all
        with torch.no_grad():
            y = operator.physics.A(x.view(len(rows), *size))
        columns.append(y[:, 0] if channelwise else y)
    kept = {name: value for name, value in operator.part.parameters.items() if name == "noise_model"}
    part = Component(name="SensingMatrix", parameters={"matrix": TensorRef(tensor="physics.matrix"), "img_size": tuple(size), **kept})
    return part, {**operator.arrays, "physics.matrix": torch.cat(columns).T.contiguous()}


class _Files:
    """Arrays under the names of the files that a part of a spec names in place of them; `written` are those that it names."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        self.arrays = arrays
        self.written: dict[str, np.ndarray] = {}

    def value(self, value: Any) -> Any:
        """A value of a part with files in place of references."""
        if isinstance(value, Component):
            return Component(name=value.name, parameters={name: self.value(inner) for name, inner in value.parameters.items()})
        if isinstance(value, tuple):
            return tuple(self.value(inner) for inner in value)
        if not isinstance(value, TensorRef):
            return value
        name = value.tensor.removeprefix("physics.").replace(".", "_") + ".npy"
        self.written[name] = self.arrays[value.tensor].cpu().numpy()
        return ArrayFile(file=name)


def _within(value: Any, folder: Path) -> Any:
    """A value of a part whose files are those in `folder`."""
    if isinstance(value, Component):
        return Component(name=value.name, parameters={name: _within(inner, folder) for name, inner in value.parameters.items()})
    if isinstance(value, tuple):
        return tuple(_within(inner, folder) for inner in value)
    return value.model_copy(update={"file": str(folder / value.file)}) if isinstance(value, ArrayFile) else value
