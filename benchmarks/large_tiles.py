"""Time and memory of `es reconstruct` on one image in tiles: `python benchmarks/large_tiles.py [--pixels N] [--memory 2G]` prints one JSON line.

A small U-Net is trained for a step on inpainting of 64 × 64 pixels, and makes an image of N × N from a .npy on disk, in a process of its own. What
the process holds at its most is counted with and without the pages of files that it has mapped, which the system may take back. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from es_cli.catalog import load_spec
from es_cli.training.folder import claim
from es_cli.training.run import train

SPEC = """
physics: {name: Inpainting, mask: 0.6}
data: {train: {images: images.npy}}
transforms: {group: D4}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, channels_per_scale: WIDTHS, batch_norm: false}}
training: {steps: 1, batch_size: 4, preview: false}
"""
EVERY = 0.05  # seconds between two looks at the memory


def prepare(folder: Path, pixels: int, width: int) -> Path:
    """A checkpoint, and y.npy of `pixels` × `pixels` of which 60 % are measured; the network's first scale has `width` channels."""
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.random((8, 1, 64, 64), np.float32))
    (folder / "spec.yaml").write_text(SPEC.replace("WIDTHS", str([width, 2 * width, 4 * width])))
    spec = load_spec(folder / "spec.yaml")
    large = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (pixels, pixels))
    for row in range(0, pixels, 256):
        part = rng.random((min(256, pixels - row), pixels), np.float32)
        large[row : row + 256] = part * (rng.random(part.shape, np.float32) < 0.6)
    del large
    return train(spec, claim(spec, folder / "run"), device="cpu")


def watched(command: list[str]) -> tuple[float, float, float]:
    """Seconds, MiB at most, and MiB at most that are of no file, of a process."""
    started, whole, own = time.perf_counter(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            held = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("Rss") or line.startswith("VmRSS"))
            if held:
                whole = max(whole, int(held["VmRSS"].split()[0]))
                own = max(own, int(held["RssAnon"].split()[0]))
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"es reconstruct ended with {process.returncode}")
    return time.perf_counter() - started, whole / 1024, own / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=16384)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--test-rule", default="one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = prepare(folder, args.pixels, args.width)
        options = ["--param", "mask=from-data", "--memory", args.memory, "--test-rule", args.test_rule, "--device", "cpu"]
        seconds, whole, own = watched([sys.executable, "-m", "es_cli", "reconstruct", "--ckpt", str(model), str(folder / "y.npy"), "-o", str(folder / "x.npy"), *options])
        shape = np.load(folder / "x.npy", mmap_mode="r").shape
    figures = {"shape": shape, "memory": args.memory, "width": args.width, "test rule": args.test_rule, "seconds": round(seconds, 1), "threads": torch.get_num_threads()}
    print(json.dumps({**figures, "MiB at most": round(whole), "MiB of no file": round(own)}))


if __name__ == "__main__":
    main()
