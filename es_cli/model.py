"""A checkpoint in a notebook: `es_cli.load(path)`. Everything here is also a command; faults are EsErrors, as there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.card import card, facts
from es_cli.errors import DataError
from es_cli.evaluate import Evaluation, evaluate_samples
from es_cli.examine import Examined, examine
from es_cli.judged_samples import GIVEN, JudgedSamples, find_samples
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule
from es_cli.spec.schema import Spec

Parameters = Mapping[str, np.ndarray | str]


def load(path: str | Path, *, device: str = "auto", precision: str = "float32", test_rule: str | None = None) -> Model:
    """The trained network in a run's model.safetensors, with its operator; nothing else of the run is needed.

    `device` is auto, cpu, cuda or cuda:N; `precision` what the network computes in; `test_rule` how images are made, as `es reconstruct --test-rule` takes it:
    full, one, paper, or KEY=VALUE,…; None: as the checkpoint says. Raises CheckpointError, DeviceError, UsageError, SpecError.
    """
    return Model(Path(path), Reconstructor.load(Path(path), device, precision, None if test_rule is None else read_rule(test_rule, "test_rule")))


class Model:
    """A trained network with its operator. Arrays are numpy's, in the units and the layout of the measurements."""

    def __init__(self, path: Path, reconstructor: Reconstructor) -> None:
        self._path, self._reconstructor = path, reconstructor

    def reconstruct(self, y: np.ndarray, params: Parameters | None = None) -> np.ndarray:
        """Images of one measurement or of a batch, told apart by the operator's shape; complex in, complex out.

        `params` are parameters of the operator in place of the checkpoint's, by name. Raises DataError where y does not fit.
        """
        return self._reconstructor.reconstruct(np.asarray(y), "y", params)

    def examine(
        self, y: np.ndarray, params: Parameters | None = None, *, error_bar: bool = False, parts: bool = False, consistent: bool = False
    ) -> Examined:
        """Images, and what to believe of them: `.image`, and where it was asked for `.error_bar.values` and `.parts.measured` and `.parts.invented`.

        `consistent` moves images to the nearest ones that agree with y to the level of its noise. Raises as `reconstruct`, and UsageError.
        """
        return examine(self._reconstructor, np.asarray(y), "y", params, error_bar=error_bar, parts=parts, agree=consistent)

    def evaluate(
        self,
        y: np.ndarray | None = None,
        x: np.ndarray | None = None,
        params: Parameters | None = None,
        *,
        metrics: Sequence[str] = ("PSNR", "SSIM"),
        judging: bool | None = None,
    ) -> Evaluation:
        """How good images are: by their ground truth x, and by the measurements alone where x is None or `judging` says so.

        y None stands for the test data of the run, which are looked for beside the checkpoint, else for its validation measurements.
        `.to_dict()` is what `es evaluate --json` prints, `.rows()` one row for each image. Raises DataError, SpecError for a metric that is none.
        """
        given = dict(params or {})
        if y is None and x is not None:
            raise DataError("images are compared with what is made of measurements, and none are given", hint="give y too")
        samples = find_samples(self._reconstructor, self._path, None, None, given) if y is None else self._arranged(np.asarray(y), x, given)
        return evaluate_samples(self._reconstructor, samples, metrics, judging)

    def _arranged(self, y: np.ndarray, x: np.ndarray | None, params: dict[str, Any]) -> JudgedSamples:
        measured, _ = self._reconstructor.samples(y, "y")
        if x is None:
            return JudgedSamples(measured, None, params, GIVEN)
        truth, _ = self._reconstructor.made.operator.image.arrange(np.asarray(x), "x")
        if len(truth) != len(measured):
            raise DataError(f"{len(truth)} images for {len(measured)} measurements", where="x", hint="give one image for each measurement")
        return JudgedSamples(measured, truth, params, GIVEN)

    @property
    def spec(self) -> Spec:
        """The resolved spec that it was trained by, without its data."""
        return self._reconstructor.spec

    @property
    def physics(self) -> Any:
        """The forward operator, a deepinv physics, on the model's device: `physics.A(x)` of tensors (B, C, H, W)."""
        return self._reconstructor.made.operator.physics

    def card(self) -> str:
        """A model card in markdown, as `es info --card` prints it."""
        return card(self._reconstructor.metadata)

    def __repr__(self) -> str:
        known = facts(self._reconstructor.metadata)
        return f"<{known['name']}: {known['model']} for {known['physics']}, images of {known['image']}>"
