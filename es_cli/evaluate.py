"""How good reconstructions are against ground truth, beside what needs no network. Usable from Python without the command line."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli import catalog
from es_cli.building.parameters import of_sample, read_parameter, stored_parameters
from es_cli.building.parts import Builder
from es_cli.data.layout import Layout
from es_cli.data.measurements import not_finite
from es_cli.data.shapes import runs
from es_cli.data.stacks import open_stack
from es_cli.errors import LIBRARY_ERRORS, DataError, Fault, SpecError, out_of_memory, said
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import rule_in_words
from es_cli.spec.schema import ArrayFile, Component, Source, Test

BASELINES = ("adjoint", "pseudoinverse")


@dataclass(frozen=True)
class Evaluation:
    """Metrics per image: `values[who][metric]` is an array (n,), `who` being reconstruction, adjoint or pseudoinverse."""

    values: dict[str, dict[str, np.ndarray]]
    network_calls: int
    seconds_per_image: float
    conventions: dict[str, str]

    @property
    def n(self) -> int:
        return len(next(iter(self.values["reconstruction"].values())))

    def to_dict(self) -> dict[str, Any]:
        """Mean and standard deviation over the images, as `es evaluate --json` prints them."""
        summary = {
            who: {metric: {"mean": float(v.mean()), "std": float(v.std())} for metric, v in per_metric.items()}
            for who, per_metric in self.values.items()
        }
        return {
            "n": self.n,
            "metrics": summary.pop("reconstruction"),
            "baselines": summary,
            "network_calls": self.network_calls,
            "seconds_per_image": self.seconds_per_image,
            "conventions": self.conventions,
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row for each image: its number and every metric of the reconstruction and the baselines."""
        return [
            {"image": i, **{(m if who == "reconstruction" else f"{who}_{m}"): float(v[i]) for who, ms in self.values.items() for m, v in ms.items()}}
            for i in range(self.n)
        ]


def evaluate(
    ckpt: Path,
    *,
    measurements: Path | None = None,
    images: Path | None = None,
    params: Mapping[str, np.ndarray | list[np.ndarray] | str] | None = None,
    metrics: Sequence[str] = ("PSNR", "SSIM"),
    device: str = "auto",
    precision: str = "float32",
    test: Test | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Reconstruct test measurements and compare with their images.

    `measurements` and `images` None are the test data of the checkpoint's run, looked for beside it, with the operator's parameters that each
    sample has of its own; `params` are parameters in place of these and of the checkpoint's, as `Reconstructor.reconstruct` takes them,
    `precision` is that of the network, and `test` is a rule in place of the checkpoint's, as `Reconstructor.load` takes it.
    Raises DataError where there are none or they do not fit, SpecError for a metric that the catalogue does not hold, UsageError for a
    parameter that the operator does not take.
    """
    model = Reconstructor.load(ckpt, device, precision, test)
    y_source, x_source, own = find_test_data(ckpt, measurements, images, model.spec.physics)
    y = read_samples(y_source, False, model.made.operator.measurement)
    x = read_samples(x_source, True, model.made.operator.image)
    if len(y) != len(x):
        raise DataError(f"{len(x)} images for {len(y)} measurements", where=str(x_source.file), hint="give one image for each measurement")
    for i, (one, truth) in enumerate(zip(y, x, strict=True)):
        if model.made.operator.image.fitted(one.shape).shape != truth.shape:
            what = f"image {i} of shape {truth.shape} does not belong to measurement {i} of shape {one.shape}"
            raise DataError(what, where=str(x_source.file), hint="give one image for each measurement, in the same order")
    given = {**{name: read_parameter(source) for name, source in own.items()}, **(params or {})}
    functions = {name: _metric(name, model.made.operator.image.pair) for name in metrics}
    values: dict[str, dict[str, np.ndarray]] = {}
    seconds, done = 0.0, 0
    for rows in _by_shape(y):
        progress = functools.partial(lambda before, count: on_progress(before + count, len(y)), done)
        fitted = fit_rows(model, given, y, rows)
        made, taken = _made(model, _together(y, rows), fitted, progress)
        for who, of_who in made.items():
            for name, function in functions.items():
                of_metric = values.setdefault(who, {}).setdefault(name, np.empty(len(y), np.float32))
                of_metric[rows] = _apply(function, of_who, _together(x, rows))
        seconds, done = seconds + taken, done + len(rows)
    conventions = {"test rule": rule_in_words(model.spec.test), **_conventions(metrics, model.made.operator.image.pair)}
    conventions |= {name: "of these measurements" if name in given else "the one of the checkpoint" for name in (*model.per_sample, *given)}
    return Evaluation(values, model.network_calls, seconds / len(y), conventions)


def _made(
    model: Reconstructor, y: np.ndarray, fitted: dict[str, np.ndarray], on_progress: Callable[[int], None]
) -> tuple[dict[str, np.ndarray], float]:
    """Reconstructions and baselines (n, C, …) of measurements of one shape (n, …), and the seconds that the reconstructions took."""
    started = time.perf_counter()
    images = []
    for start in range(0, len(y), 8):
        rows = slice(start, start + 8)
        part = {name: value if len(value) == 1 else value[rows] for name, value in fitted.items()}
        images.append(model.images(y[rows], params=part))
        on_progress(min(start + 8, len(y)))
    seconds = time.perf_counter() - started
    return {"reconstruction": np.concatenate(images), **{name: model.baseline(y, name, params=fitted) for name in BASELINES}}, seconds


def _by_shape(samples: np.ndarray | list[np.ndarray]) -> list[list[int]]:
    """The numbers of the samples of each shape."""
    if isinstance(samples, np.ndarray):
        return [list(range(len(samples)))]
    return [[i for i, one in enumerate(samples) if one.shape == shape] for shape in dict.fromkeys(one.shape for one in samples)]


def _together(samples: np.ndarray | list[np.ndarray], rows: list[int]) -> np.ndarray:
    """The samples at `rows`, which have one shape; an array has no others."""
    if isinstance(samples, np.ndarray):
        return samples if len(rows) == len(samples) else samples[rows]
    return np.stack([samples[i] for i in rows])


def fit_rows(
    model: Reconstructor, given: Mapping[str, np.ndarray | list[np.ndarray] | str], y: np.ndarray | list[np.ndarray], rows: list[int]
) -> dict[str, np.ndarray]:
    """The operator's parameters of the samples at `rows`, (n or 1, …) each: all of one shape."""
    if isinstance(y, np.ndarray):
        fitted = model.fit(given, y)
        return fitted if len(rows) == len(y) else {name: value if len(value) == 1 else value[rows] for name, value in fitted.items()}
    each = [model.fit({name: of_sample(value, i, len(y)) for name, value in given.items()}, y[i][None]) for i in rows]
    return {name: np.concatenate([own[name] for own in each]) for name in given}


def find_test_data(
    ckpt: Path, measurements: Path | None, images: Path | None, physics: Component
) -> tuple[Source, Source, dict[str, ArrayFile | str]]:
    """Where measurements, images and parameters of samples are: given, or kept beside the checkpoint where they were simulated, or named by the run's
    spec. Parameters lie in the files of the measurements, or belong to the run's own test data."""
    if (measurements is None) != (images is None):
        raise DataError("measurements and images go together", hint="give both, or neither for the run's own test data")
    if measurements is not None and images is not None:
        given = Source(file=str(measurements))
        return given, Source(file=str(images)), dict(stored_parameters(given, physics, "test", where=str(measurements)))
    kept = ckpt.parent / "data"
    if _kept(kept, "y") and _kept(kept, "x"):
        files = {name: _kept(kept, name) for name in (*catalog.OF_PHYSICS, *catalog.LEVELS)}
        own: dict[str, ArrayFile | str] = {name: ArrayFile(file=str(file)) for name, file in files.items() if file is not None}
        return Source(file=str(_kept(kept, "y"))), Source(file=str(_kept(kept, "x"))), own
    spec_file = ckpt.parent / "spec.yaml"
    data = catalog.load_spec(spec_file).data if spec_file.is_file() else None
    test = data.test if data is not None else None
    if test is None or test.measurements is None or test.images is None:
        raise DataError("this run has no test data with ground truth", where=str(ckpt), hint="give --measurements Y --images X")
    return test.measurements, test.images, {**stored_parameters(test.measurements, physics, "test", test.params), **test.params}


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


def _metric(name: str, pair: bool) -> Any:
    """A metric of the catalogue that gives one value for each image; complex images are compared by magnitude."""
    entry = catalog.find(name, ("metric",))
    if entry is None:
        close = catalog.suggest(name, ("metric",))
        raise SpecError([Fault(f"no metric is called {name}", "--metric", f"did you mean {close}?" if close else "see the catalogue of deepinv")])
    parameters: dict[str, Any] = {"reduction": "none"}
    if pair and any(parameter.name == "complex_abs" for parameter in entry.parameters):
        parameters["complex_abs"] = True
    part = Component(name=name, parameters=parameters)
    faults = catalog.check(part, "--metric", ("metric",))
    if faults:
        raise SpecError([Fault(what, where, hint) for where, what, hint in faults])
    return Builder().build(part, "--metric", "metric")[0]


def _apply(metric: Any, made: np.ndarray, truth: np.ndarray) -> np.ndarray:
    try:
        with torch.no_grad():
            parts = [metric(torch.from_numpy(a[None]), torch.from_numpy(b[None])) for a, b in zip(made, truth, strict=True)]
    except LIBRARY_ERRORS as error:
        if out_of_memory(error):
            raise
        raise DataError(f"{type(metric).__name__} cannot compare these images: {said(error, 160)}", hint="use another --metric") from error
    return torch.stack([part.reshape(-1).mean() for part in parts]).numpy()


def _conventions(metrics: Sequence[str], pair: bool) -> dict[str, str]:
    compared = "magnitudes of complex images" if pair else "images as they are"
    ranges = {name: "dynamic range 1" for name in metrics if name in {"PSNR", "SSIM"}}
    return {"compared": compared, "units": "those of the measurements", **ranges}
