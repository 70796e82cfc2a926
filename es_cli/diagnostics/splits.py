"""The fourth section of `es check`: what each side of a split gets, and whether what is predicted is as hard to predict as what was never measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from es_cli.diagnostics.context import Context, context_of, mean_context
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.diagnostics.operator import looked_at
from es_cli.experiment import Experiment
from es_cli.splitting.folds import Visit
from es_cli.splitting.generators import LineSplittingMaskGenerator
from es_cli.splitting.library_loss import LibraryLoss, SeededSplits
from es_cli.splitting.masks import Splitter, draw_split, sampling_mask
from es_cli.splitting.objective import Equivariant, EquivariantSplitting, Pass
from es_cli.streams import stream_seed

SECTION = "splits"
PURPOSE = "check-splits"
HANDFUL = 5  # positions on a side, fewer of which say next to nothing
RARELY = 0.25  # share of the draws that may have so few
# times nearer to the input than what was never measured: another task than the one that is wanted. With lines of variable density, from ×4 to ×8, it
# is 1.1 to 2.9 where half to four fifths are given; with equally spaced ones 0.33 at the least
EASIER, HARDER = 3.0, 0.25
WITH_CONTEXT = 4  # draws of each shape whose context is looked at; it differs little from one to the next

# M₁ (B, …) for y (B, …), its operator, the numbers of its samples, and the number of a draw
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


def count_sides(given: Tensor, mask: Tensor | None, y: Tensor, axes: Sequence[int]) -> Sides:
    """The sides of splits M₁ `given` of the measurements y, both (n, …); `mask` (1 or n, …) is what was measured, None: everything.

    `axes` are those along which splits vary, as a Splitter has them.
    """
    whole = torch.ones_like(given) if mask is None else mask.expand(given.shape)
    rest = whole - given
    energy = (rest * y**2).flatten(1).sum(1) / (whole * y**2).flatten(1).sum(1).clamp(min=torch.finfo(y.dtype).tiny)
    return Sides(_positions(given, axes), _positions(rest, axes), energy)


def splits_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """What the splits of an experiment's training give to either side; `quick` asks fewer of them. Never no. Sees no ground truth."""
    with torch.no_grad():
        found = drawing(experiment)
        if found is None:
            return Finding(SECTION, "good", "no loss of this spec splits measurements: nothing can be empty")
        splitter, draw = found
        sides, contexts, lines, word = _drawn(experiment, splitter, draw, quick)
    whole = Sides(*(torch.cat([getattr(one, name) for one in sides]) for name in ("given", "held_out", "energy")))
    context = mean_context(contexts)
    verdict, reason, advice = judge(whole, context, word, isinstance(splitter.generator, LineSplittingMaskGenerator))
    held_out = {"lines_held_out": _range(torch.cat(lines))} if lines else {}
    return Finding(SECTION, verdict, reason, advice, {**_numbers(whole, splitter), **held_out, **_context_numbers(context, word)})


def _drawn(experiment: Experiment, splitter: Splitter, draw: Draw, quick: bool) -> tuple[list[Sides], list[Context], list[Tensor], str]:
    """Sides, contexts and lines held out of splits of samples of some shapes; and what the distances of the contexts are in, or why there are none."""
    sides: list[Sides] = []
    contexts: list[Context] = []
    lines: list[Tensor] = []
    word = ""
    for positions in looked_at(experiment.train, 4 if quick else 8, 1 if quick else 4):
        y, _, physics, _ = experiment.reconstruction.batch(experiment.train, positions, torch.device(experiment.operator.device))
        mask, keys = sampling_mask(physics), experiment.train.keys(positions)
        for number in range(16 if quick else 64):
            given = draw(y, physics, keys, number)
            sides.append(count_sides(given, mask, y, splitter.axes))
            if isinstance(splitter.generator, LineSplittingMaskGenerator):
                lines.append(_lines((1 if mask is None else mask) - given, splitter.generator.dim))
            if number < WITH_CONTEXT:
                context, word = context_of(given, mask, physics)
                contexts += [] if context is None else [context]
    return sides, contexts, lines, word


def judge(sides: Sides, context: Context | None, word: str, of_lines: bool) -> tuple[Verdict, str, str]:
    """Verdict, reason and advice; `word` is what the context's distances are in, or why there is none; `of_lines`: whole lines or angles are split."""
    if sides.empty > 0:
        what = f"{sides.empty:.0%} of the splits leave a side empty: such a sample teaches nothing"
        return "doubtful", what, "leave out samples with a single line, or lower mask_generator.center_lines" if of_lines else "leave out samples of which a single position was measured"
    if sides.few > RARELY:
        little_given = bool(sides.given.float().mean() < sides.held_out.float().mean())
        what = f"in {sides.few:.0%} of the splits fewer than {HANDFUL} positions are {'given to the network' if little_given else 'left to predict'}"
        return "doubtful", what, f"{'raise' if little_given else 'lower'} mask_generator.split_ratio"
    mean = f"{float(sides.held_out.float().mean()):.0f} of {float((sides.given + sides.held_out).float().mean()):.0f} measured positions are predicted"
    if context is None:
        apart = f"; whether these are easier than what was never measured cannot be asked: {word}" if word not in ("positions", "degrees") else ""
        return "good", mean + apart, ""
    near = f"{context.distance_held_out:.1f} {word} from the input, and what was never measured {context.distance_never:.1f}"
    if context.easier >= EASIER:
        what = f"what is predicted lies {near}: the network learns an easier task than the one that is wanted"
        hint = "hold out more together: a lower split_ratio, or a generator of lines or blocks as large as what was never measured"
        return "doubtful", what, hint
    if word == "positions" and context.easier <= HARDER:  # the directions between angles are nearer to them than other angles are
        what = f"what is predicted lies {near}: little of it can be told from the input"
        return "doubtful", what, "hold out less together: a higher split_ratio, or a generator of single pixels or lines"
    return "good", f"{mean}, {near}", ""


def drawing(experiment: Experiment) -> tuple[Splitter, Draw] | None:
    """The splits of the first loss that splits, as training draws them; None where none does."""
    for term in experiment.objective.terms:
        judged = term.term if isinstance(term, Equivariant) else term
        if isinstance(judged, EquivariantSplitting):
            return judged.splitter, _of_splitting(judged, experiment)
        if isinstance(judged, LibraryLoss) and isinstance(held := getattr(judged.loss, "mask_generator", None), SeededSplits):
            return held.splitter, _of_library(held.splitter, experiment.spec.seed)
    return None


def _of_splitting(term: EquivariantSplitting, experiment: Experiment) -> Draw:
    def draw(y: Tensor, physics: Any, keys: Sequence[int], number: int) -> Tensor:
        visit = Visit(experiment.spec.seed, keys, number)
        return term.split(Pass(experiment.network, physics, y, None, stream_seed(experiment.spec.seed, PURPOSE, number), visit=visit))

    return draw


def _of_library(splitter: Splitter, seed: int) -> Draw:
    return lambda y, physics, keys, number: draw_split(splitter, y.shape, sampling_mask(physics), stream_seed(seed, PURPOSE, number))


def _positions(mask: Tensor, axes: Sequence[int]) -> Tensor:
    """How many positions of each mask (n, …) are not 0, (n,): channels and coils that share a split count once."""
    shared = [axis for axis in range(1, mask.ndim) if axis not in axes and (mask.ndim < 4 or axis < mask.ndim - 2)]
    return ((mask.amax(shared) if shared else mask) > 0).flatten(1).sum(1)


def _lines(rest: Tensor, dim: int) -> Tensor:
    """How many lines or angles along axis `dim` of each M₂ (n, …) hold anything, (n,)."""
    return (rest.transpose(dim, -1).flatten(1, -2).amax(1) > 0).sum(1)


def _numbers(sides: Sides, splitter: Splitter) -> dict[str, Any]:
    return {
        "generator": type(splitter.generator).__name__,
        "splits_drawn": len(sides.given),
        "positions_given": _range(sides.given),
        "positions_held_out": _range(sides.held_out),
        "energy_held_out": float(sides.energy.mean()),
        "empty_sides": sides.empty,
        "sides_of_a_few": sides.few,
    }


def _context_numbers(context: Context | None, word: str) -> dict[str, Any]:
    if context is None:
        return {}
    numbers: dict[str, Any] = {"distances_in": word, "held_out_to_input": context.distance_held_out, "never_measured_to_input": context.distance_never}
    if context.input_near_held_out is not None:
        numbers |= {"input_near_held_out": context.input_near_held_out, "input_near_never_measured": context.input_near_never}
    return numbers


def _range(counts: Tensor) -> dict[str, float]:
    return {"least": int(counts.min()), "mean": float(counts.float().mean()), "most": int(counts.max())}


def _share(which: Tensor) -> float:
    return float(which.float().mean())
