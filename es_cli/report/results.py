"""What a run's network makes of its test data: numbers, and some images to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from deepinv.physics import LinearPhysics

from es_cli.errors import DataError
from es_cli.evaluate import Evaluation, evaluate_samples
from es_cli.examine import examine
from es_cli.judged_samples import JudgedSamples, find_samples, fitted
from es_cli.reconstruct import Reconstructor
from es_cli.report.runs import Run

ADJOINT, RECONSTRUCTION, REFERENCE = "adjoint", "reconstruction", "reference"
MEASURED, INVENTED, ERROR_BAR = "measured part", "invented part", "error bar"
PSNR, HELD_OUT = "PSNR", "held_out_nrmse"


@dataclass(frozen=True)
class Sample:
    """One sample to look at: its number, images (C, …, H, W) float32 by what they are, and their PSNR (dB), where a reference is known.

    Besides images there may be the measured and the invented part of the reconstruction, and its error bar.
    """

    number: int
    images: dict[str, np.ndarray]
    psnr: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Numbers against ground truth where there is one, and by measurements alone; None with the reason in `missing` where there are no data.

    `samples` are from the worst to the best.
    """

    evaluation: Evaluation | None
    missing: str
    samples: tuple[Sample, ...]

    @property
    def with_truth(self) -> Evaluation | None:
        """The evaluation, None where it is not against ground truth."""
        return self.evaluation if self.evaluation is not None and self.evaluation.values else None


def results_of(
    run: Run, count: int, device: str = "auto", like: Sequence[Sample] = (), on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Results:
    """Evaluate a run on its own test data, else on its validation data, and look at `count` samples: from the worst to the best by PSNR, without
    ground truth by the error on what was held out, evenly; or those of another run, `like`, where these are of the same samples.

    Data that can no longer be read are named in `missing`. Raises CheckpointError.
    """
    model = Reconstructor.load(run.checkpoint, device)
    try:
        samples = find_samples(model, run.checkpoint, None, None, {})
        evaluation = evaluate_samples(model, samples, judging=True, on_progress=on_progress)
    except DataError as error:
        return Results(None, str(error.fault.what), ())
    ranked = evaluation.values[RECONSTRUCTION][PSNR] if evaluation.values else -np.nan_to_num(evaluation.judged[HELD_OUT])
    shown = [_seen(model, samples, number, evaluation) for number in _numbers(samples, like, spread(ranked, count))]
    return Results(evaluation, "", tuple(shown))


def spread(values: Sequence[float] | np.ndarray, count: int) -> list[int]:
    """The numbers of `count` samples, evenly from the lowest value to the highest."""
    order = np.argsort(np.asarray(values), kind="stable")
    count = min(count, len(order))
    return [int(order[round(i * (len(order) - 1) / max(1, count - 1))]) for i in range(count)]


def _numbers(samples: JudgedSamples, like: Sequence[Sample], chosen: list[int]) -> list[int]:
    """Those of `like` where its references are these, else `chosen`."""
    if not like or samples.x is None:
        return chosen
    same = all(one.number < len(samples.x) and np.array_equal(samples.x[one.number], one.images.get(REFERENCE, np.empty(0))) for one in like)
    return [one.number for one in like] if same else chosen


def _seen(model: Reconstructor, samples: JudgedSamples, number: int, evaluation: Evaluation) -> Sample:
    """Adjoint, reconstruction, its parts where the operator is linear, its error bar where there is more than one pass, and the reference."""
    y, own = samples.y[number][None], fitted(model, samples.params, samples.y, [number])
    own = {name: value if len(value) == 1 else value[number : number + 1] for name, value in own.items()}
    linear = isinstance(model.made.operator.physics, LinearPhysics)
    found = examine(model, y, params=own, error_bar=model.network_calls > 1, parts=linear).panels
    images = {ADJOINT: model.baseline(y, "adjoint", params=own)[0], RECONSTRUCTION: found["image"][0]}
    images |= {title: found[name][0] for title, name in ((MEASURED, "measured"), (INVENTED, "invented"), (ERROR_BAR, "error_bar")) if name in found}
    psnr = {}
    if samples.x is not None:
        images[REFERENCE] = samples.x[number]
        psnr = {name: float(evaluation.values[name][PSNR][number]) for name in (ADJOINT, RECONSTRUCTION)}
    return Sample(number, images, psnr)
