"""What `es check` says of an operator and a group before training, beside what a short training with that group then gains over one without.

    python benchmarks/predictive.py TASKS [-o benchmarks/results/predictive.json] [--task mri64] [--group D4] [--steps 150]

TASKS is the folder of benchmark tasks inpainting64 and mri64, each with {train,val,test}_{x,y}.npy and mask.npy; blur64 measures the images of inpainting64
through a round Gaussian. Each training is equivariant splitting by the shipped recipe with a narrower network; without a group it is splitting alone. All are
judged by one network call for an image on the same test images: PSNR, and how much of the part of the images that A does not see was recovered. The
file of results grows with each run, and a run that is in it is not made again; the table on standard output is of all that it holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from turns import surroundings

from es_cli.catalog import load_spec
from es_cli.diagnostics.algebra import spectrum, unseen_part
from es_cli.diagnostics.check import check
from es_cli.diagnostics.finding import Finding, worst
from es_cli.evaluate import evaluate
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule
from es_cli.spec.schema import Spec
from es_cli.training.folder import claim
from es_cli.training.run import train

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "examples" / "configs"
NARROW = {"inpainting64": ["model.backbone_net.channels_per_scale=[16, 32, 64]"], "mri64": ["model.num_iter=2", "model.denoiser.channels_per_scale=[16, 32]"]}
NARROW["blur64"] = NARROW["inpainting64"]
GROUPS = ("trivial", "shifts", "D4", "rotations")
TESTED = 48  # test images
BLUR, WIDTH = 1.5, 13  # standard deviation of the Gaussian, and the size of its filter, in pixels
STEPS = 60  # of the solver that tells what A does not see
CLEAR = 0.3  # dB that count as a gain: seeds of short trainings differ by less
DECIDING = ("transforms", "coverage")
Run = dict[str, Any]


def spec_in(folder: Path, tasks: Path, name: str, group: str, steps: int, seed: int) -> Spec:
    """The spec of a task with a group; what it names of its own is written to `folder`: a few test images, and the filter of the blur."""
    data = tasks / ("inpainting64" if name == "blur64" else name)
    arrays = {f"{part}_{what}": data / f"{part}_{what}.npy" for part in ("train", "val") for what in "xy"}
    for what in "xy":
        arrays[f"test_{what}"] = folder / f"test_{what}.npy"
        np.save(arrays[f"test_{what}"], np.load(data / f"test_{what}.npy", mmap_mode="r")[:TESTED])
    raw = yaml.safe_load((CONFIGS / f"{data.name}.yaml").read_text())
    if name == "blur64":
        np.save(folder / "filter.npy", gaussian(WIDTH, BLUR))
        raw["physics"] = {"name": "BlurFFT", "img_size": [3, 64, 64], "filter": {"file": str(folder / "filter.npy")}}
        raw["data"] = {key: {"images": str(arrays[f"{part}_x"])} for key, part in (("train", "train"), ("validation", "val"), ("test", "test"))}
    else:
        raw["physics"]["mask"] = {"file": str(data / "mask.npy")}
        raw["data"] |= {"train": {"measurements": str(arrays["train_y"])}, "validation": {"measurements": str(arrays["val_y"])}}
        raw["data"]["test"] = {"measurements": str(arrays["test_y"]), "images": str(arrays["test_x"])}
    raw["transforms"] = {"group": group}
    (folder / "spec.yaml").write_text(yaml.safe_dump(raw))
    return load_spec(folder / "spec.yaml", [*NARROW[name], f"training.steps={steps}", f"seed={seed}", "training.preview=false"])


def gaussian(width: int, sigma: float) -> np.ndarray:
    """A round filter (1, 1, width, width) of sum 1, float32."""
    line = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * sigma**2))
    return (np.outer(line, line) / line.sum() ** 2)[None, None].astype(np.float32)


def verdict_on(spec: Spec) -> Run:
    """The whole check: its verdict, what the sections on the group say, and its seconds."""
    started = time.perf_counter()
    found = list(check(spec, device="cpu"))
    said = {finding.section: {"verdict": finding.verdict, "reason": finding.reason, "advice": finding.advice} for finding in found if finding.section in DECIDING}
    return {"verdict": worst(finding.verdict for finding in found), "sections": said, "reached": _reached(found), "check_seconds": time.perf_counter() - started}


def _reached(found: Sequence[Finding]) -> float | None:
    """The part of the energy that A misses which the group reaches; None where that was not measured."""
    return next((finding.numbers.get("energy_reached", {}).get("value") for finding in found if finding.section == "coverage"), None)


def trained(spec: Spec, folder: Path) -> Run:
    """A training and its images by one network call each: PSNR, that of Aᵀy, and the part of what A does not see that was recovered."""
    started = time.perf_counter()
    checkpoint = train(spec, claim(spec, folder / "run", False), device="cpu")
    seconds = time.perf_counter() - started
    rule = read_rule("one")
    summary = evaluate(checkpoint, metrics=("PSNR",), device="cpu", test=rule).to_dict()
    scores = {"psnr": summary["metrics"]["PSNR"]["mean"], "adjoint": summary["baselines"]["adjoint"]["PSNR"]["mean"]}
    assert spec.data is not None and spec.data.test is not None
    images = spec.data.test.images
    assert images is not None
    x = torch.from_numpy(np.load(images.file))
    made = Reconstructor.load(checkpoint, "cpu", "float32", rule).made
    with torch.no_grad():
        y = made.operator.physics.A(x)
        found = made(y)
    return {**scores, "recovered": recovered(made.operator.physics, found, x), "train_seconds": seconds}


def recovered(physics: Any, found: torch.Tensor, x: torch.Tensor) -> float:
    """1 − ‖U(x̂ − x)‖² / ‖U x‖², U taking what A does not see of an image: 0 for images without any of it, 1 for x itself. All (n, C, H, W)."""
    with torch.no_grad():
        norm = spectrum(physics, tuple(x.shape[1:]), STEPS).norm
        wrong, whole = (float(unseen_part(physics, image, norm, STEPS).square().sum()) for image in (found - x, x))
    return 1 - wrong / whole


def compared(runs: Sequence[Run]) -> list[Run]:
    """Each run with its gain over the one without a group of the same task, length and seed, and whether the verdict foretold it; None where nothing
    is to compare with: good means a clear gain, and no none."""
    alone = {(run["task"], run["steps"], run["seed"]): run for run in runs if run["group"] == "trivial"}
    rows = []
    for run in runs:
        other = alone.get((run["task"], run["steps"], run["seed"]))
        gain = None if other is None or other is run else run["psnr"] - other["psnr"]
        foretold = None if gain is None or run["verdict"] == "doubtful" else (gain >= CLEAR) == (run["verdict"] == "good")
        rows.append({**run, "gain": gain, "foretold": foretold})
    return rows


def table(runs: Sequence[Run]) -> list[str]:
    """The lines of a table in markdown."""
    lines = ["| task | group | `es check` | energy reached | PSNR | over Aᵀy | over no group | recovered | as foretold |", "|---|---|---|---|---|---|---|---|---|"]
    for run in compared(runs):
        reached = "" if run["reached"] is None else f"{100 * run['reached']:.0f} %"
        gain = "" if run["gain"] is None else f"{run['gain']:+.2f} dB"
        foretold = {None: "", True: "yes", False: "no"}[run["foretold"]]
        cells = [run["task"], run["group"], run["verdict"], reached, f"{run['psnr']:.2f} dB", f"{run['psnr'] - run['adjoint']:+.2f} dB", gain, f"{100 * run['recovered']:.0f} %", foretold]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=HERE / "results" / "predictive.json")
    parser.add_argument("--task", action="append", choices=list(NARROW))
    parser.add_argument("--group", action="append", choices=GROUPS)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    held = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    for group in args.group or GROUPS:
        for task in args.task or NARROW:
            key = {"task": task, "group": group, "steps": args.steps, "seed": args.seed}
            if any(key.items() <= run.items() for run in held["runs"]):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                spec = spec_in(Path(scratch), args.tasks.resolve(), task, group, args.steps, args.seed)
                held["runs"].append({**key, **verdict_on(spec), **trained(spec, Path(scratch))})
            args.out.write_text(json.dumps({**surroundings(), "runs": held["runs"]}, indent=1) + "\n")
            print(json.dumps(held["runs"][-1]), file=sys.stderr)
    print("\n".join(table(sorted(held["runs"], key=lambda run: (list(NARROW).index(run["task"]), GROUPS.index(run["group"]))))))


if __name__ == "__main__":
    main()
