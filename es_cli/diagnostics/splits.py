"""Splits: what each side gets over many draws, and whether what is predicted is as hard to predict as what was never measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import MRI, ComposedPhysics, DynamicMRI, MultiCoilMRI, NonCartesianMRI, SinglePixelCamera, Tomography
from torch import Tensor
from torch.nn import functional

from es_cli.data.batches import spread_out
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.experiment import Experiment
from es_cli.splitting.folds import Visit
from es_cli.splitting.generators import LineSplittingMaskGenerator
from es_cli.splitting.library_loss import LibraryLoss, SeededSplits
from es_cli.splitting.masks import Splitter, draw_split, sampling_mask
from es_cli.splitting.objective import Equivariant, EquivariantSplitting, Pass
from es_cli.splitting.operators import MaskedOperator
from es_cli.streams import stream_seed

SECTION = "Splits"
HANDFUL = 5  # positions on a side, fewer of which say next to nothing
RARELY = 0.25  # share of the draws that may have so few
EASIER = 3.0  # times nearer to the input than what was never measured: another task than the one that is wanted
WIDTH = 5  # of the neighbourhood in which input is counted
FARTHEST = 16  # distances are counted up to this many positions
STEP = 0.5  # degrees between the directions that are asked how far they are from a measured one

# M₁ (B, …) for y (B, …), its operator, the numbers of its samples, and a draw
Draw = Callable[[Tensor, Any, Sequence[int], int], Tensor]


@dataclass(frozen=True)
class Sides:
    """What each side of n drawn splits gets: positions given to the network and held out, (n,), and the share of the energy that is held out, (n,).

    A position is a pixel with its channels, a point of k-space with its coils, or an entry.
    """

    given: Tensor
    held_out: Tensor
    energy: Tensor

    @property
    def empty(self) -> float:
        """The share of the draws in which a side has nothing."""
        return _share((self.given == 0) | (self.held_out == 0))

    @property
    def few(self) -> float:
        """The share of the draws in which a side has fewer than a handful."""
        return _share((self.given < HANDFUL) | (self.held_out < HANDFUL))


@dataclass(frozen=True)
class Context:
    """How near the input is to what is held out and to what was never measured: mean distances, in positions or degrees, and the share of a
    neighbourhood that is input (None for angles)."""

    distance_held_out: float
    distance_never: float
    input_near_held_out: float | None = None
    input_near_never: float | None = None

    @property
    def easier(self) -> float:
        """How many times nearer to the input the held-out positions are."""
        return self.distance_never / max(self.distance_held_out, 1e-9)


def count_sides(given: Tensor, mask: Tensor | None, y: Tensor, axes: Sequence[int]) -> Sides:
    """The sides of splits M₁ `given` of the measurements y, both (n, …); `mask` (1 or n, …) is what was measured, None: everything.

    `axes` are those along which splits vary, as a Splitter has them.
    """
    rest = (1 if mask is None else mask) - given
    energy = (rest * y**2).flatten(1).sum(1) / (y**2 if mask is None else mask * y**2).flatten(1).sum(1).clamp(min=1e-30)
    return Sides(_positions(given, axes), _positions(rest.expand(given.shape), axes), energy)


def local_context(given: Tensor, measured: Tensor) -> Context | None:
    """The context of splits on a grid: `given` and `measured` are bool (n, planes, *grid), a grid of two or three axes.

    None where no position is held out, or none is without a measurement. Distances are of chessboards, and FARTHEST at most; neighbourhoods are
    WIDTH wide.
    """
    held_out, never = measured & ~given, ~measured
    if not held_out.any() or not never.any() or not given.any():
        return None
    flat = given.ndim == 4
    pool, mean = (functional.max_pool2d, functional.avg_pool2d) if flat else (functional.max_pool3d, functional.avg_pool3d)
    # padded by hand: the pools of torch refuse a grid that is smaller than their window
    sides = given.ndim * 2 - 4
    reached = given.float()
    near = mean(functional.pad(reached, [WIDTH // 2] * sides), WIDTH, 1)
    distance = torch.zeros_like(reached)
    for _ in range(FARTHEST):
        distance += 1 - reached
        reached = pool(functional.pad(reached, [1] * sides), 3, 1)
    return Context(*(float(value[sites].mean()) for value in (distance, near) for sites in (held_out, never)))


def angular_context(given: Tensor, angles: Tensor, period: float) -> Context | None:
    """The context of splits of a sinogram: `given` is bool (n, angles), `angles` are in degrees, alike after `period` of them.

    What was never measured are all directions between. None where no angle is held out.
    """
    if bool(given.all()) or not bool(given.any(1).all()):
        return None
    between = torch.arange(0, period, STEP)
    asked = torch.cat([angles.cpu(), between])
    apart = (asked[:, None] - angles.cpu()) % period
    apart = torch.minimum(apart, period - apart)
    nearest = torch.where(given.cpu()[:, None], apart, torch.inf).amin(2)
    of_angles, of_between = nearest.split([len(angles), len(between)], 1)
    return Context(float(of_angles[~given.cpu()].mean()), float(of_between.mean()))


def context_of(given: Tensor, mask: Tensor | None, physics: Any) -> tuple[Context | None, str]:
    """The context of splits M₁ (n, …) of measurements of `physics`, and in a word why there is none, or the unit of its distances."""
    last = last_operator(physics)
    if isinstance(last, Tomography):
        found = angular_context(given.flatten(1, -2).amax(1) > 0, last.radon.theta.flatten(), 360.0 if last.fan_beam else 180.0)
        return found, "degrees"
    if given.ndim < 4 or isinstance(last, (SinglePixelCamera, NonCartesianMRI)):
        return None, "these measurements have no neighbours"
    if mask is None or bool((mask > 0).all()):
        return None, "every position is measured"
    pair = isinstance(last, (MRI, MultiCoilMRI))
    volume = isinstance(last, DynamicMRI) or getattr(last, "three_d", False) or (not pair and given.ndim == 5)
    planes = given.ndim - (4 if volume else 3)
    kept, measured = ((side > 0).expand(given.shape).flatten(1, planes) for side in (given, mask))
    if pair:  # real and imaginary part and all coils share a point of k-space
        kept, measured = kept.any(1, keepdim=True), measured.any(1, keepdim=True)
    return local_context(kept, measured), "positions"


def last_operator(physics: Any) -> Any:
    """The operator that makes the measurement: the innermost of masked ones, the last of several one after the other."""
    if isinstance(physics, MaskedOperator):
        return last_operator(physics.physics)
    return last_operator(physics.physics_list[-1]) if isinstance(physics, ComposedPhysics) else physics


def splits_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """What the splits of an experiment's training give to either side; `quick` asks fewer of them."""
    found = _drawing(experiment)
    if found is None:
        return Finding(SECTION, "good", "no loss of this spec splits measurements: nothing can be empty")
    splitter, draw = found
    device, size, draws = experiment.operator.device, (4 if quick else 8), (16 if quick else 64)
    sides: list[Sides] = []
    contexts: list[Context] = []
    units: list[Tensor] = []
    pictures: dict[str, Any] = {}
    word = ""
    for batch, positions in enumerate(spread_out(experiment.train, size, 1 if quick else 4)):
        y, _, physics, _ = experiment.reconstruction.batch(experiment.train, positions, torch.device(device))
        mask, keys, total = sampling_mask(physics), experiment.train.keys(positions), torch.zeros_like(y[:1])
        for number in range(draws):
            given = draw(y, physics, keys, number)
            sides.append(count_sides(given, mask, y, splitter.axes))
            units.append(_lines_held_out(splitter, given, mask))
            total += ((1 if mask is None else mask) - given).mean(0, keepdim=True)
            if number < (1 if quick else 4):
                context, word = context_of(given, mask, physics)
                contexts += [] if context is None else [context]
        if batch == 0 and y.ndim >= 4:
            pictures = {"how often held out": (total / draws).flatten(1, -3).amax(1)[0].cpu().numpy()}
    whole = Sides(*(torch.cat([getattr(one, name) for one in sides]) for name in ("given", "held_out", "energy")))
    context = _mean_context(contexts)
    verdict, reason, advice = judge(whole, context, word)
    lines = {"lines held out": _range(torch.cat(units))} if isinstance(splitter.generator, LineSplittingMaskGenerator) else {}
    return Finding(SECTION, verdict, reason, advice, {**_numbers(whole, splitter), **lines, **_context_numbers(context, word)}, pictures)


def judge(sides: Sides, context: Context | None, word: str) -> tuple[Verdict, str, str]:
    """Verdict, reason and advice; `word` is the unit of the context's distances, or why there is none."""
    if sides.empty > 0:
        what = f"{sides.empty:.0%} of the splits leave a side empty: such a sample teaches nothing"
        return "doubtful", what, "leave out samples with a single line or entry, or lower center_lines"
    if sides.few > RARELY:
        least = "is given to the network" if sides.given.float().mean() < sides.held_out.float().mean() else "is left to predict"
        side = "raise" if "given" in least else "lower"
        return "doubtful", f"in {sides.few:.0%} of the splits fewer than {HANDFUL} positions are on a side: little {least}", f"{side} mask_generator.split_ratio"
    mean = f"{float(sides.held_out.float().mean()):.0f} of {float((sides.given + sides.held_out).float().mean()):.0f} positions are predicted"
    if context is None:
        apart = f"; whether these are easier than what was never measured cannot be asked: {word}" if word not in ("positions", "degrees") else ""
        return "good", mean + apart, ""
    near = f"{context.distance_held_out:.1f} {word} from the input, and what was never measured {context.distance_never:.1f}"
    if context.easier >= EASIER:
        what = f"what is predicted lies {near}: the network learns an easier task than the one that is wanted"
        hint = "hold out more together: a lower split_ratio, or a generator of whole lines or blocks as large as what was never measured"
        return "doubtful", what, hint
    return "good", f"{mean}, {near}", ""


def _drawing(experiment: Experiment) -> tuple[Splitter, Draw] | None:
    """The splits of the first loss that splits, as training draws them; None where none does."""
    seed = experiment.spec.seed
    for term in experiment.objective.terms:
        judged = term.term if isinstance(term, Equivariant) else term
        if isinstance(judged, EquivariantSplitting):
            splitting, splitter = judged, judged.splitter

            def draw(y: Tensor, physics: Any, keys: Sequence[int], number: int, splitting: EquivariantSplitting = splitting) -> Tensor:
                batch = Pass(experiment.network, physics, y, None, stream_seed(seed, "check-splits", number), visit=Visit(seed, keys, number))
                return splitting.split(batch)

            return splitter, draw
        if isinstance(judged, LibraryLoss) and isinstance(held := getattr(judged.loss, "mask_generator", None), SeededSplits):
            own = held.splitter
            return own, lambda y, physics, keys, number: draw_split(own, y.shape, sampling_mask(physics), stream_seed(seed, "check-splits", number))
    return None


def _positions(mask: Tensor, axes: Sequence[int]) -> Tensor:
    """How many positions of each mask (n, …) are not 0, (n,): channels and coils that share a split count once."""
    shared = [axis for axis in range(1, mask.ndim) if axis not in axes and (mask.ndim < 4 or axis < mask.ndim - 2)]
    return ((mask.amax(shared) if shared else mask) > 0).flatten(1).sum(1)


def _lines_held_out(splitter: Splitter, given: Tensor, mask: Tensor | None) -> Tensor:
    """How many lines or angles of each split are held out, (n,); for generators of other splits, positions."""
    rest = ((1 if mask is None else mask) - given).expand(given.shape)
    dim = getattr(splitter.generator, "dim", None)
    return (rest.transpose(dim, -1).flatten(1, -2).amax(1) > 0).sum(1) if isinstance(dim, int) else _positions(rest, splitter.axes)


def _mean_context(contexts: Sequence[Context]) -> Context | None:
    if not contexts:
        return None
    rows = [(c.distance_held_out, c.distance_never, c.input_near_held_out, c.input_near_never) for c in contexts]
    return Context(*(None if None in column else sum(column) / len(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type, misc]


def _numbers(sides: Sides, splitter: Splitter) -> dict[str, Any]:
    return {
        "generator": type(splitter.generator).__name__,
        "splits drawn": len(sides.given),
        "positions given": _range(sides.given),
        "positions held out": _range(sides.held_out),
        "energy held out": round(float(sides.energy.mean()), 4),
        "empty sides": round(sides.empty, 4),
        "sides of a few": round(sides.few, 4),
    }


def _context_numbers(context: Context | None, word: str) -> dict[str, Any]:
    if context is None:
        return {}
    numbers: dict[str, Any] = {
        f"distance of held out to input ({word})": round(context.distance_held_out, 2),
        f"distance of never measured to input ({word})": round(context.distance_never, 2),
    }
    if context.input_near_held_out is not None and context.input_near_never is not None:
        numbers |= {"input near held out": round(context.input_near_held_out, 3), "input near never measured": round(context.input_near_never, 3)}
    return numbers


def _range(counts: Tensor) -> dict[str, float]:
    return {"least": int(counts.min()), "mean": round(float(counts.float().mean()), 1), "most": int(counts.max())}


def _share(which: Tensor) -> float:
    return float(which.float().mean())
