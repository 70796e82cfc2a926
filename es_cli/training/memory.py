"""What to do where the memory is too small: the batch goes through the network in pieces, twice as many each time, and stays the same batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from typing import TypeVar

import torch

from es_cli.errors import KNOBS, DeviceError
from es_cli.experiment import Experiment
from es_cli.networks.pieces import normalizes_by_batch
from es_cli.training.events import Event, Note
from es_cli.training.shortage import NoRoom
from es_cli.training.state import TrainingState

T = TypeVar("T")


def with_room(experiment: Experiment, state: TrainingState, size: int, work: Callable[[], T]) -> Generator[Event, None, T]:
    """What `work` gives, for a batch of `size`; where it raises NoRoom it is called again, with the batch in more pieces, which is said once it fits.

    Draws are keyed, so that it computes the same again. Raises DeviceError where not even one sample fits.
    """
    before = state.running.pieces
    while True:
        try:
            made = work()
        except NoRoom as error:
            why = str(error)
        else:
            if state.running.pieces != before:
                yield _told(state, size)
            return made
        # out of the handler, which keeps alive what was computed
        state.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if state.running.device.type == "cuda":
            torch.cuda.empty_cache()
        _cut(experiment, state, size, why)


def _cut(experiment: Experiment, state: TrainingState, size: int, why: str) -> None:
    """Have batches of `size` go through the networks in twice as many pieces. Raises DeviceError."""
    where, running = str(state.running.device), state.running
    fewer = "" if size == 1 else "lower training.batch_size, "
    if running.pieces >= size:
        what = "one sample" if size == 1 else f"a batch of {size}, even with one sample at a time in the network"
        raise DeviceError(f"the memory is too small for {what}: {why}", where=where, hint=fewer + KNOBS)
    networks = [state.network] if state.average is None else [state.network, state.average]
    physics, shape, pieces = experiment.operator.physics, experiment.operator.image.shape, 2 * running.pieces
    if not all(running.cut(network, physics, shape, pieces) for network in networks):
        what = f"the memory is too small for a batch, and {type(state.network).__name__} has no part that could take it in pieces"
        raise DeviceError(f"{what}: {why}", where=where, hint=fewer + KNOBS)


def _told(state: TrainingState, size: int) -> Note:
    at_once = -(-size // state.running.pieces)
    kept = "layers that normalize by the batch see as many" if normalizes_by_batch(state.network) else "the gradient is still that of the whole batch"
    what = f"the memory is too small for {size} samples at once: from here on {at_once} at a time go through the network, which computes twice what it cannot keep"
    return Note(f"{what}; {kept}")
