"""How good reconstructions are against ground truth, beside what needs no network. Usable from Python without the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli import catalog
from es_cli.building.parameters import read_parameter
from es_cli.building.parts import Builder
from es_cli.data.layout import Layout
from es_cli.data.measurements import not_finite
from es_cli.data.stacks import open_stack
from es_cli.errors import LIBRARY_ERRORS, DataError, Fault, SpecError, out_of_memory, said
from es_cli.reconstruct import Reconstructor
from es_cli.spec.schema import ArrayFile, Component, Source

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
    params: Mapping[str, np.ndarray | str] | None = None,
    metrics: Sequence[str] = ("PSNR", "SSIM"),
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Reconstruct test measurements and compare with their images.

    `measurements` and `images` None are the test data of the checkpoint's run, looked for beside it, with the operator's parameters that each
    sample has of its own; `params` are parameters in place of these and of the checkpoint's, as `Reconstructor.reconstruct` takes them.
    Raises DataError where there are none or they do not fit, SpecError for a metric that the catalogue does not hold, UsageError for a
    parameter that the operator does not take.
    """
    model = Reconstructor.load(ckpt, device)
    y_source, x_source, own = _test_data(ckpt, measurements, images)
    y = _read(y_source, False, model.made.operator.measurement)
    x = _read(x_source, True, model.made.operator.image)
    if len(y) != len(x):
        raise DataError(f"{len(x)} images for {len(y)} measurements", where=str(x_source.file), hint="give one image for each measurement")
    fitted = model.fit({**{name: read_parameter(source) for name, source in own.items()}, **(params or {})}, y)
    functions = {name: _metric(name, model.made.operator.image.pair) for name in metrics}
    started = time.perf_counter()
    images_made = []
    for start in range(0, len(y), 8):
        rows = slice(start, start + 8)
        part = {name: value if len(value) == 1 else value[rows] for name, value in fitted.items()}
        images_made.append(model.images(y[rows], params=part))
        on_progress(min(start + 8, len(y)), len(y))
    seconds = (time.perf_counter() - started) / len(y)
    made = {"reconstruction": np.concatenate(images_made), **{name: model.baseline(y, name, params=fitted) for name in BASELINES}}
    values = {who: {name: _apply(f, image, x) for name, f in functions.items()} for who, image in made.items()}
    conventions = _conventions(metrics, model.made.operator.image.pair)
    conventions |= {name: "of these measurements" if name in fitted else "the one of the checkpoint" for name in (*model.per_sample, *fitted)}
    return Evaluation(values, model.network_calls, seconds, conventions)


def _test_data(ckpt: Path, measurements: Path | None, images: Path | None) -> tuple[Source, Source, dict[str, ArrayFile | str]]:
    """Where measurements, images and parameters of samples are: given, or kept beside the checkpoint where they were simulated, or named by the run's
    spec. Parameters belong to the run's own test data."""
    if (measurements is None) != (images is None):
        raise DataError("measurements and images go together", hint="give both, or neither for the run's own test data")
    if measurements is not None and images is not None:
        return Source(file=str(measurements)), Source(file=str(images)), {}
    kept = ckpt.parent / "data"
    if (kept / "test_y.npy").is_file() and (kept / "test_x.npy").is_file():
        files = {name: kept / f"test_{name}.npy" for name in (*catalog.OF_PHYSICS, *catalog.LEVELS)}
        own: dict[str, ArrayFile | str] = {name: ArrayFile(file=str(file)) for name, file in files.items() if file.is_file()}
        return Source(file=str(kept / "test_y.npy")), Source(file=str(kept / "test_x.npy")), own
    spec_file = ckpt.parent / "spec.yaml"
    data = catalog.load_spec(spec_file).data if spec_file.is_file() else None
    test = data.test if data is not None else None
    if test is None or test.measurements is None or test.images is None:
        raise DataError("this run has no test data with ground truth", where=str(ckpt), hint="give --measurements Y --images X")
    return test.measurements, test.images, dict(test.params)


def _read(source: Source, pictures: bool, layout: Layout) -> np.ndarray:
    """All samples of a source, read as training reads them and arranged for the operator. Raises DataError where they do not fit or are not finite."""
    stack = open_stack(source, pictures=pictures, seed=0, part="test")
    array, _ = layout.arrange(stack.read(range(len(stack))), stack.names[0])
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise not_finite(bad, stack.names[min(bad, len(stack) - 1)])
    return array


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
