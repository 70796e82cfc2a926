"""What a run leaves beside its state: the checkpoint of its best weights, and the test pairs that were simulated for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.checkpoint import Metadata, save_checkpoint
from es_cli.data.batches import in_order
from es_cli.data.writers import write_array
from es_cli.experiment import Experiment
from es_cli.training.events import Validated
from es_cli.training.state import TrainingState


def written_model(
    path: Path, experiment: Experiment, state: TrainingState, event: Validated, typical: Mapping[str, Sequence[float]]
) -> Callable[[], None]:
    """What writes the weights as they are now, which were validated, to a checkpoint at `path`; `typical` is what training measurements were like."""
    tensors = {f"model.{key}": value for key, value in state.evaluated.state_dict().items()}
    tensors.update({f"objective.{key}": value for key, value in experiment.objective.learned().items()})
    tensors = {key: value.detach().cpu().clone() for key, value in tensors.items()}
    tensors.update(experiment.operator.arrays)
    data = experiment.resolved.data
    measurement = {
        "shape": list(experiment.operator.measurement.shape),
        "image_shape": list(experiment.operator.image.shape),
        "complex": experiment.operator.image.pair,
        "per_sample": sorted(experiment.train.params),
        "network_calls": experiment.reconstruction.rule.network_calls,
        "typical": typical,
    }
    if experiment.operator.image.free:
        measurement["sizes"] = [list(size) for size in experiment.operator.sizes]
    scale = "none" if data is None else data.scale
    metadata = Metadata(dict(state.spec or {}), scale, measurement, {"loss": event.loss, "step": event.step})
    return lambda: save_checkpoint(path, metadata, tensors)


def keep_test_data(experiment: Experiment, folder: Path) -> None:
    """Simulated test pairs are kept beside the checkpoint: `evaluate` cannot read them from anywhere else."""
    test, spec = experiment.test, experiment.spec
    if test is None or spec.data is None or spec.data.test is None or spec.data.test.measurements is not None:
        return
    kept: dict[str, dict[int, Any]] = {}
    for positions in in_order(test, len(test)):
        y, x, params = test.batch(positions)
        for name, values in {"y": y, "x": x, **params}.items():
            if values is not None:
                kept.setdefault(name, {}).update(zip(positions, values.expand(len(positions), *values.shape[1:]).numpy(), strict=True))
    for name, of_name in kept.items():
        _write_samples(folder / "data", f"test_{name}", [of_name[position] for position in sorted(of_name)])


def _write_samples(folder: Path, name: str, arrays: list[np.ndarray]) -> None:
    """One .npy of samples of one shape; a folder with one for each where they differ, in the order of their names."""
    if len({array.shape for array in arrays}) == 1:
        write_array(folder / f"{name}.npy", np.stack(arrays))
        return
    for i, array in enumerate(arrays):
        write_array(folder / name / f"{i:06d}.npy", array)
