"""Print the README's table from what `against_peer.py` measured: `python benchmarks/table.py benchmarks/results/against_peer.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SETTING = {"inpainting64": "colour inpainting, 30 % of the pixels, 64²", "mri64": "single-coil MRI, ¼ of the columns, 64²"}


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    print("| task | steps | | test PSNR | calls per image | wall time | ratio |\n|---|---|---|---|---|---|---|")
    for name, task in results["tasks"].items():
        es, peer = task["es"], task["peer"]
        ours = es["train_seconds"] + es["evaluate_seconds"]
        adjoint = es["baselines"]["adjoint"]["PSNR"]["mean"]
        print(f"| {SETTING[name]} | – | adjoint | {adjoint:.2f} dB | 0 | | |")
        print(f"| | {task['steps']} | deepinv's Trainer | {peer['adapted']['psnr']:.2f} dB | 40 | {peer['seconds']:.0f} s | 1 |")
        print(
            f"| | {task['steps']} | `es` | **{es['metrics']['PSNR']['mean']:.2f} dB** | {es['network_calls']} | {ours:.0f} s | **{ours / peer['seconds']:.2f}** |"
        )
    print(f"\n{results['date']}, {results['machine']}.")


if __name__ == "__main__":
    main()
