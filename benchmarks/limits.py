"""What a step costs beside the network, which is what limits many processes: `python benchmarks/limits.py [SPEC] [--device NAME]`.

Trains nothing for long: it times a few steps of a spec (a small one of its own where none is named), reading their batches, validating, saving,
and the messages between two processes of this machine. Prints one JSON line; docs/cluster.md says how to reckon with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from es_cli.catalog import load_spec
from es_cli.data.batches import Epochs
from es_cli.experiment import build_experiment
from es_cli.splitting.folds import Visit
from es_cli.streams import stream_seed
from es_cli.training.launching import Others, find_place
from es_cli.training.loop import new_state
from es_cli.training.stepping import make_step

SIZE, SAMPLES, TIMES = 128, 32, 7
SPEC = """
name: limits
physics: {name: Inpainting, mask: {file: mask.npy}}
data: {train: {measurements: y.npy}}
transforms: {group: D4}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, batch_norm: false}}
training: {steps: 1, batch_size: 4}
"""


def seconds(work: Callable[[], object], device: torch.device, times: int = TIMES) -> float:
    """The median of `times` after one that warms up."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def of_a_step(path: Path, device: torch.device) -> dict[str, float]:
    """What the parts of a training take, in seconds and bytes."""
    made = build_experiment(load_spec(path), device)
    state, epochs = new_state(made, None, 100), Epochs(made.train, made.spec.training.batch_size, made.spec.seed)
    positions = epochs.positions(1)
    batch, held_out = made.train.batch(positions, device), made.reconstruction.batch(made.validation, [0], device)
    visit = Visit(made.spec.seed, made.train.keys(positions), 0)
    seed = stream_seed(made.spec.seed, "validation-split", 0)
    gradient = sum(p.nbytes for p in made.network.parameters() if p.requires_grad)
    with tempfile.TemporaryDirectory() as scratch:
        state.network.train()
        figures = {
            "batch": len(positions),
            "gradient MiB": gradient / 2**20,
            "bytes of a sample": batch[0][0].nbytes,
            "step s": seconds(lambda: make_step(made, state, 1, visit, batch, len(positions), ask=True), device),
            "reading a batch s": seconds(lambda: made.train.batch(positions), device),
            "validating a sample s": seconds(lambda: made.objective.held_out(held_out[0], held_out[2], [seed], None, held_out[3]), device),
            "copying the state s": seconds(state.snapshot, device),
            "writing the state s": seconds(lambda: state.save(Path(scratch) / "state.safetensors"), device, 3),
        }
        return {**figures, "state MiB": (Path(scratch) / "state.safetensors").stat().st_size / 2**20}


def of_messages(size: int) -> dict[str, float]:
    """What two processes of this machine take to agree on something, and to add up gradients of `size` bytes, by gloo."""
    from es_cli.training.several import join

    place, others = find_place(2, None, os.environ), Others()
    assert place is not None
    if place.starts_others:
        others.start(place, [sys.executable, __file__, "--other", str(size)])
    try:
        together, gradient = join(place, "cpu", others), torch.zeros(size // 4)
        figures = {
            "agreeing s": seconds(lambda: together.agree([1, 2, 3, 4]), gradient.device, 200),
            "adding up gradients s": seconds(lambda: together.added(gradient), gradient.device),
        }
        together.leave()
        return figures
    finally:
        others.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", nargs="?", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--other", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.other is not None:
        of_messages(args.other)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.spec is None:
            rng, folder = np.random.default_rng(0), Path(scratch)
            mask = (rng.random((SIZE, SIZE)) < 0.5).astype(np.float32)
            np.save(folder / "mask.npy", mask)
            np.save(folder / "y.npy", rng.random((SAMPLES, 1, SIZE, SIZE), np.float32) * mask)
            (folder / "spec.yaml").write_text(SPEC)
        found = of_a_step(args.spec or Path(scratch) / "spec.yaml", torch.device(args.device))
    figures = {**found, **of_messages(int(found["gradient MiB"] * 2**20))}
    print(json.dumps({name: float(f"{value:.3g}") for name, value in figures.items()}))


if __name__ == "__main__":
    main()
