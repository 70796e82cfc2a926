"""What `es check` finds of coverage, against dense matrices, and what that costs: `python benchmarks/coverage_of_groups.py -o benchmarks/results/coverage.json`.

Inpainting of 30 % of the pixels, MRI ×6, tomography of 10 angles and a blur, under shifts, D4 and rotations, at several sizes, each in a process of its
own. Results at other sizes that the file has already are kept. Prints a markdown table. Needs no data; memory is measured on Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from large_images import peak
from turns import surroundings

from es_cli.catalog import load_spec
from es_cli.diagnostics.check import check
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.quadrature import TOLERANCE
from es_cli.diagnostics.reach import Effort
from es_cli.experiment import build_experiment
from es_cli.splitting.group import IDENTITY, named_group
from es_cli.streams import stream_seed

DENSE = 24  # pixels, at which eigenvalues are computed too
SAMPLES = 8
CASES = [
    ("inpainting", "D4"), ("inpainting", "shifts"), ("MRI", "shifts"), ("MRI", "D4"), ("MRI", "rotations"),
    ("CT", "D4"), ("CT", "rotations"), ("blur", "shifts"), ("blur", "D4"),
]  # fmt: skip
PIXELS = {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.8}
SPLITS = {"inpainting": PIXELS, "MRI": {"name": "LineSplittingMaskGenerator"}, "CT": {"name": "AngleSplittingMaskGenerator"}, "blur": PIXELS}


def write_spec(folder: Path, problem: str, group: str, size: int) -> Path:
    """A spec of the problem, and images with the spectrum of pictures."""
    rng = np.random.default_rng(0)
    channels = 2 if problem == "MRI" else 1
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)).clip(1 / size)
    images = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SAMPLES, channels, size, size))) / frequency).real
    np.save(folder / "images.npy", ((images - images.min()) / np.ptp(images)).astype(np.float32))
    np.save(folder / "mask.npy", _columns(rng, size) if problem == "MRI" else (rng.random((size, size)) < 0.3).astype(np.float32))
    axis = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    np.save(folder / "filter.npy", (axis[:, None] * axis / axis.sum() ** 2)[None, None].astype(np.float32))
    masked = {"mask": {"file": "mask.npy"}}
    physics = {
        "inpainting": {"name": "Inpainting", **masked},
        "MRI": {"name": "MRI", **masked},
        "CT": {"name": "Tomography", "angles": 10, "normalize": True},
        "blur": {"name": "Blur", "filter": {"file": "filter.npy"}, "padding": "circular"},
    }[problem]
    network = {"name": "UNet", "in_channels": channels, "out_channels": channels, "channels_per_scale": [4, 8], "batch_norm": False}
    spec = {
        "physics": physics,
        "data": {"train": {"images": "images.npy"}},
        "mask_generator": SPLITS[problem],
        "transforms": {"group": group},
        "losses": ["EquivariantSplittingLoss"],
        "model": {"name": "ArtifactRemoval", "backbone_net": network},
        "training": {"steps": 10, "batch_size": 2},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return folder / "spec.yaml"


def _columns(rng: np.random.Generator, size: int) -> np.ndarray:
    """A mask (H, W) of a sixth of the columns, 4 % of all in the centre."""
    kept, centre = round(size / 6), max(2, round(0.04 * size))
    columns = np.zeros(size, np.float32)
    columns[(size - centre) // 2 : (size + centre) // 2] = 1
    columns[rng.choice(np.flatnonzero(columns == 0), kept - int(columns.sum()), replace=False)] = 1
    return np.broadcast_to(columns, (size, size)).copy()


def measure(problem: str, group: str, size: int, quick: bool) -> dict[str, Any]:
    """The findings of one case with their cost; ranks of dense matrices too at `DENSE` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        spec = load_spec(write_spec(Path(folder), problem, group, size))
        began, worked = time.perf_counter(), time.process_time()
        found = {finding.section: finding for finding in check(spec, quick=quick, device="cpu")}
        cost = {"seconds": time.perf_counter() - began, "CPU seconds": time.process_time() - worked, "MiB at most": peak()}
        covered = found["coverage"]
        row: dict[str, Any] = {"problem": problem, "group": group, "size": size, "quick": quick, **cost}
        row |= {"sections": {name: finding.seconds for name, finding in found.items()}, "verdicts": {name: finding.verdict for name, finding in found.items()}}
        row["coverage"] = dict(covered.numbers)
        if size <= DENSE:
            row["dense"] = dense_ranks(spec, group, quick)
    return row


def dense_ranks(spec: Any, group: str, quick: bool) -> dict[str, float]:
    """Ranks of AᵀA and of Q over the dimension of images, from all eigenvalues, for the elements that `es check` takes."""
    experiment = build_experiment(spec, torch.device("cpu"))
    physics, shape = experiment.operator.physics, experiment.operator.image.shape
    elements = named_group(group, shape).representatives(Effort.of(shape, quick).elements, stream_seed(spec.seed, "check-coverage"))
    return {name: _rank(ExpectedNormal([physics], some, True), shape) for name, some in (("rank_alone", [IDENTITY]), ("rank", elements))}


def _rank(normal: ExpectedNormal, shape: tuple[int, ...]) -> float:
    with torch.no_grad():
        matrix = torch.cat([normal(part).flatten(1) for part in torch.eye(math.prod(shape)).view(-1, *shape).split(192)]).double()
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float((eigenvalues > TOLERANCE * eigenvalues[-1]).double().mean())


def table(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of markdown, one for each case at each size."""
    yield "| problem | group | size | rank, dense | rank, `es check` | null space reached | energy reached | verdict | seconds | CPU seconds | MiB |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        numbers = row["coverage"]
        dense = f"{row['dense']['rank_alone']:.2f} → {row['dense']['rank']:.2f}" if "dense" in row else ""
        found = f"{_said(numbers['rank_alone'])} → {_said(numbers['rank'])}"
        null = _said(numbers["null_space_reached"]) if "null_space_reached" in numbers else "none is there"
        cost = f"{row['seconds']:.1f} | {row['CPU seconds']:.1f} | {row['MiB at most']}"
        how = f"{row['size']}²{' quick' if row['quick'] else ''}"
        yield f"| {row['problem']} | {row['group']} | {how} | {dense} | {found} | {null} | {_said(numbers['energy_reached'])} | {row['verdicts']['coverage']} | {cost} |"


def _said(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["size"], CASES.index((row["problem"], row["group"])), row["quick"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[DENSE, 64, 320], help="pixels along a side")
    parser.add_argument("--quick", action="store_true", help="as es check --quick")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file to write, row by row")
    parser.add_argument("--case", nargs=2, metavar=("PROBLEM", "GROUP"), help="this case alone, at the first size, as one JSON object")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(*chosen.case, size=chosen.sizes[0], quick=chosen.quick), ensure_ascii=False))
        return
    kept = json.loads(chosen.output.read_text(encoding="utf-8")) if chosen.output and chosen.output.exists() else {"rows": []}
    rows = {_key(row): row for row in kept["rows"]}
    for size in chosen.sizes:
        for case in CASES:
            options = ["--sizes", str(size), "--case", *case, *(["--quick"] if chosen.quick else [])]
            done = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE, text=True)
            row = {**json.loads(done.stdout.splitlines()[-1]), "made": surroundings()}
            rows[_key(row)] = row
            if chosen.output:
                chosen.output.write_text(json.dumps({"rows": [rows[key] for key in sorted(rows)]}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(table([rows[key] for key in sorted(rows)])))


if __name__ == "__main__":
    main()
