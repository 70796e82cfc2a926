"""Print the README's tables from what `quality.py` measured: `python benchmarks/quality_table.py benchmarks/results/quality.json`.

One row for each method, task and number of steps: PSNR and SSIM on the test images, mean ± standard deviation over seeds where there are several.
Then what parts of the recipe are worth: the PSNR with one changed, less that of the method named before the last comma after as many steps with the same seeds; how many in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

SETTING = {
    "inpainting64": "colour inpainting, 30 % of the pixels, 64²",
    "mri64": "single-coil MRI, ¼ of the columns, 64²",
    "cs28": "compressive sensing, 30 %, 28²",
    "ct65": "CT, 25 angles, 65²",
}
METHOD = {
    "supervised": "supervised",
    "es": "**equivariant splitting**",
    "ei": "equivariant imaging",
    "splitting": "splitting, no group",
    "consistency": "consistency only",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    results = json.loads(parser.parse_args().results.read_text())
    runs = results["runs"]
    print("| task | steps | method | seeds | PSNR | SSIM | calls per image |\n|---|---|---|---|---|---|---|")
    for task in dict.fromkeys(row["task"] for row in runs):
        own = [row for row in runs if row["task"] == task]
        print(f"| {SETTING[task]} | | adjoint | | {own[0]['baselines']['adjoint']['PSNR']:.2f} | {own[0]['baselines']['adjoint']['SSIM']:.3f} | 0 |")
        pinv = own[0]["baselines"]["pseudoinverse"]
        if abs(pinv["PSNR"] - own[0]["baselines"]["adjoint"]["PSNR"]) > 0.01:
            print(f"| | | pseudo-inverse | | {pinv['PSNR']:.2f} | {pinv['SSIM']:.3f} | 0 |")
        for steps, method in sorted({(row["steps"], row["method"]) for row in own if row["method"] in METHOD}, key=_order):
            found = [row for row in own if (row["steps"], row["method"]) == (steps, method)]
            cells = [_spread([row[name] for row in found], digits) for name, digits in (("PSNR", 2), ("SSIM", 3))]
            print(f"| | {steps} | {METHOD[method]} | {len(found)} | {cells[0]} | {cells[1]} | {found[0]['network_calls']} |")
    print_variants(runs)
    dates = sorted({row["date"] for row in runs})
    seeds = sorted({row["seed"] for row in runs})
    print(f"\n{dates[0]}{' to ' + dates[-1] if len(dates) > 1 else ''}; seeds {', '.join(map(str, seeds))}; {results['machine']}.")


def _order(kind: tuple[int, str]) -> tuple[int, int]:
    return kind[0], list(METHOD).index(kind[1])


def print_variants(runs: list[dict]) -> None:
    """The table of the recipe's parts, where any were changed."""
    measured = {(row["method"], (row["task"], row["steps"], row["seed"])): row["PSNR"] for row in runs}
    gains: dict[str, dict[str, list[float]]] = {}  # of each method, by task
    for (method, run), psnr in measured.items():
        base = method.rpartition(", ")[0]
        if method not in METHOD and (base, run) in measured:
            gains.setdefault(method, {}).setdefault(run[0], []).append(psnr - measured[base, run])
    tasks = [task for task in SETTING if any(task in of_task for of_task in gains.values())]
    if not gains:
        return
    print("\n| against | changed | " + " | ".join(f"{SETTING[task]}" for task in tasks) + " |\n|---|---" + "|---" * len(tasks) + "|")
    for method, of_task in gains.items():
        base, _, changed = method.rpartition(", ")
        cells = [f"{statistics.mean(of_task[task]):+.2f} dB ({len(of_task[task])})" if task in of_task else "–" for task in tasks]
        print(f"| {METHOD.get(base, base)} | {changed} | " + " | ".join(cells) + " |")


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
