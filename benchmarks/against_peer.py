"""`es train` and deepinv's own Trainer on the same arrays, the same network and the same number of steps, one after the other.

    python benchmarks/against_peer.py TASKS PEER -o results.json [--task inpainting64] [--task mri64]

TASKS is the folder of benchmark tasks, each with {train,val,test}_{x,y}.npy and mask.npy; PEER a script that trains with deepinv's Trainer:
it takes a task's folder and --epochs, and prints one JSON line. Both run on this machine with all its cores, in turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "configs"
BATCH = 8


def run_es(task: Path, steps: int, folder: Path) -> dict:
    """Train with the shipped spec on measurements alone, and evaluate on the test pairs: seconds of both and the summary."""
    arrays = {"physics.mask.file": "mask", "data.train.measurements": "train_y", "data.validation.measurements": "val_y"}
    arrays |= {"data.test.measurements": "test_y", "data.test.images": "test_x"}
    changes = [f"{key}={task / (name + '.npy')}" for key, name in arrays.items()]
    command = [sys.executable, "-m", "es_cli", "train", str(CONFIGS / f"{task.name}.yaml"), *changes, f"training.steps={steps}", "-q", "-o", str(folder)]
    started = time.perf_counter()
    model = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    trained = time.perf_counter() - started
    started = time.perf_counter()
    evaluate = [sys.executable, "-m", "es_cli", "evaluate", "--ckpt", model, "--json", "-q"]
    summary = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
    return {"train_seconds": trained, "evaluate_seconds": time.perf_counter() - started, **summary}


def run_peer(peer: Path, task: Path, steps: int) -> dict:
    """The same number of steps by the peer, which evaluates on the validation set after each epoch."""
    samples = json.loads((task / "task.json").read_text())["sizes"]["train"][0]
    epochs = steps * BATCH // samples
    printed = subprocess.run([sys.executable, str(peer), str(task), "--epochs", str(epochs)], check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("peer", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=["inpainting64", "mri64"])
    args = parser.parse_args()
    steps = {"inpainting64": 1200, "mri64": 400}
    results = {"date": date.today().isoformat(), "machine": f"{platform.machine()}, python {platform.python_version()}", "tasks": {}}
    for name in args.task or steps:
        task = (args.tasks / name).resolve()
        with tempfile.TemporaryDirectory() as scratch:
            ours = run_es(task, steps[name], Path(scratch) / "run")
        print(name, "es", ours, file=sys.stderr, flush=True)
        theirs = run_peer(args.peer, task, steps[name])
        print(name, "peer", theirs, file=sys.stderr, flush=True)
        results["tasks"][name] = {"steps": steps[name], "es": ours, "peer": theirs}
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
