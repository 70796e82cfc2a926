"""The last thing of a run: how large the error bars of its network have to be, found on validation measurements and kept in the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from es_cli.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from es_cli.data.batches import in_order
from es_cli.data.measurements import Measurements
from es_cli.errors import DataError
from es_cli.experiment import Experiment, Reconstruction, build_reconstruction
from es_cli.judging.calibration import Calibration, calibrate
from es_cli.judging.held_out import predict, splits_for_judging, trained_on_splits
from es_cli.spec.rule import rule_in_words

SAMPLES = 16  # of the validation measurements
BATCH = 8


def calibrate_checkpoint(path: Path, experiment: Experiment, device: torch.device) -> Calibration | None:
    """Find the factor of the error bars of the network in a run's checkpoint, and keep it there; None, and nothing kept, where there is none.

    That is where one network call makes an image, where training met no splits, and where the noise is of a kind whose variance is not known.
    A checkpoint that keeps one is left as it is. Raises CheckpointError, OutputError.
    """
    rule = experiment.reconstruction.rule
    if rule.network_calls < 2 or not trained_on_splits(experiment.spec) or "error_bar" in read_metadata(path).validation:
        return None
    checkpoint = load_checkpoint(path)
    made, _ = build_reconstruction(experiment.spec, experiment.operator, experiment.reconstruction.scaling, device)
    made.network.load_state_dict(checkpoint.part("model"))
    made.network.eval().requires_grad_(False)
    found = _calibrated(made, experiment, device)
    if found is not None:
        kept = {**checkpoint.metadata.validation, "error_bar": {**found.to_dict(), "rule": rule_in_words(experiment.resolved.test)}}
        save_checkpoint(path, replace(checkpoint.metadata, validation=kept), checkpoint.tensors)
    return found


def _calibrated(made: Reconstruction, experiment: Experiment, device: torch.device) -> Calibration | None:
    data = experiment.validation
    splitter = splits_for_judging(experiment.spec, made, device)
    if splitter is None:
        return None
    first = range(min(SAMPLES, len(data)))
    skips = experiment.spec.data is not None and experiment.spec.data.on_bad_sample == "skip"
    chosen = data.subset(np.array([i for i in first if not skips or _readable(data, i)], np.int64))
    parts = []
    for positions in in_order(chosen, BATCH):
        y, _, params = chosen.batch(positions, device)
        parts.append(predict(made, splitter, y, params, chosen.keys(positions)))
    return calibrate(parts) if parts else None


def _readable(data: Measurements, position: int) -> bool:
    """Whether a sample is one that training left in; it has said which it left out."""
    try:
        data.batch([position])
    except DataError:
        return False
    return True
