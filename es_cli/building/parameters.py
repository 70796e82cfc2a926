"""Operator parameters of samples: from a spec or a command line to what an operator takes; and the operator that a checkpoint keeps beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from es_cli import catalog
from es_cli.building.forward_operator import Operator, build_operator
from es_cli.building.sizes import check_sizes, of_any_size
from es_cli.data import readers
from es_cli.data.conventions import default_key, parameter_keys
from es_cli.data.files import find_files
from es_cli.data.layout import Layout
from es_cli.data.measurements import SampleParameter, Samples
from es_cli.data.parameters import OwnZeros, Parameter, StoredParameter, open_numbers, open_parameter
from es_cli.data.stacks import open_stack
from es_cli.errors import DataError, Fault, SpecError, UsageError
from es_cli.spec.schema import FROM_DATA, ArrayFile, Component, Pair, Source, Spec, TensorRef
from es_cli.splitting.parameters import with_parameters


def build_sampled_operator(part: Component, pair: Pair, sample: Samples, pictures: bool, seed: int) -> Operator:
    """`build_operator`, also where the spec leaves out what each sample of `pair`, read as `sample`, has of its own.

    An operator that cannot do without keeps the parameter of the first sample as its own: an Inpainting its mask, a MultiCoilMRI its coil maps.
    Where the samples have several sizes, it is one that serves them all; DataError where there is none.
    """
    check_sizes(part, sample, pictures)
    missing = catalog.left_to_samples(part, pair)
    if "mask" in missing:  # everything, until the mask of the first sample is known
        part = Component(name=part.name, parameters={**part.parameters, "mask": 1.0})
    operator = build_operator(part, sample, pictures, seed)
    for name in missing:
        operator = _with_own(operator, name, _first(operator, name, pair.params[name], sample))
    return operator if sample.shapes is None else of_any_size(operator)


def with_stored_parameters(spec: Spec) -> Spec:
    """The spec, with the parameters that a data set of deepinv's holds for each sample; what the spec names itself stays.

    Raises SpecError for what cannot be taken, and where one part of the data lacks what another has.
    """
    parts = {}
    for purpose, pair in catalog.pairs(spec):
        stored = {} if pair.measurements is None else stored_parameters(pair.measurements, spec.physics, purpose, pair.params)
        parts[purpose] = pair.model_copy(update={"params": {**stored, **pair.params}})
    if spec.data is None or not parts:
        return spec
    spec = spec.model_copy(update={"data": spec.data.model_copy(update=parts)})
    faults = catalog.check_parameters(spec, looked_into=True)
    if faults:
        raise SpecError([Fault(what, where, hint) for where, what, hint in faults])
    return spec


def stored_parameters(
    source: Source, part: Component, purpose: str, named: Collection[str] = (), where: str | None = None
) -> dict[str, ArrayFile]:
    """Where a data set of deepinv's holds parameters of the operator `part` for each sample, by name; those of `named` are known already.

    `where` names the source in faults, None: as a spec does.

    Raises SpecError for a parameter of operators that this one does not take: it would be ignored in silence.
    """
    found: dict[str, ArrayFile] = {}
    for path in find_files(str(source.file)) if source.file is not None else ():
        key = source.key or default_key(path, part=purpose)
        stored = {} if key is None else parameter_keys(path, key)
        for name in sorted(set(stored) - set(named)):
            if name in catalog.operator_parameters(part):
                found[name] = ArrayFile(file=str(source.file), key=stored[name])
            elif any(entry.parameter(name) is not None for entry in catalog.entries(("physics", "noise"))):
                what = f"{path.name} holds {stored[name]}, and {catalog.described(part)} takes no {name} for each sample"
                hint = "name the operator that made these data, or write the measurements to a file of their own"
                raise SpecError([Fault(what, where or f"data.{purpose}.measurements", hint)])
    return found


def parameters_of(operator: Operator) -> dict[str, Parameter]:
    """The parameters of an operator that may differ from sample to sample, with the shape that each has."""
    names = catalog.operator_parameters(operator.part)
    # deepinv keeps the mask of a volume without its channels
    shapes = {"mask": operator.image.shape} | ({"coil_maps": tuple(operator.physics.coil_maps.shape[1:])} if "coil_maps" in names else {})
    return {name: Parameter(name, shapes.get(name, ()), operator.measurement.pair) for name in names}


def open_parameters(sources: Mapping[str, ArrayFile | str], operator: Operator, samples: Samples) -> dict[str, SampleParameter]:
    """The parameters of a spec for samples of measurements or images. Raises DataError where they do not fit the operator or the samples."""
    known = parameters_of(operator)
    return {
        name: open_parameter(source, known[name], len(samples), samples.shapes) if isinstance(source, ArrayFile) else OwnZeros(known[name], samples.names)
        for name, source in sources.items()
    }


def read_parameter(source: ArrayFile | str) -> np.ndarray | list[np.ndarray] | str:
    """The array of a parameter as it lies in a file, a folder or a glob, or those of several shapes; from-data as it is. Raises DataError."""
    if not isinstance(source, ArrayFile):
        return source
    path = Path(source.file)
    if not path.is_dir() and path.suffix.lower() in readers.ARRAYS and "*" not in path.name:
        return readers.open_array(path, source.key)
    first = find_files(source.file)[0]
    if first.suffix.lower() in readers.ARRAYS and readers.open_array(first, source.key).ndim < 2:
        return open_numbers(source)
    stack = open_stack(Source(file=source.file, key=source.key), pictures=False, seed=0)
    return stack.read(range(len(stack))) if stack.shapes is None else [stack.read([i])[0] for i in range(len(stack))]


def of_sample(value: np.ndarray | list[np.ndarray] | str, number: int, count: int) -> np.ndarray | str:
    """What `read_parameter` gave for sample `number` of `count`: its own, or the one for all."""
    if isinstance(value, list):
        if len(value) != count:
            raise DataError(f"parameters of {len(value)} samples, but there are {count}", hint="give one for each sample")
        return value[number]
    return value[number : number + 1] if isinstance(value, np.ndarray) and value.shape == (count,) else value


def fit_parameters(given: Mapping[str, np.ndarray | list[np.ndarray] | str], operator: Operator, y: np.ndarray) -> dict[str, np.ndarray]:
    """Users' arrays, or from-data, as the operator takes them beside measurements y (n, …): (n or 1, …) each.

    Raises UsageError for a name that the operator does not take, DataError for an array that does not fit.
    """
    legal, known = catalog.operator_parameters(operator.part), parameters_of(operator)
    fitted = {}
    for name, value in given.items():
        where = f"parameter {name}"
        if name not in legal:
            raise UsageError(f"{catalog.described(operator.part)} takes no {name} for each sample", where=where, hint=catalog.wanted(name, legal))
        if isinstance(value, list):
            shapes = " and ".join(str(shape) for shape in sorted({one.shape for one in value}))
            raise DataError(f"{name} of shapes {shapes} for measurements of one shape", where=where, hint="give those of these measurements")
        if not isinstance(value, str):
            fitted[name] = known[name].sized(y.shape).arrange(value, len(y), where)
        elif name == "mask" and value == FROM_DATA:
            fitted[name] = OwnZeros(known[name], [f"sample {i}" for i in range(len(y))]).read(np.arange(len(y)), y)
        else:
            raise UsageError(f"only a mask can be read off the data, and this is {name}", where=where, hint="give a file")
    return fitted


def _first(operator: Operator, name: str, source: ArrayFile | str, sample: Samples) -> torch.Tensor:
    """The parameter of the first sample, (1, …)."""
    parameter = parameters_of(operator)[name]
    y, _ = operator.measurement.arrange(sample.read([0]), sample.names[0]) if source == FROM_DATA else (np.empty(0), None)
    if not isinstance(source, ArrayFile):
        return torch.from_numpy(OwnZeros(parameter, sample.names).read(np.zeros(1, int), y))
    if name == "coil_maps":  # how many coils there are, only the file knows
        parameter = replace(parameter, shape=(_coils(source, parameter), *parameter.shape[1:]))
    stored: StoredParameter = open_parameter(source, parameter, len(sample), sample.shapes)
    return torch.from_numpy(stored.read(np.zeros(1, int), y))


def _coils(source: ArrayFile, parameter: Parameter) -> int:
    stack = open_stack(Source(file=source.file, key=source.key), pictures=False, seed=0)
    shape = (len(stack), *stack.sample_shape)
    return int(shape[-len(parameter.shape)]) if len(shape) >= len(parameter.shape) else parameter.shape[0]


def _with_own(operator: Operator, name: str, value: torch.Tensor) -> Operator:
    """`operator` with another parameter of its own, which a checkpoint keeps."""
    physics = with_parameters(operator.physics, {name: value})
    key = f"physics.{name}"
    part = Component(name=operator.part.name, parameters={**operator.part.parameters, name: TensorRef(tensor=key)})
    with torch.no_grad():
        shape = tuple(physics.A(torch.zeros(1, *operator.image.shape)).shape[1:])
    return replace(operator, physics=physics, measurement=Layout(shape, operator.measurement.pair), part=part, arrays={**operator.arrays, key: value})
