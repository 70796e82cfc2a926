"""What `es check` says of an operator and a group before training, beside what a short training with that group then gains over one without.

    python benchmarks/predictive.py TASKS [-o benchmarks/results/predictive.json] [--task mri64] [--group D4] [--steps 150] [--size 32]

TASKS is the folder of benchmark tasks inpainting64 and mri64, each with {train,val,test}_{x,y}.npy and mask.npy; blur64 measures the images of inpainting64
through a round Gaussian. A smaller size takes the middle of the pixels, or of k-space, which is the same image less sharp. Each training is equivariant splitting by the shipped recipe with a narrower network; without a group it is splitting alone. All are
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
NARROW["blur64"] = [*NARROW["mri64"], "model.denoiser.in_channels=3", "model.denoiser.out_channels=3"]
GROUPS = ("trivial", "shifts", "D4", "rotations")
FULL = 64  # pixels along each side of the tasks' images
TESTED = 48  # test images
BLUR, WIDTH = 1.5, 13  # standard deviation of the Gaussian, and the size of its filter, in pixels
STEPS = 60  # of the solver that tells what A does not see
CLEAR = 0.3  # dB that count as a gain over no group
ALIKE = ("task", "steps", "seed", "size")
DECIDING = ("transforms", "coverage")
Run = dict[str, Any]


def spec_in(folder: Path, tasks: Path, name: str, group: str, steps: int, seed: int, size: int = FULL) -> Spec:
    """The spec of a task with a group, of images of `size` pixels along each side, whose arrays are written to `folder`: fewer of them to test on."""
    data = tasks / ("inpainting64" if name == "blur64" else name)
    raw = yaml.safe_load((CONFIGS / f"{data.name}.yaml").read_text())
    files = {}
    for part, what in [(part, what) for part in ("train", "val", "test") for what in "xy"]:
        held = np.load(data / f"{part}_{what}.npy")[: TESTED if part == "test" else None]
        files[f"{part}_{what}"] = _saved(folder, f"{part}_{what}", smaller(held, size, name == "mri64" and what == "y", name == "mri64" and what == "x"))
    if name == "blur64":
        raw["model"] = yaml.safe_load((CONFIGS / "mri64.yaml").read_text())["model"]  # artifact removal is slow to undo a blur
        blur = _saved(folder, "filter", gaussian(WIDTH, BLUR))
        raw["physics"] = {"name": "BlurFFT", "img_size": [3, size, size], "filter": {"file": blur}}
        raw["data"] = {key: {"images": files[f"{part}_x"]} for key, part in (("train", "train"), ("validation", "val"), ("test", "test"))}
    else:
        raw["physics"]["mask"] = {"file": _saved(folder, "mask", smaller(np.load(data / "mask.npy"), size))}
        raw["data"] |= {"train": {"measurements": files["train_y"]}, "validation": {"measurements": files["val_y"]}}
        raw["data"]["test"] = {"measurements": files["test_y"], "images": files["test_x"]}
    if name == "mri64":
        raw["physics"]["noise_model"]["sigma"] *= size / FULL
    raw["transforms"] = {"group": group}
    (folder / "spec.yaml").write_text(yaml.safe_dump(raw))
    return load_spec(folder / "spec.yaml", [*NARROW[name], f"training.steps={steps}", f"seed={seed}", "training.preview=false"])


def _saved(folder: Path, name: str, array: np.ndarray) -> str:
    np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    return str(folder / f"{name}.npy")


def smaller(array: np.ndarray, size: int, kspace: bool = False, seen_in_kspace: bool = False) -> np.ndarray:
    """The middle `size` × `size` of an array (…, H, W). Of `kspace` in the units of an orthonormal transform of that size; or of an image (n, 2, H, W),
    real and imaginary part, what the middle of its k-space holds."""
    if array.shape[-1] == size:
        return array
    if seen_in_kspace:
        axes = (-2, -1)
        spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(array[:, 0] + 1j * array[:, 1], axes=axes), norm="ortho"), axes=axes)
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(smaller(spectrum, size, kspace=True), axes=axes), norm="ortho"), axes=axes)
        return np.stack([image.real, image.imag], 1).astype(array.dtype)
    first = (array.shape[-1] - size) // 2
    middle = array[..., first : first + size, first : first + size]
    return middle * np.asarray(size / array.shape[-1], array.real.dtype) if kspace else middle


def gaussian(width: int, sigma: float) -> np.ndarray:
    """A round filter (1, 1, width, width) of sum 1, float32."""
    line = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * sigma**2))
    return (np.outer(line, line) / line.sum() ** 2)[None, None].astype(np.float32)


def verdict_on(spec: Spec) -> Run:
    """The whole check: what the sections on the group say, the verdict over these, that over all, and its seconds."""
    started = time.perf_counter()
    found = list(check(spec, device="cpu"))
    said = {finding.section: {"verdict": finding.verdict, "reason": finding.reason, "advice": finding.advice} for finding in found if finding.section in DECIDING}
    verdicts = {"verdict": worst(one.verdict for one in found if one.section in DECIDING), "overall": worst(one.verdict for one in found)}
    return {**verdicts, "sections": said, "reached": _reached(found), "check_seconds": time.perf_counter() - started}


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
    """Each run with its gain over the one without a group of the same task, length, size and seed, and whether the verdict on its group foretold that:
    good a gain of `CLEAR` or more, no a smaller one. None after doubtful, and without a group.

    Good promises no gain over no group, so that this asks for more than was said: convolutions are equivariant to shifts by themselves.
    """
    alone = {tuple(run[name] for name in ALIKE): run for run in runs if run["group"] == "trivial"}
    rows = []
    for run in runs:
        other = alone.get(tuple(run[name] for name in ALIKE))
        gain = None if other is None or other is run else run["psnr"] - other["psnr"]
        foretold = None if gain is None or run["verdict"] == "doubtful" else (gain >= CLEAR) == (run["verdict"] == "good")
        rows.append({**run, "gain": gain, "foretold": foretold})
    return rows


def table(runs: Sequence[Run]) -> list[str]:
    """The lines of a table in markdown."""
    lines = ["| task | size | steps | group | `es check` | energy reached | PSNR | over Aᵀy | over no group | recovered | gain as foretold |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for run in compared(runs):
        reached = "" if run["reached"] is None else f"{100 * run['reached']:.0f} %"
        gain = "" if run["gain"] is None else f"{run['gain']:+.2f} dB"
        foretold = {None: "", True: "yes", False: "no"}[run["foretold"]]
        cells = [run["task"], f"{run['size']}²", str(run["steps"]), run["group"], run["verdict"], reached, f"{run['psnr']:.2f} dB", f"{run['psnr'] - run['adjoint']:+.2f} dB", gain, f"{100 * run['recovered']:.0f} %", foretold]
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
    parser.add_argument("--size", type=int, default=FULL)
    args = parser.parse_args()
    held = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    for group in args.group or GROUPS:
        for task in args.task or NARROW:
            key = {"task": task, "group": group, "steps": args.steps, "seed": args.seed, "size": args.size}
            if any(key.items() <= run.items() for run in held["runs"]):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                spec = spec_in(Path(scratch), args.tasks.resolve(), task, group, args.steps, args.seed, args.size)
                held["runs"].append({**key, **verdict_on(spec), **trained(spec, Path(scratch)), **surroundings()})
            args.out.write_text(json.dumps(held, indent=1) + "\n")
            print(json.dumps(held["runs"][-1]), file=sys.stderr)
    print("\n".join(table(sorted(held["runs"], key=lambda run: (run["size"], run["steps"], run["seed"], list(NARROW).index(run["task"]), GROUPS.index(run["group"]))))))


if __name__ == "__main__":
    main()
