"""Kills a small training with SIGKILL at random moments and lets it go on: `python benchmarks/chaos.py [--kills 100] [-o chaos.json]`.

Each case is a process of its own that trains; it is killed somewhere between its start and the time that a whole run takes, and goes on by what
`es train --resume` calls, which is killed in turn as often as chance has it. A case has survived if the run ends well, and is identical if its
checkpoint has the bytes of a run that nobody killed and its metrics the same rows, but for what a clock says. torch is imported once, and the
processes are forked, so that the moments fall into the run and not into the start-up.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from turns import surroundings

from es_cli.catalog import load_spec
from es_cli.errors import EsError
from es_cli.spec.schema import Spec
from es_cli.training.folder import MARK, claim
from es_cli.training.run import resume, train

CLOCK = {"samples_per_second", "peak_memory_mib"}
AGAIN = 0.5  # how likely a run that goes on is killed once more
SPEC = """
name: chaos
physics: {name: Inpainting, mask: {file: mask.npy}}
data: {train: {measurements: y.npy}}
mask_generator: {name: BernoulliSplittingMaskGenerator, split_ratio: 0.7}
transforms: D4
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, channels_per_scale: [4, 8], batch_norm: false}}
training: {steps: 120, batch_size: 4, ema: 0.9, validate_every: 10, save_every: 0.02, preview: false, scheduler: CosineAnnealingLR}
"""


def problem(folder: Path) -> Spec:
    """Twenty noisy pictures of 16 × 16 pixels, of which 60 % were measured."""
    rng = np.random.default_rng(0)
    mask = (rng.random((16, 16)) < 0.6).astype(np.float32)
    np.save(folder / "mask.npy", mask)
    np.save(folder / "y.npy", rng.random((20, 1, 16, 16), np.float32) * mask)
    (folder / "spec.yaml").write_text(SPEC)
    return load_spec(folder / "spec.yaml")


def go(spec: Spec, folder: Path) -> int:
    """Begin a run or go on with it, in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        begun = (folder / MARK).is_file()  # before, there is nothing to go on with
        if begun:
            resume(folder, device="cpu")
        else:
            train(spec, claim(spec, folder, overwrite=folder.exists()), device="cpu")
        code = 0
    except EsError as error:
        (folder.parent / f"{folder.name}.error").write_text(str(error))
        code = error.exit_code
    finally:
        os._exit(code)


def ended(child: int, after: float | None) -> int | None:
    """The exit code of a process, None where it was killed because it had not ended `after` seconds."""
    deadline = None if after is None else time.monotonic() + after
    while deadline is None or time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def result(folder: Path) -> tuple[bytes, list[dict[str, str]], list[dict[str, object]]]:
    """The bytes of the checkpoint, and the rows of both files of metrics but for what a clock says."""
    with open(folder / "metrics.csv", newline="") as file:
        table = [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (folder / "model.safetensors").read_bytes(), table, [{name: value for name, value in row.items() if name not in CLOCK} for row in lines]


def place(folder: Path) -> str:
    """How far a run had come when it was killed, by the files that it had written."""
    if not (folder / MARK).is_file():
        return "before training"
    temporary = any(folder.rglob(".*.tmp"))
    return "while a file was written" if temporary else "between files" if (folder / "model.safetensors").exists() else "before the first weights"


def case(spec: Spec, folder: Path, seconds: float, rng: random.Random, kills: Counter[str]) -> bool:
    """Whether a run ended well that was killed once or more."""
    killed = False
    while True:
        child = go(spec, folder)
        code = ended(child, rng.uniform(0, seconds) if not killed or rng.random() < AGAIN else None)
        if code is None:
            killed = True
            kills[place(folder)] += 1
        elif code != 0:
            return False
        elif killed:
            return True
        else:  # it was quicker than its end
            folder.rename(folder.with_name(f"{folder.name}-{time.monotonic_ns()}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    rng, kills = random.Random(args.seed), Counter[str]()
    survived = identical = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = problem(folder)
        before = time.monotonic()
        if ended(go(spec, folder / "whole"), None) != 0:
            raise SystemExit("the run that nobody killed failed")
        seconds, whole = time.monotonic() - before, result(folder / "whole")
        for number in range(args.kills):
            run = folder / f"run{number}"
            if case(spec, run, seconds, rng, kills):
                survived += 1
                identical += result(run) == whole and not any(run.rglob(".*.tmp"))
            print(f"{number + 1}: {survived} survived, {identical} identical, {sum(kills.values())} kills", end="\r", flush=True)
    figures = {"runs": args.kills, "survived": survived, "identical": identical, "kills": sum(kills.values()), "killed": dict(kills)}
    print(f"{survived}/{args.kills} survived, {identical} bit-identical, {sum(kills.values())} kills in all: {dict(kills)}")
    if args.out is not None:
        timing = {"seconds of a whole run": round(seconds, 2), "seconds in all": round(time.monotonic() - started)}
        args.out.write_text(json.dumps({**surroundings(), "seed": args.seed, **figures, **timing}, indent=1) + "\n")


if __name__ == "__main__":
    main()
