"""Throughput of two processes with one thread each against one process with two: `python benchmarks/two_processes.py [--steps N] [--rounds R]`.

Both train the same small network at the same global batch, by turns, and the median of the rounds counts. Prints one JSON line with samples per
second, their ratio, which is to be 0.9 at least, and the load before it began: the machine must have two cores to spare.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZE, SAMPLES = 64, 128
SPEC = """
name: two
physics: {name: Inpainting, mask: {file: mask.npy}}
data: {train: {measurements: y.npy}, validation: {measurements: validation.npy}}
transforms: {group: D4}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, channels_per_scale: [16, 32, 64], batch_norm: false}}
training: {steps: STEPS, batch_size: 16, preview: false, validate_every: HALF, save_every: null}
"""


def throughput(folder: Path, name: str, threads: int, *options: str) -> float:
    """Samples per second over the second half of a run, as its metrics have them."""
    run, root = folder / name, str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "es_cli", "train", str(folder / "spec.yaml"), "-o", str(run), "--overwrite", "--no-check", "-q", "--device", "cpu", *options]
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["samples_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng, load = np.random.default_rng(0), os.getloadavg()[0]
    one, two = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        mask = (rng.random((SIZE, SIZE)) < 0.5).astype(np.float32)
        np.save(folder / "mask.npy", mask)
        np.save(folder / "y.npy", rng.random((SAMPLES, 1, SIZE, SIZE), np.float32) * mask)
        np.save(folder / "validation.npy", rng.random((2, 1, SIZE, SIZE), np.float32) * mask)
        (folder / "spec.yaml").write_text(SPEC.replace("STEPS", str(args.steps)).replace("HALF", str(args.steps // 2)))
        for _ in range(args.rounds):
            one.append(throughput(folder, "one", 2))
            two.append(throughput(folder, "two", 1, "--devices", "2"))
    ratios = [b / a for a, b in zip(one, two, strict=True)]
    figures = {"one process, two threads": statistics.median(one), "two processes, one thread": statistics.median(two), "ratio": statistics.median(ratios)}
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({**rounded, "ratios": [round(ratio, 3) for ratio in ratios], "steps": args.steps, "load": round(load, 1)}))


if __name__ == "__main__":
    main()
