"""How often the error bars of `es reconstruct --uncertainty` cover the truth.

    python benchmarks/uncertainty.py TASKS [-o benchmarks/results/uncertainty.json] [--task inpainting64] [--samples 24]

TASKS is the folder of benchmark tasks. One network of each task is trained by the shipped spec, for as many steps as are said below, and makes images of test measurements by
its own test rule and by complementary splits. Counted is the part of the pixels whose error is within one and within two error bars; on
what was held out of the measurements, which is known without ground truth, and against ground truth, on pixels in all and on those that the
operator saw least. The file of results grows with each run, and a run that is in it already is not made again. Prints a table in markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from quality import CONFIGS, data_of
from turns import surroundings

from es_cli.catalog import load_spec
from es_cli.examine import examine
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule
from es_cli.training.folder import claim
from es_cli.training.run import train

OUT = Path(__file__).resolve().parent / "results" / "uncertainty.json"
STEPS = {"inpainting64": 120, "mri64": 80}
RULES = {"own": None, "complementary": "splits=complementary,group=full"}


def run(task: Path, steps: int, samples: int) -> list[dict[str, Any]]:
    """Train one network, and count what its error bars cover, by each rule."""
    changes = [*data_of(task, False), f"training.steps={steps}", "training.preview=false"]
    y, x = (np.load(task / f"test_{name}.npy")[:samples] for name in "yx")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        spec = load_spec(CONFIGS / f"{task.name}.yaml", changes)
        model = train(spec, claim(spec, Path(scratch) / "run", False), device="cpu")
        for name, rule in RULES.items():
            loaded = Reconstructor.load(model, "cpu", test=None if rule is None else read_rule(rule))
            rows.append({"task": task.name, "steps": steps, "samples": samples, "rule": name, **_counted(loaded, y, x)})
    return rows


def _counted(model: Reconstructor, y: np.ndarray, x: np.ndarray) -> dict[str, Any]:
    found = examine(model, y, error_bar=True, parts=True)
    assert found.error_bar is not None and found.parts is not None and found.error_bar.calibration is not None
    error, bar = np.abs(found.image - x), found.error_bar.values
    measured, invented = np.abs(found.parts.measured), np.abs(found.parts.invented)
    unseen = invented > measured
    calibration = found.error_bar.calibration
    return {
        "PSNR": float(np.mean([-10 * np.log10(np.mean(one**2)) for one in error])),
        "factor": calibration.factor,
        "found on": found.error_bar.source,
        "held out": list(calibration.coverage),
        "pixels": _covered(error, bar),
        "mostly invented pixels": _covered(error[unseen], bar[unseen]),
        "error over bar": float(np.sqrt(np.mean(error**2) / np.mean(bar**2))),
        "rank correlation": float(np.corrcoef(_ranks(error), _ranks(bar))[0, 1]),
    }


def _covered(error: np.ndarray, bar: np.ndarray) -> list[float]:
    return [float((error <= sigmas * bar).mean()) for sigmas in (1, 2)]


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.ravel().argsort().argsort().astype(np.float64)


def table(results: Mapping[str, Any]) -> list[str]:
    """What is covered within one and two error bars, in markdown; 68 % and 95 % would be covered if errors were normal."""
    lines = ["| task, test rule | PSNR | factor | held-out entries | pixels | mostly invented pixels | RMS error / RMS bar | rank correlation |", "|---" * 8 + "|"]
    for row in results["runs"]:
        covered = " | ".join(f"{row[which][0]:.0%}, {row[which][1]:.0%}" for which in ("held out", "pixels", "mostly invented pixels"))
        lines.append(
            f"| {row['task']}, {row['rule']} | {row['PSNR']:.2f} dB | {row['factor']:.2f} | {covered} | {row['error over bar']:.2f} | {row['rank correlation']:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    parser.add_argument("--task", action="append", choices=list(STEPS))
    parser.add_argument("--samples", type=int, default=24)
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    done = {(row["task"], row["steps"], row["samples"]) for row in results["runs"]}
    for task in args.task or STEPS:
        if (task, STEPS[task], args.samples) not in done:
            results["runs"] += run((args.tasks / task).resolve(), STEPS[task], args.samples)
            results |= surroundings()
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
