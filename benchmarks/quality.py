"""Equivariant splitting and its rivals on the same measurements: equal network, equal number of steps, several seeds.

    python benchmarks/quality.py TASKS -o results.json [--task cs28] [--method es] [--seeds 3] [--steps-factor 1]

TASKS is the folder of benchmark tasks, each with {train,val,test}_{x,y}.npy and its operator. Each method is the shipped spec TASK.yaml with a
few lines changed, or with one part of its recipe, trained by `es train` and judged by `es evaluate` on the test pairs. The file of results grows with each run, and a run that
is in it already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from es_cli.catalog import load_spec
from es_cli.catalog.rivals import rival_overrides

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "configs"
STEPS = {"inpainting64": 1200, "mri64": 600, "cs28": 1500, "ct65": 400}
RANDOM = "training.splits=random"
METHODS = {"supervised": "supervised", "es": "es", "ei": "ei", "splitting": "splitting", "consistency": "mc"}  # as `es compare` calls them
# the recipe with a part changed; compared with the method that is named before the last comma, after as many steps
VARIANTS = {
    "es, random splits": [RANDOM],
    "splitting, random splits": ["transforms={group: trivial}", RANDOM],
    "es, random splits, one g for the batch": [RANDOM, "transforms.per=batch"],
    "es, random splits, D4": [RANDOM, "transforms={group: D4}"],
    "es, random splits, split ratio 0.8": [RANDOM, "mask_generator.random_split_ratio=false", "mask_generator.split_ratio=0.8"],
    "es, random splits, no EMA": [RANDOM, "training.ema=null"],
    "es, random splits, constant learning rate": [RANDOM, "training.scheduler=null"],
}


def changes_of(spec: Path, method: str, data: list[str]) -> list[str]:
    """What of the shipped spec is another method, or another part of the recipe, as `es train` is told."""
    return VARIANTS[method] if method in VARIANTS else rival_overrides(load_spec(spec, data), METHODS[method])


def data_of(task: Path, supervised: bool) -> list[str]:
    """The task's arrays in place of those that the shipped spec names; images only for training with ground truth, for the test, and where
    the task leaves measuring to the spec."""
    spec = (CONFIGS / f"{task.name}.yaml").read_text()
    changes = [f"{key}={task / Path(name).name}" for key, name in _files(spec)]
    if supervised and (task / "train_y.npy").exists():
        changes.append(f"data.train.images={task / 'train_x.npy'}")
        changes.append(f"data.validation.images={task / 'val_x.npy'}")
    return changes


def _files(text: str) -> list[tuple[str, str]]:
    """(path in the spec, file) of every array that a spec names under tasks/."""
    import yaml

    found: list[tuple[str, str]] = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        elif isinstance(node, str) and node.startswith("tasks/"):
            found.append((path, node))

    walk(yaml.safe_load(text), "")
    return found


def run(task: Path, method: str, seed: int, steps: int) -> dict:
    """Train and evaluate one method; PSNR and SSIM with their baselines, seconds and network calls."""
    with tempfile.TemporaryDirectory() as scratch:
        spec, data = CONFIGS / f"{task.name}.yaml", data_of(task, method == "supervised")
        changes = [*data, *changes_of(spec, method, data), f"training.steps={steps}", f"seed={seed}", "training.preview=false"]
        command = [sys.executable, "-m", "es_cli", "train", str(spec), *changes, "-q", "-o", f"{scratch}/run"]
        started = time.perf_counter()
        model = _output(command)
        seconds = time.perf_counter() - started
        summary = json.loads(_output([sys.executable, "-m", "es_cli", "evaluate", "--ckpt", model.strip(), "--json", "-q", "--metrics-only"]))
    scores = {name: value["mean"] for name, value in summary["metrics"].items()}
    baselines = {who: {name: value["mean"] for name, value in values.items()} for who, values in summary["baselines"].items()}
    return {"seconds": round(seconds, 1), "network_calls": summary["network_calls"], "steps": steps, **scores, "baselines": baselines}


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=list(STEPS))
    parser.add_argument("--method", action="append", choices=[*METHODS, *VARIANTS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps-factor", type=float, default=1.0)
    args = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}"
    results = json.loads(args.out.read_text()) if args.out.exists() else {"machine": machine, "runs": []}
    done = {(row["task"], row["method"], row["seed"], row["steps"]) for row in results["runs"]}
    for seed in range(args.seeds):
        for task in args.task or STEPS:
            steps = round(STEPS[task] * args.steps_factor)
            for method in args.method or METHODS:
                if (task, method, seed, steps) in done:
                    continue
                row = {"date": date.today().isoformat(), "task": task, "method": method, "seed": seed}
                row |= run((args.tasks / task).resolve(), method, seed, steps)
                results["runs"].append(row)
                args.out.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    main()
