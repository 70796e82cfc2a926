"""How well the numbers that need no ground truth rank networks: the rank correlation of each with PSNR.

    python benchmarks/ranking.py TASKS [-o benchmarks/results/ranking.json] [--task inpainting64] [--seeds 2] [--samples 24]

TASKS is the folder of benchmark tasks. Networks of one task that differ in how long they were trained, and in their seed, are judged on the same test
measurements, by `evaluate` with and without their images. The network of the shipped spec is made narrower, so that a training takes seconds.
The file of results grows with each run, and a run that is in it already is not made again. What `es evaluate` says of each number comes from
the same correlations, which are written to es_cli/judging/ranking.json too. Prints a table in markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quality import CONFIGS, data_of
from turns import surroundings

from es_cli.catalog import load_spec
from es_cli.evaluate import evaluate
from es_cli.training.folder import claim
from es_cli.training.run import train
from es_cli.without_truth import NAMES

OUT = Path(__file__).resolve().parent / "results" / "ranking.json"
SAID = Path(__file__).resolve().parents[1] / "es_cli" / "judging" / "ranking.json"
STEPS = {"inpainting64": (15, 30, 60, 120, 240), "mri64": (10, 30, 90)}
NARROWER = {"inpainting64": "model.backbone_net.channels_per_scale=[12,24,48]", "mri64": "model.denoiser.channels_per_scale=[8,16,32]"}


def run(task: Path, seed: int, steps: int, samples: int) -> dict[str, Any]:
    """Train one network and judge it: PSNR, and the mean of each number that there is."""
    changes = [*data_of(task, False), NARROWER[task.name], f"training.steps={steps}", f"seed={seed}", "training.preview=false"]
    with tempfile.TemporaryDirectory() as scratch:
        spec = load_spec(CONFIGS / f"{task.name}.yaml", changes)
        started = time.perf_counter()
        model = train(spec, claim(spec, Path(scratch) / "run", False), device="cpu")
        seconds = time.perf_counter() - started
        for name in "xy":
            np.save(f"{scratch}/{name}.npy", np.load(task / f"test_{name}.npy", mmap_mode="r")[:samples])
        found = evaluate(model, measurements=Path(scratch) / "y.npy", images=Path(scratch) / "x.npy", metrics=("PSNR",), device="cpu", judging=True).to_dict()
    numbers = {name: value["mean"] for name, value in found["without_truth"].items()}
    return {"task": task.name, "seed": seed, "steps": steps, "samples": samples, "seconds": round(seconds, 1), "PSNR": found["metrics"]["PSNR"]["mean"], **numbers}


def correlations(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of each number with PSNR, by number and task, rounded to what so few networks can show."""
    found: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(row["task"] for row in runs):
        rows = [row for row in runs if row["task"] == task]
        psnr = _ranks([row["PSNR"] for row in rows])
        for name in NAMES:
            values = [row[name] for row in rows if name in row]
            if len(rows) > 2 and len(values) == len(rows) and len(set(values)) > 1:
                found.setdefault(name, {})[task] = round(float(np.corrcoef(psnr, _ranks(values))[0, 1]), 2)
    return found


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks, equal values having the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def table(results: Mapping[str, Any]) -> list[str]:
    """The correlations as a table in markdown, the most telling first."""
    tasks = list(dict.fromkeys(row["task"] for row in results["runs"]))
    count = {task: sum(row["task"] == task for row in results["runs"]) for task in tasks}
    spread = {task: [row["PSNR"] for row in results["runs"] if row["task"] == task] for task in tasks}
    heads = [f"{task}: {count[task]} networks of {min(spread[task]):.1f} to {max(spread[task]):.1f} dB" for task in tasks]
    lines = [f"| number | {' | '.join(heads)} |", "|---" * (1 + len(tasks)) + "|"]
    ordered = sorted(results["correlation"].items(), key=lambda item: -min(abs(value) for value in item[1].values()))
    return lines + [f"| {NAMES[name][0]} | {' | '.join(f'{of_task[task]:+.2f}' if task in of_task else '' for task in tasks)} |" for name, of_task in ordered]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    parser.add_argument("--task", action="append", choices=list(STEPS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=24)
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    done = {(row["task"], row["seed"], row["steps"], row["samples"]) for row in results["runs"]}
    for task in args.task or STEPS:
        for seed in range(args.seeds):
            for steps in STEPS[task]:
                if (task, seed, steps, args.samples) in done:
                    continue
                results["runs"].append(run((args.tasks / task).resolve(), seed, steps, args.samples))
                results |= {**surroundings(), "correlation": correlations(results["runs"])}
                args.out.write_text(json.dumps(results, indent=1) + "\n")
    if args.out.resolve() == OUT:
        SAID.write_text(json.dumps({"correlation": results["correlation"]}, indent=1) + "\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
