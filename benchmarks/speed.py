"""How fast `es` is, as ratios of what is timed in turns on this machine: `python benchmarks/speed.py -o speed.json [--part step] [--quick]`.

Parts: start-up of the command line; a training step against the bare network; the proximal step of a virtual operator; reconstruction against deepinv's
adapted model around the same network; network calls under R2R; cost from 64² to 2048². No data are needed. `--quick` sees that everything runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv_recipe
import large_images
import numpy as np
import synthetic
import torch
from deepinv.loss import R2RLoss
from torch import Tensor, nn
from turns import in_turns, ratio, surroundings, timed

from es_cli.experiment import Experiment
from es_cli.splitting.averaging import ONE_CALL
from es_cli.splitting.group import Batch
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.training.events import Event, Step

ROOT = Path(__file__).resolve().parent.parent
WARM_STEPS = 5
SIZES = (64, 256, 1024, 2048)
Figures = dict[str, Any]


def start_up(folder: Path, rounds: int) -> Figures:
    """The command line against the imports that it cannot do without."""
    checkpoint = synthetic.run(synthetic.spec_in(folder, "inpainting64", ["training.steps=2"]), folder / "run")
    sample = folder / "sample.npy"
    np.save(sample, np.load(folder / "tasks" / "inpainting64" / "test_y.npy")[0])
    es = [sys.executable, "-m", "es_cli"]
    commands = {
        "help": [*es, "--help"],
        "its imports": [sys.executable, "-c", "import typer, rich, pydantic, yaml"],
        "reconstruct": [*es, "reconstruct", "--ckpt", str(checkpoint), str(sample), "-o", "-"],
        "deepinv": [sys.executable, "-c", "import deepinv"],
    }
    # from the root, so that what is timed is this very package
    ways = {name: lambda c=command: subprocess.run(c, check=True, capture_output=True, cwd=ROOT) for name, command in commands.items()}
    seconds = in_turns(ways, rounds)
    return {
        "es --help / importing typer, rich, pydantic and yaml": ratio(seconds["help"], seconds["its imports"], at_most=2),
        "es reconstruct of one 64² image / importing deepinv": ratio(seconds["reconstruct"], seconds["deepinv"], at_most=1.3),
    }


def step(folder: Path, rounds: int) -> Figures:
    """A whole training step, from reading the batch to the moving average of the weights, against forward and backward passes on a batch."""
    figures: Figures = {}
    for (task, architecture), most in zip(synthetic.TASKS.items(), (1.05, 1.1), strict=True):
        seconds = _steps(folder, task, rounds)
        figures[f"training step / forward and backward of the bare network, {architecture}"] = ratio(seconds["step"], seconds["bare"], at_most=most)
        figures[f"training step / as many forwards and backwards of the U-Net alone, {architecture}"] = ratio(seconds["step"], seconds["backbone"])
        figures[f"bare network, weights channels last / as deepinv makes it, {architecture}"] = ratio(seconds["bare"], seconds["as made"])
    return figures


def _steps(folder: Path, task: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each training step, and of the bare network on a batch after each step."""
    spec = synthetic.spec_in(folder, task, [f"training.steps={WARM_STEPS + rounds}", f"training.validate_every={WARM_STEPS + rounds}"])
    experiment, y = synthetic.experiment_of(spec)
    y, physics, network = y[: spec.training.batch_size], experiment.operator.physics, experiment.network
    as_made = _contiguous(network)
    backbone, calls = synthetic.backbone(network), _calls(lambda: network(y, physics), synthetic.backbone(network)) // len(y)
    x = physics.A_adjoint(y)
    passes: dict[str, Callable[[], Tensor]] = {
        "bare": lambda: network(y, physics),
        "backbone": lambda: _repeated(backbone, x, calls),
        "as made": lambda: as_made(y, physics),
    }
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in passes}}

    def on_event(event: Event) -> None:
        if isinstance(event, Step):
            seconds["step"].append(event.seconds)
            for name, forward in passes.items():
                seconds[name].append(timed(lambda f=forward: (f() ** 2).mean().backward()))
            network.zero_grad(set_to_none=True)
            as_made.zero_grad(set_to_none=True)

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        synthetic.run(spec, Path(scratch) / "run", on_event)
    return {name: values[WARM_STEPS:] for name, values in seconds.items()}


def _contiguous(network: nn.Module) -> nn.Module:
    """A copy with the weights laid out as torch makes them."""
    made = copy.deepcopy(network)
    for parameter in made.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
    return made


def _repeated(network: nn.Module, x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = network(x)
    return x


def _calls(work: Callable[[], object], network: nn.Module) -> int:
    """Images that go through `network` while `work` is done."""
    counted: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: counted.append(len(inputs[0])))
    work()
    hook.remove()
    return sum(counted)


def prox(folder: Path, rounds: int) -> Figures:
    """argmin_x γ/2 ‖M A T_g x − y‖² + ½ ‖x − z‖² for a split of MRI: the closed form against deepinv's conjugate gradients."""
    experiment, y = synthetic.experiment_of(synthetic.spec_in(folder, "mri64"))
    physics, group = experiment.operator.physics, experiment.reconstruction.group
    mask = draw_split(experiment.reconstruction.splitter, y.shape, sampling_mask(physics), seed=0)
    split, elements = split_operator(physics, mask, y), group.draw(len(y), seed=0)
    z, gamma = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)), 10.0
    ours = virtual_operator(split, Batch(elements), group.orthogonal)
    theirs = deepinv_recipe.virtual(physics, mask, y)
    with torch.no_grad():
        made = ours.prox_l2(z, mask * y, gamma)
        found = deepinv_recipe.virtual(physics, mask, y, Batch(elements)).prox_l2(z, mask * y, gamma)
        seconds = in_turns({"ours": lambda: ours.prox_l2(z, mask * y, gamma), "theirs": lambda: theirs.prox_l2(z, mask * y, gamma)}, rounds)
    figure = ratio(seconds["ours"], seconds["theirs"], at_most=0.2)
    return {"prox_l2 of a split virtual MRI / deepinv's": {**figure, "difference": float((made - found).norm() / found.norm())}}


def reconstruct(folder: Path, rounds: int) -> Figures:
    """Images of one batch by the rule of the shipped spec, and by one call each, against deepinv's 5 splits × D4 around the same network."""
    figures: Figures = {}
    for task, architecture in synthetic.TASKS.items():
        experiment, y = synthetic.experiment_of(synthetic.spec_in(folder, task))
        ways = _reconstructions(experiment, y)
        calls = {name: _calls(way, experiment.network) // len(y) for name, way in ways.items()}
        seconds = in_turns(ways, rounds, warm_up=0)
        for name, most in (("rule", 0.1), ("one call", None)):
            figure = ratio(seconds[name], seconds["deepinv"], at_most=most)
            what = f"reconstruction with {calls[name]} network call{'s' * (calls[name] > 1)} / deepinv's with {calls['deepinv']}, {architecture}"
            figures[what] = {**figure, "images": len(y)}
    return figures


def _reconstructions(experiment: Experiment, y: Tensor, consistency: nn.Module | None = None) -> dict[str, Callable[[], Tensor]]:
    """Ways to make images from y with one network; `consistency` is the loss of deepinv that its model is adapted to, None: MCLoss."""
    made, physics = experiment.reconstruction, experiment.operator.physics
    theirs = deepinv_recipe.adapted(experiment.network.eval(), physics, consistency)
    return {"rule": lambda: made(y), "one call": lambda: made(y, ONE_CALL), "deepinv": lambda: theirs(y, physics)}


def r2r(folder: Path, rounds: int) -> Figures:
    """Network calls for one image where the network was trained on recorrupted measurements, counted."""
    loss = "losses=[{name: EquivariantSplittingLoss, consistency_loss: {name: R2RLoss, alpha: 0.2}}]"
    noise = "physics.noise_model={name: GaussianNoise, sigma: 0.05}"
    experiment, y = synthetic.experiment_of(synthetic.spec_in(folder, "inpainting64", [loss, noise]))
    ways = _reconstructions(experiment, y[:1], R2RLoss(alpha=0.2))
    ours, theirs = (_calls(ways[name], experiment.network) for name in ("rule", "deepinv"))
    return {"network calls for an image under R2R": {"calls": ours, "against": theirs, "at_most": 20}}


def scaling(folder: Path, rounds: int) -> Figures:
    """Seconds per pixel and memory of one image by artifact removal for so many sizes, each in a process of its own."""
    checkpoint = synthetic.run(synthetic.spec_in(folder, "inpainting64", ["training.steps=1"]), folder / "for-scaling")
    return large_images.measure(checkpoint, SIZES[:rounds], folder)


PARTS: dict[str, Callable[[Path, int], Figures]] = {
    "start-up": start_up,
    "step": step,
    "prox": prox,
    "reconstruct": reconstruct,
    "r2r": r2r,
    "scaling": scaling,
}
ROUNDS = {"start-up": 4, "step": 20, "prox": 40, "reconstruct": 3, "r2r": 1, "scaling": len(SIZES)}
QUICK = {"start-up": 1, "step": 2, "prox": 2, "reconstruct": 1, "r2r": 1, "scaling": 2}


def said(what: str, figure: Figures) -> str:
    """One line for a figure: its value, its range, and what was wanted."""
    wanted = f", wanted ≤ {figure['at_most']}" if "at_most" in figure else ""
    if "calls" in figure:
        return f"{what}: {figure['calls']} against {figure['against']}{wanted}"
    if "ratio" in figure:
        return f"{what}: {figure['ratio']:.3g} ({figure['low']:.3g} to {figure['high']:.3g}; rounds: {figure['rounds']}){wanted}"
    return f"{what}: {', '.join(f'{name} {value}' for name, value in figure.items())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--part", action="append", choices=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    results = {**surroundings(), "quick": args.quick, "parts": {}}
    for name in args.part or PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            figures: Figures = {}
            seconds = timed(lambda n=name, f=figures, s=scratch: f.update(PARTS[n](Path(s), (QUICK if args.quick else ROUNDS)[n])))
        results["parts"][name] = {"took": round(seconds, 1), "figures": figures}
        args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        for what, figure in figures.items():
            print(said(what, figure), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
