"""How good reconstructions are, against ground truth where it is known and by measurements alone. Usable from Python without the command line."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli import catalog
from es_cli.building.parts import Builder
from es_cli.errors import LIBRARY_ERRORS, DataError, Fault, SpecError, out_of_memory, said
from es_cli.judged_samples import JudgedSamples, by_shape, find_samples, fitted, together
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import rule_in_words
from es_cli.spec.schema import Component, Test
from es_cli.without_truth import Judge, judgeable, summary, trust

BASELINES = ("adjoint", "pseudoinverse")


@dataclass(frozen=True)
class Evaluation:
    """Metrics per image: `values[who][metric]` is an array (n,), `who` being reconstruction, adjoint or pseudoinverse; empty without ground truth.

    `judged[name]` (n,) is what measurements alone say, by the names of `without_truth.NAMES`, empty where it was not asked for; `error_bar` how
    often error bars covered what was held out. `better` says of each metric whether more of it is better. `source` is whose samples these are.
    """

    values: dict[str, dict[str, np.ndarray]]
    network_calls: int
    seconds_per_image: float
    conventions: dict[str, str]
    n: int
    source: str
    judged: dict[str, np.ndarray]
    error_bar: dict[str, Any] | None
    better: dict[str, bool]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Mean and standard deviation over the images, as `es evaluate --json` prints them."""
        found = {
            who: {metric: {"mean": float(v.mean()), "std": float(v.std())} for metric, v in per_metric.items()}
            for who, per_metric in self.values.items()
        }
        told: dict[str, Any] = {"n": self.n, "source": self.source}
        if found:
            told |= {"metrics": found.pop("reconstruction"), "baselines": found}
        if self.judged:
            told["without_truth"] = summary(self.judged, self.seed)
            told["error_bar"] = self.error_bar
            told["trust"] = {name: trust(name) for name in told["without_truth"]}
        return {**told, "network_calls": self.network_calls, "seconds_per_image": self.seconds_per_image, "conventions": self.conventions}

    def rows(self) -> list[dict[str, Any]]:
        """One row for each image, the worst first: its number, every metric of the reconstruction and the baselines, and what was judged.

        The worst is so by the first metric; without ground truth by the error on what was held out.
        """
        columns = {(m if who == "reconstruction" else f"{who}_{m}"): v for who, ms in self.values.items() for m, v in ms.items()}
        columns |= {name: v for name, v in self.judged.items() if np.isfinite(v).any()}
        return [{"image": int(i), **{name: float(v[i]) for name, v in columns.items()}} for i in self._worst_first()]

    def _worst_first(self) -> np.ndarray:
        if self.values:
            name, by = next(iter(self.values["reconstruction"].items()))
            return np.argsort(by if self.better[name] else -by, kind="stable")
        return np.argsort(-self.judged["held_out_nrmse"], kind="stable")


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
    judging: bool | None = None,
    variation: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Reconstruct measurements, compare with their images where these are known, and judge by the measurements alone.

    `measurements` and `images` None are the test data of the checkpoint's run, looked for beside it, with the operator's parameters that each
    sample has of its own; without ground truth there, its test or its validation measurements. `measurements` alone are judged without ground
    truth. `params` are parameters in place of these and of the checkpoint's, as `Reconstructor.reconstruct` takes them,
    `precision` is that of the network, and `test` is a rule in place of the checkpoint's, as `Reconstructor.load` takes it.
    `judging`: also what measurements alone say of images by linear operators, at two to three times the network calls; None: where there is no
    ground truth. `variation`: that
    includes the image of least total variation, which is slow.
    Raises DataError where there are no measurements or they do not fit, SpecError for a metric that the catalogue does not hold, UsageError for a
    parameter that the operator does not take.
    """
    model = Reconstructor.load(ckpt, device, precision, test)
    samples = find_samples(model, ckpt, measurements, images, params or {})
    return evaluate_samples(model, samples, metrics, judging, variation, on_progress)


def evaluate_samples(
    model: Reconstructor,
    samples: JudgedSamples,
    metrics: Sequence[str] = ("PSNR", "SSIM"),
    judging: bool | None = None,
    variation: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """What `evaluate` gives, of a network that is loaded and samples that were found; arguments and faults as there."""
    if samples.x is None and judging is False:
        raise DataError("there is no ground truth to compare with", where=samples.source, hint="give --images X, or leave --metrics-only out")
    judge = Judge(model, variation) if samples.x is None or (judging and judgeable(model)) else None
    functions = {name: _metric(name, model.made.operator.image.pair) for name in metrics} if samples.x is not None else {}
    values: dict[str, dict[str, np.ndarray]] = {}
    judged: dict[str, np.ndarray] = {}
    seconds, done, n = 0.0, 0, len(samples)
    for rows in by_shape(samples.y):
        progress = functools.partial(lambda before, count: on_progress(before + count, n), done)
        y, own = together(samples.y, rows), fitted(model, samples.params, samples.y, rows)
        made, taken = _made(model, y, own, progress)
        if samples.x is not None:
            truth = together(samples.x, rows)
            for who, name in itertools.product(made, functions):
                of_metric = values.setdefault(who, {}).setdefault(name, np.empty(n, np.float32))
                of_metric[rows] = _apply(functions[name], made[who], truth)
        for name, of_name in judge.values(y, own, made, rows).items() if judge is not None else ():
            judged.setdefault(name, np.empty(n, np.float32))[rows] = of_name
        seconds, done = seconds + taken, done + len(rows)
    conventions = {"test rule": rule_in_words(model.spec.test), **_conventions(list(functions), model.made.operator.image.pair)}
    conventions |= {name: "of these measurements" if name in samples.params else "the one of the checkpoint" for name in (*model.per_sample, *samples.params)}
    better = {name: not bool(getattr(function, "lower_better", True)) for name, function in functions.items()}
    bar = None if judge is None else judge.error_bar()
    return Evaluation(values, model.network_calls, seconds / n, conventions, n, samples.source, judged, bar, better, model.spec.seed)


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
