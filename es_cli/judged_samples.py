"""The measurements that a checkpoint is judged on: given, kept beside it, or named by its run's spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from es_cli import catalog
from es_cli.building.data_sets import open_measurements
from es_cli.building.parameters import of_sample, read_parameter, stored_parameters
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements, hold_out, not_finite
from es_cli.data.shapes import runs
from es_cli.data.stacks import open_stack
from es_cli.errors import DataError
from es_cli.reconstruct import Reconstructor
from es_cli.spec.schema import ArrayFile, Pair, Source, Spec
from es_cli.streams import stream_seed

Arrays = np.ndarray | list[np.ndarray]
Given = Mapping[str, np.ndarray | list[np.ndarray] | str]
Own = Mapping[str, ArrayFile | str]
TEST, VALIDATION, GIVEN = "the run's test measurements", "the run's validation measurements", "the measurements given"


@dataclass(frozen=True)
class JudgedSamples:
    """Measurements as the operator takes them, (n, …) or one array each where they differ in shape, and images in the same form, None: unknown.

    `params` are the operator's parameters of these samples, as `Reconstructor.fit` takes them; `source` says in words whose samples these are.
    """

    y: Arrays
    x: Arrays | None
    params: Given
    source: str

    def __len__(self) -> int:
        return len(self.y)


def find_samples(model: Reconstructor, ckpt: Path, measurements: Path | None, images: Path | None, params: Given) -> JudgedSamples:
    """What there is to judge a checkpoint on: the files given; else the test data of its run, with ground truth or without; else its validation data.

    `params` replace what the data hold. Raises DataError where there are none, where they do not fit the operator, and for images alone.
    """
    if images is not None and measurements is None:
        raise DataError("images are compared with what is made of measurements, and none are given", hint="give --measurements Y too")
    if measurements is not None:
        source = Source(file=str(measurements))
        own = stored_parameters(source, model.spec.physics, "test", where=str(measurements))
        return _read_pair(model, source, None if images is None else Source(file=str(images)), own, params, GIVEN)
    kept = ckpt.parent / "data"
    y, x = _kept(kept, "y"), _kept(kept, "x")
    if y and x:
        files = {name: _kept(kept, name) for name in (*catalog.OF_PHYSICS, *catalog.LEVELS)}
        held = {name: ArrayFile(file=str(file)) for name, file in files.items() if file is not None}
        return _read_pair(model, Source(file=str(y)), Source(file=str(x)), held, params, TEST)
    spec_file = ckpt.parent / "spec.yaml"
    spec = catalog.load_spec(spec_file) if spec_file.is_file() else None
    if spec is None or spec.data is None:
        raise DataError("no spec.yaml lies beside it to say what it can be judged on", where=str(ckpt), hint="give --measurements Y, and --images X if there are any")
    for pair, words in ((spec.data.test, TEST), (spec.data.validation, VALIDATION)):
        if isinstance(pair, Pair) and pair.measurements is not None:
            named: Own = {**stored_parameters(pair.measurements, model.spec.physics, "test", pair.params), **pair.params}
            return _read_pair(model, pair.measurements, pair.images, named, params, words)
    return _held_out_of_training(model, spec, params)


def _read_pair(
    model: Reconstructor, y_source: Source, x_source: Source | None, own: Own, params: Given, words: str
) -> JudgedSamples:
    operator = model.made.operator
    y = read_samples(y_source, False, operator.measurement)
    given = {**{name: read_parameter(source) for name, source in own.items()}, **params}
    if x_source is None:
        return JudgedSamples(y, None, given, words)
    x = read_samples(x_source, True, operator.image)
    if len(y) != len(x):
        raise DataError(f"{len(x)} images for {len(y)} measurements", where=str(x_source.file), hint="give one image for each measurement")
    for i, (one, truth) in enumerate(zip(y, x, strict=True)):
        if operator.image.fitted(one.shape).shape != truth.shape:
            what = f"image {i} of shape {truth.shape} does not belong to measurement {i} of shape {one.shape}"
            raise DataError(what, where=str(x_source.file), hint="give one image for each measurement, in the same order")
    return JudgedSamples(y, x, given, words)


def _held_out_of_training(model: Reconstructor, spec: Spec, params: Given) -> JudgedSamples:
    """The part of the training data that training held out to validate on, never its ground truth."""
    assert spec.data is not None  # of a run
    if isinstance(spec.data.validation, Pair):
        data = open_measurements(spec.data.validation, model.made.operator, spec.seed, "validation")
    else:
        train = open_measurements(spec.data.train, model.made.operator, spec.seed, "train")
        data = hold_out(train, spec.data.validation, stream_seed(spec.seed, "validation"))[1]
    y, own = _read_each(data)
    return JudgedSamples(y, None, {**own, **params}, VALIDATION)


def _read_each(data: Measurements) -> tuple[Arrays, dict[str, np.ndarray | list[np.ndarray]]]:
    samples: list[np.ndarray] = []
    own: dict[str, list[np.ndarray]] = {name: [] for name in data.params}
    for position in range(len(data)):
        y, _, params = data.batch([position])
        samples.append(y[0].numpy())
        for name, value in params.items():
            own[name].append(value[0].numpy())
    return _stacked(samples), {name: _stacked(values) for name, values in own.items()}


def _stacked(arrays: list[np.ndarray]) -> Arrays:
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def by_shape(samples: np.ndarray | list[np.ndarray]) -> list[list[int]]:
    """The numbers of the samples of each shape."""
    if isinstance(samples, np.ndarray):
        return [list(range(len(samples)))]
    return [[i for i, one in enumerate(samples) if one.shape == shape] for shape in dict.fromkeys(one.shape for one in samples)]


def together(samples: np.ndarray | list[np.ndarray], rows: list[int]) -> np.ndarray:
    """The samples at `rows`, which have one shape; an array has no others."""
    if isinstance(samples, np.ndarray):
        return samples if len(rows) == len(samples) else samples[rows]
    return np.stack([samples[i] for i in rows])


def fitted(
    model: Reconstructor, given: Mapping[str, np.ndarray | list[np.ndarray] | str], y: np.ndarray | list[np.ndarray], rows: list[int]
) -> dict[str, np.ndarray]:
    """The operator's parameters of the samples at `rows`, (n or 1, …)."""
    if isinstance(y, np.ndarray):
        return model.fit(given, y)
    each = [model.fit({name: of_sample(value, i, len(y)) for name, value in given.items()}, y[i][None]) for i in rows]
    return {name: np.concatenate([own[name] for own in each]) for name in given}


def _kept(folder: Path, name: str) -> Path | None:
    """Where training kept an array of its test data: one file, or a folder with one for each sample where they differ in shape."""
    file, each = folder / f"test_{name}.npy", folder / f"test_{name}"
    return file if file.is_file() else each if each.is_dir() and any(each.iterdir()) else None


def read_samples(source: Source, pictures: bool, layout: Layout) -> np.ndarray | list[np.ndarray]:
    """All samples of a source, read as training reads them and arranged for the operator: (n, …), or one array each where they differ in shape.

    Raises DataError where they do not fit or are not finite.
    """
    stack = open_stack(source, pictures=pictures, seed=0, part="test")
    parts = []
    for rows in runs(stack, len(stack)):
        array, _ = layout.arrange(stack.read(rows), stack.names[rows[0]])
        finite = np.isfinite(array).reshape(len(array), -1).all(1)
        if not finite.all():
            bad = rows[0] + int(np.flatnonzero(~finite)[0])
            raise not_finite(bad, stack.names[min(bad, len(stack) - 1)])
        parts.append(array)
    return np.concatenate(parts) if len({part.shape[1:] for part in parts}) == 1 else [sample for part in parts for sample in part]
