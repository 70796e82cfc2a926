"""PSNR on the test images over wall time, `es train` and deepinv's Trainer in turns on the same arrays, network and batch size.

    python benchmarks/time_to_quality.py TASKS PEER -o time_to_quality.json [--task inpainting64] [--peer-lr 5e-4 --peer-lr 1e-3]

TASKS is the folder of benchmark tasks, each with {train,val,test}_{x,y}.npy, mask.npy and task.json. PEER is a script that trains with deepinv's
Trainer: it takes a task's folder, --epochs, --lr, --threads and --eval-every, and prints one JSON line. Each point is a training of its own,
its schedule sized to its number of steps; for each of the peer's, one of `es` is sized to its wall time. Wall time is that of the whole command, with start-up,
validation and checkpoints, without the evaluation on the test images. The file of results grows, and a run that is in it is not made again: other
changes of the spec want another file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from reaching import compared
from turns import command, surroundings

CONFIGS = Path(__file__).resolve().parent.parent / "examples" / "configs"
ARRAYS = {
    "physics.mask.file": "mask",
    "data.train.measurements": "train_y",
    "data.validation.measurements": "val_y",
    "data.test.measurements": "test_y",
    "data.test.images": "test_x",
}
STEPS = {"inpainting64": [75, 300, 600, 1200], "mri64": [25, 50, 100, 200, 400]}
EPOCHS = {"inpainting64": [1, 4, 12], "mri64": [5, 20]}
CLOSE = 0.95  # a run that takes this share of the peer's wall time stands for it
JUST_BELOW = 0.98
Run = dict[str, Any]


def run_es(task: Path, steps: int, changes: Sequence[str]) -> Run:
    """Train with the shipped spec on measurements alone, then evaluate on the test pairs."""
    arrays = [f"{key}={task / (name + '.npy')}" for key, name in ARRAYS.items()]
    with tempfile.TemporaryDirectory() as scratch:
        train = ["train", str(CONFIGS / f"{task.name}.yaml"), *arrays, f"training.steps={steps}", *changes, "-q", "-o", f"{scratch}/run"]
        model, wall = _output([sys.executable, "-m", "es_cli", *train])
        printed, evaluation = _output([sys.executable, "-m", "es_cli", "evaluate", "--ckpt", model.strip(), "--json", "-q", "--metrics-only"])
    summary = json.loads(printed)
    found = {"wall": wall, "evaluation": evaluation, "psnr": summary["metrics"]["PSNR"]["mean"], "adjoint": summary["baselines"]["adjoint"]["PSNR"]["mean"]}
    return {"who": "es", "steps": steps, "changes": list(changes), **found, "network_calls": summary["network_calls"]}


def run_peer(peer: Path, task: Path, epochs: int, lr: float, eval_every: int) -> Run:
    """The peer's own training and its own evaluation on the test pairs, which is taken off its wall time."""
    options = {"--epochs": epochs, "--lr": lr, "--threads": torch.get_num_threads(), "--eval-every": eval_every}
    printed, whole = _output([sys.executable, str(peer), str(task), *(str(word) for pair in options.items() for word in pair)])
    said = json.loads(printed.splitlines()[-1])
    evaluation = sum(said[name]["seconds"] for name in ("adapted", "bare_full_y", "adjoint"))
    found = {"wall": whole - evaluation, "validation": said["eval_seconds"], "evaluation": evaluation, "psnr": said["adapted"]["psnr"]}
    return {"who": "peer", "steps": said["steps"], "epochs": epochs, "lr": lr, "eval_every": eval_every, **found, "one_call": said["bare_full_y"]["psnr"]}


def _output(words: list[str]) -> tuple[str, float]:
    """Standard output of the command line `words`, and its seconds."""
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return done.stdout, time.perf_counter() - started


def steps_within(runs: Sequence[Run], wall: float) -> int | None:
    """Steps of `es` that take just less than `wall` seconds, by the line through its shortest and its longest run; None where one run is there."""
    ours = sorted((run["steps"], run["wall"]) for run in runs if run["who"] == "es")
    if len(ours) < 2 or ours[-1][1] <= ours[0][1]:
        return None
    (few, short), (many, long) = ours[0], ours[-1]
    return max(1, int(few + (JUST_BELOW * wall - short) * (many - few) / (long - short)))


def missing(runs: Sequence[Run], wall: float) -> int | None:
    """Steps of a run of `es` at a wall time of the peer; None where there is one already, or where too few runs say how long a step takes."""
    if any(CLOSE * wall <= run["wall"] <= wall / CLOSE for run in runs if run["who"] == "es"):
        return None
    return steps_within(runs, wall)


def plan(name: str, args: argparse.Namespace) -> Iterator[Run]:
    """What is to be run for one task, in turns: a length of `es`, one of the peer, and so on."""
    ours = [{"who": "es", "steps": steps, "changes": args.set} for steps in args.steps or STEPS[name]]
    theirs = [{"who": "peer", "epochs": epochs, "lr": lr} for epochs in args.peer_epochs or EPOCHS[name] for lr in args.peer_lr or [5e-4]]
    for pair in zip_longest(ours, theirs):
        yield from (wanted for wanted in pair if wanted is not None)


class Results:
    """The file of results: runs by task, written after each of them with what follows from all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = json.loads(path.read_text()) if path.exists() else {"tasks": {}}

    def runs(self, name: str) -> list[Run]:
        return list(self.held["tasks"].get(name, {}).get("runs", []))

    def has(self, name: str, wanted: Run) -> bool:
        return any(wanted.items() <= run.items() for run in self.runs(name))

    def check(self, name: str, changes: Sequence[str]) -> None:
        """SystemExit where the file holds runs of `es` with other changes of the spec: one curve has one spec."""
        others = [run["changes"] for run in self.runs(name) if run["who"] == "es" and run["changes"] != list(changes)]
        if others:
            raise SystemExit(f"{self.path} holds runs of {name} with --set {' '.join(others[0]) or 'nothing'}; give another --out")

    def add(self, name: str, run: Run) -> None:
        runs = [*self.runs(name), {"date": date.today().isoformat(), **run}]
        # the file may grow by several commands, and all of them made it
        commands = list(dict.fromkeys([*self.held.get("commands", []), command()]))
        self.held = {**surroundings(), "commands": commands, "tasks": {**self.held["tasks"], name: {"compared": compared(runs), "runs": runs}}}
        self.path.write_text(json.dumps(self.held, indent=1) + "\n")
        print(name, json.dumps(run), file=sys.stderr, flush=True)


def measure(name: str, args: argparse.Namespace, results: Results) -> None:
    """All runs of one task that are not there yet."""
    task = (args.tasks / name).resolve()
    results.check(name, args.set)
    for wanted in plan(name, args):
        if results.has(name, wanted):
            continue
        if wanted["who"] == "es":
            results.add(name, run_es(task, wanted["steps"], args.set))
        else:
            results.add(name, run_peer(args.peer, task, wanted["epochs"], wanted["lr"], args.peer_eval_every))
    for wall in sorted(run["wall"] for run in results.runs(name) if run["who"] == "peer"):
        steps = missing(results.runs(name), wall)
        if steps is not None:
            results.add(name, run_es(task, steps, args.set))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("peer", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=list(STEPS))
    parser.add_argument("--steps", action="append", type=int, help="steps of a run of es; several times for a curve")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="a change of the spec, as es train takes it")
    parser.add_argument("--peer-lr", action="append", type=float, help="learning rate of the peer; its recipe has 5e-4")
    parser.add_argument("--peer-epochs", action="append", type=int, help="epochs of a run of the peer; several times for a curve")
    parser.add_argument("--peer-eval-every", type=int, default=1, help="epochs between the peer's validations; its recipe has 1")
    args = parser.parse_args()
    results = Results(args.out)
    for name in args.task or STEPS:
        measure(name, args, results)
        print(json.dumps({name: results.held["tasks"][name]["compared"]}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
