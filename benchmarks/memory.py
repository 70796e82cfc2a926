"""Memory of a training on a memory-mapped file, by default larger than the machine's memory: `python benchmarks/memory.py [--gigabytes N]`.

The file is sparse: it claims its size and holds few blocks, and reading it is reading all the same. Prints one JSON line with the anonymous
memory (file pages are not counted) after a quarter of the steps and at the end, in MiB. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from es_cli.catalog import load_spec
from es_cli.training.events import Event, Step
from es_cli.training.folder import claim
from es_cli.training.run import train

SIZE = 128
SPEC = """
physics: {name: Inpainting, mask: {file: mask.npy}}
data: {train: {measurements: y.npy}, validation: {measurements: validation.npy}}
transforms: {group: D4}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, channels_per_scale: [8, 16], batch_norm: false}}
training: {steps: STEPS, batch_size: 64, preview: false, validate_every: STEPS}
"""


def anonymous() -> float:
    """MiB of memory that is no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parser.add_argument("--gigabytes", type=float, default=round(1.3 * machine))
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    seen: dict[int, float] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, Step):
            seen[event.step] = anonymous()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = int(args.gigabytes * 2**30 / (4 * SIZE * SIZE))
        large = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (count, 1, SIZE, SIZE))
        large[:: max(1, count // 1000)] = 0.5
        del large
        np.save(folder / "validation.npy", np.full((4, 1, SIZE, SIZE), 0.5, np.float32))
        np.save(folder / "mask.npy", (np.random.default_rng(0).random((SIZE, SIZE)) < 0.5).astype(np.float32))
        (folder / "spec.yaml").write_text(SPEC.replace("STEPS", str(args.steps)))
        spec = load_spec(folder / "spec.yaml")
        train(spec, claim(spec, folder / "run"), on_event=on_event)
    early, late = seen[max(1, args.steps // 4)], seen[args.steps]
    figures = {"file GiB": args.gigabytes, "machine GiB": round(machine, 1), "early MiB": round(early), "late MiB": round(late), "steps": args.steps}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
