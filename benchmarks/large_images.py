"""What one image costs at several sizes, each in a process of its own: `python benchmarks/large_images.py CHECKPOINT` prints one JSON line.

The checkpoint is of artifact removal for inpainting, so that its network takes images of any size. Linux only.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import timed

from es_cli.checkpoint import load_checkpoint, save_checkpoint
from es_cli.reconstruct import Reconstructor

ENOUGH = 2.0  # seconds: a small image is made again until it has taken so long
MOST = 20


def measure(checkpoint: Path, sizes: Sequence[int], folder: Path) -> dict[str, dict[str, Any]]:
    """For each size, seconds for an image, microseconds for a pixel, and the memory of the process before and at its most, in MiB."""
    rows = {}
    for size in sizes:
        enlarged = folder / f"{size}.safetensors"
        enlarge(checkpoint, enlarged, size)
        done = subprocess.run([sys.executable, __file__, str(enlarged)], check=True, capture_output=True, text=True)
        rows[f"one image of {size}²"] = json.loads(done.stdout)
    return rows


def enlarge(checkpoint: Path, path: Path, size: int) -> None:
    """The same network for images of `size` × `size` pixels, its mask repeated."""
    found = load_checkpoint(checkpoint)
    old = found.metadata.measurement["image_shape"]
    new = [old[0], size, size]
    mask = found.tensors["physics.mask"]
    times = (1, 1, *(-(-size // n) for n in mask.shape[-2:]))
    described = json.loads(json.dumps([found.metadata.spec, found.metadata.measurement]).replace(json.dumps(old), json.dumps(new)))
    metadata = replace(found.metadata, spec=described[0], measurement=described[1])
    save_checkpoint(path, metadata, {**found.tensors, "physics.mask": mask.repeat(times)[..., :size, :size]})


def peak() -> int:
    """The most memory that this process has held so far, in MiB; what getrusage says is no less than what its parent held."""
    return _kilobytes("/proc/self/status", "VmHWM") // 1024


def stop_before_the_machine_does() -> int:
    """Let allocations fail beyond what is free now, so that nothing else on the machine is killed; MiB that this leaves."""
    free = _kilobytes("/proc/meminfo", "MemAvailable") * 9 // 10
    most = (_kilobytes("/proc/self/status", "VmSize") + free) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return free // 1024


def _kilobytes(file: str, name: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1])


def image(checkpoint: Path) -> dict[str, Any]:
    """Time and memory of one image of the checkpoint's size, by its own rule."""
    model = Reconstructor.load(checkpoint, "cpu")
    shape = model.made.operator.measurement.shape
    mask = model.made.operator.physics.mask[0].numpy()
    y = (np.random.default_rng(0).random((1, *shape), np.float32) * mask).astype(np.float32)
    before, free = peak(), stop_before_the_machine_does()
    seconds: list[float] = []
    try:
        while len(seconds) < MOST and sum(seconds) < ENOUGH:
            seconds.append(timed(lambda: model.images(y)))
    except (RuntimeError, MemoryError) as error:
        return {"failed": f"with {free} MiB free: {' '.join(str(error).split())[:160]}", "MiB before": before}
    median = statistics.median(seconds)
    cost = {"seconds": float(f"{median:.4g}"), "µs per pixel": float(f"{1e6 * median / (shape[-2] * shape[-1]):.4g}"), "images": len(seconds)}
    return {**cost, "network calls": model.network_calls, "threads": torch.get_num_threads(), "MiB before": before, "MiB at most": peak()}


if __name__ == "__main__":
    print(json.dumps(image(Path(sys.argv[1])), ensure_ascii=False))
