"""What a run's network makes of its test data: numbers, and some images to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from es_cli import catalog
from es_cli.building.parameters import read_parameter
from es_cli.data.stacks import open_stack
from es_cli.errors import DataError
from es_cli.evaluate import Evaluation, evaluate, find_test_data, fit_rows, read_samples
from es_cli.reconstruct import Reconstructor
from es_cli.report.runs import Run
from es_cli.spec.schema import Source

ADJOINT, RECONSTRUCTION, REFERENCE = "adjoint", "reconstruction", "reference"
PSNR = "PSNR"


@dataclass(frozen=True)
class Sample:
    """One sample to look at: its number, images (C, …, H, W) float32 by what they are, and their PSNR (dB), where a reference is known."""

    number: int
    images: dict[str, np.ndarray]
    psnr: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Numbers against ground truth, None with the reason in `missing` where there is none, and samples from the worst to the best."""

    evaluation: Evaluation | None
    missing: str
    samples: tuple[Sample, ...]


def results_of(
    run: Run, count: int, device: str = "auto", like: Sequence[Sample] = (), on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Results:
    """Evaluate a run on its own test data, and reconstruct `count` samples: with ground truth from the worst to the best by PSNR, evenly, or those
    of another run, `like`, where the references are the same; without, the first measurements that its spec names.

    Data that can no longer be read are named in `missing`. Raises CheckpointError.
    """
    try:
        evaluation, missing = evaluate(run.checkpoint, device=device, on_progress=on_progress), ""
    except DataError as error:
        evaluation, missing = None, error.fault.what
    model = Reconstructor.load(run.checkpoint, device)
    if evaluation is None:
        try:
            return Results(None, missing, tuple(_without_truth(model, run.checkpoint, count)))
        except DataError as error:
            return Results(None, f"{missing}; {error.fault.what}", ())
    return Results(evaluation, "", tuple(_with_truth(model, run.checkpoint, evaluation, count, like)))


def spread(values: Sequence[float] | np.ndarray, count: int) -> list[int]:
    """The numbers of `count` samples, evenly from the lowest value to the highest."""
    order = np.argsort(np.asarray(values), kind="stable")
    count = min(count, len(order))
    return [int(order[round(i * (len(order) - 1) / max(1, count - 1))]) for i in range(count)]


def _with_truth(model: Reconstructor, ckpt: Path, evaluation: Evaluation, count: int, like: Sequence[Sample]) -> list[Sample]:
    y_source, x_source, own = find_test_data(ckpt, None, None, model.spec.physics)
    y, x = read_samples(y_source, False, model.made.operator.measurement), read_samples(x_source, True, model.made.operator.image)
    given = {name: read_parameter(source) for name, source in own.items()}
    same = bool(like) and all(sample.number < len(x) and np.array_equal(x[sample.number], sample.images.get(REFERENCE, np.empty(0))) for sample in like)
    chosen = [sample.number for sample in like] if same else spread(evaluation.values[RECONSTRUCTION][PSNR], count)
    made = []
    for number in chosen:
        images = {**_images(model, y[number], fit_rows(model, given, y, [number])), REFERENCE: x[number]}
        psnr = {name: float(evaluation.values[name][PSNR][number]) for name in (ADJOINT, RECONSTRUCTION)}
        made.append(Sample(number, images, psnr))
    return made


def _without_truth(model: Reconstructor, ckpt: Path, count: int) -> list[Sample]:
    """The first measurements that the run's spec names; none where it stands alone or images were measured on the fly."""
    source = _measurements(ckpt)
    if source is None or model.per_sample:
        return []
    stack = open_stack(source, pictures=False, seed=0, part="test")
    made = []
    for number in range(min(count, len(stack))):
        samples, _ = model.made.operator.measurement.arrange(stack.read([number]), stack.names[number])
        made.append(Sample(number, _images(model, samples[0], {})))
    return made


def _measurements(ckpt: Path) -> Source | None:
    spec_file = ckpt.parent / "spec.yaml"
    data = catalog.load_spec(spec_file).data if spec_file.is_file() else None
    if data is None:
        return None
    held_out = None if isinstance(data.validation, (int, float)) else data.validation
    named = [pair.measurements for pair in (data.test, held_out, data.train) if pair is not None and pair.measurements is not None]
    return named[0] if named else None


def _images(model: Reconstructor, y: np.ndarray, fitted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adjoint and reconstruction of one measurement (…), `fitted` being the operator's parameters that it has of its own."""
    return {ADJOINT: model.baseline(y[None], "adjoint", params=fitted)[0], RECONSTRUCTION: model.images(y[None], params=fitted)[0]}
