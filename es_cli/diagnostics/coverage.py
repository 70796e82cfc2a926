"""The third section of `es check`: how much of what the operator does not see do its virtual operators A T_g reach, together and given a split?

Over all g, rank and energy of Q = E_g[(A T_g)ᵀ A T_g] against those of AᵀA: what a null space they leave no training can fill. Over the g that a split
leaves, those of which row(A T_g) holds all that the network is given, the same rank: the theorem asks for it to be full. Hardly any g passes where
masks are random, and training works there all the same: the first decides, the second informs (METHOD.md, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from deepinv.physics import LinearPhysics

from es_cli import figures
from es_cli.catalog import OF_PHYSICS
from es_cli.diagnostics.algebra import unseen_part
from es_cli.diagnostics.conditional import including
from es_cli.diagnostics.expected import ExpectedNormal
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.diagnostics.maps import domain, seen
from es_cli.diagnostics.operator import looked_at
from es_cli.diagnostics.quadrature import Estimate
from es_cli.diagnostics.reach import NULL_STEPS, Effort, Reach, exposure, rank_of, reach, white_images
from es_cli.diagnostics.transforms import HIDDEN, NAMED, group_name, groups_of_losses, instead_of, without_group
from es_cli.errors import SpecError
from es_cli.experiment import Experiment
from es_cli.splitting.group import IDENTITY, Element, Group, named_group
from es_cli.splitting.masks import draw_split, sampling_mask
from es_cli.splitting.parameters import of_one_sample, sample_parameters
from es_cli.splitting.sparse_radon import with_sparse_radon
from es_cli.splitting.virtual import split_operator
from es_cli.streams import stream_seed

SECTION = "coverage"
PICTURE = "coverage.png"
NO_GAIN = 0.005  # of the energy that A misses, and of the exposure: rounding, and what interpolation moves
EXPOSED = 0.125  # exposure below which what is reached is hardly seen; groups that mix well have more than a quarter
REACHED = 0.25  # of the energy that A misses
VAGUE = 0.2  # between the ends of an interval
PROBES, PROBES_QUICK = 16, 4  # for a picture


@dataclass(frozen=True)
class Conditional:
    """Of some splits: how many elements are `kept` on average, those whose virtual operator sees all that the network is given, and of how many;
    and the `rank` of E[(A T_g)ᵀ A T_g] over them, that of the split where it is least."""

    kept: float
    tried: int
    rank: Estimate


def conditional_coverage(
    physics: Any, splits: Sequence[Any], elements: Sequence[Element], orthogonal: bool, shape: Sequence[int], effort: Effort, known: Reach, seed: int, device: Any = "cpu"
) -> Conditional:
    """What the theorem asks of one operator and operators A₁ of its splits, for images of `shape`; `known`: what `reach` found over all `elements`."""
    white = white_images(1, shape, stream_seed(seed, "given"), device)
    counts, ranks = [], []
    for split in splits:
        kept = including(physics, split, elements, orthogonal, white, known.norm**2)
        counts.append(len(kept))
        if len(kept) == len(elements):
            ranks.append(known.rank)
        elif all(element.label == IDENTITY.label for element in kept):
            ranks.append(known.alone)
        else:
            ranks.append(rank_of(ExpectedNormal([physics], kept, orthogonal), shape, effort, seed, device))
    return Conditional(sum(counts) / len(counts), len(elements), min(ranks, key=lambda one: one.value))


def groups_that_reach(physics: Any, shape: Sequence[int], norm: float, count: int, seed: int, device: Any = "cpu") -> dict[str, float]:
    """The exposure under each group that can be named for images of `shape`, by name, where it is `EXPOSED` or more; `norm` is ‖A‖.

    Of an infinite group `count` elements are tried. See `Reach` for the exposure.
    """
    alone, white, found = ExpectedNormal([physics], [IDENTITY], True), white_images(1, shape, seed, device), {}
    hidden = unseen_part(physics, white, norm, NULL_STEPS)
    for name in NAMED:
        try:
            group = named_group(name, shape)
        except SpecError:  # not for images that are no squares
            continue
        together = ExpectedNormal([physics], group.representatives(count, seed), group.orthogonal)
        value = exposure(alone, together, white, hidden)
        if value >= EXPOSED:
            found[name] = value
    return found


def coverage_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """Rank and energy that virtual operators reach of what the operator does not see, unconditional and conditional on the split.

    No where nothing is gained over an existing null space, by losses that have nothing but the group to learn it from. `quick` takes fewer probes, steps
    and elements. Its picture shows where.
    """
    with torch.no_grad():
        return _Coverage(experiment, quick).found()


class _Coverage:
    """Samples of the largest shape with their operators, and the elements by which the losses move images."""

    def __init__(self, experiment: Experiment, quick: bool) -> None:
        self.experiment, self.quick, self.seed = experiment, quick, stream_seed(experiment.spec.seed, "check-coverage")
        self.device = torch.device(experiment.operator.device)
        positions = next(looked_at(experiment.train, 2 if quick else 4, 1))
        self.y, _, self.physics, _ = experiment.reconstruction.batch(experiment.train, positions, self.device)
        self.shape = tuple(experiment.operator.image.fitted(tuple(self.y.shape[1:])).shape)
        self.groups: list[Group] = groups_of_losses(experiment.objective, self.shape)

    def found(self) -> Finding:
        if not isinstance(self.physics, LinearPhysics):
            return Finding(SECTION, "good", "the operator is not linear: what its virtual operators reach cannot be measured")
        operators = self._operators()
        effort = Effort.of(self.shape, self.quick, len(operators))
        orthogonal = all(group.orthogonal for group in self.groups)
        elements = [one for group in self.groups for one in group.representatives(effort.elements, self.seed)] or [IDENTITY]
        alone, together = ExpectedNormal(operators[:1], [IDENTITY], True), ExpectedNormal(operators, elements, orthogonal)
        reached = reach(alone, together, self.shape, effort, self.seed, self.device)
        numbers = {"group": group_name(self.experiment, self.groups) if self.groups else "none", "elements": len(elements), "operators": len(operators)}
        numbers |= _numbers_of(reached)
        splits = self._splits(operators[0])
        if splits and self.groups:
            given = conditional_coverage(operators[0], splits, elements, orthogonal, self.shape, effort, reached, self.seed, self.device)
            numbers["conditional_elements"], numbers["conditional_rank"] = given.kept, asdict(given.rank)

        def others() -> dict[str, float]:
            return groups_that_reach(operators[0], self.shape, reached.norm, effort.elements, self.seed, self.device)

        def draw(path: Path) -> None:
            self._draw(path, alone, together)

        verdict, reason, advice = self._judged(reached, numbers, others)
        return Finding(SECTION, verdict, reason, advice, numbers, {PICTURE: draw})

    def _operators(self) -> list[Any]:
        """That of each sample, or the one that they share."""
        own = [value for name, value in sample_parameters(self.physics).items() if name in OF_PHYSICS]
        count = max([len(value) for value in own], default=1)
        return [with_sparse_radon(of_one_sample(self.physics, i)) for i in range(count)]

    def _splits(self, physics: Any) -> list[Any]:
        """Operators A₁ of the first sample."""
        splitter, y = self.experiment.reconstruction.splitter, self.y[:1]
        if splitter is None:
            return []
        masks = [draw_split(splitter, y.shape, sampling_mask(physics), stream_seed(self.seed, "split", i)) for i in range(1 if self.quick else 2)]
        return [split_operator(physics, mask, y) for mask in masks]

    def _judged(self, reached: Reach, numbers: dict[str, Any], others: Callable[[], dict[str, float]]) -> tuple[Verdict, str, str]:
        hidden = 1 - reached.alone.value
        unseen = f"{100 * hidden:.0f} % of the dimensions of images"
        how = f"under {numbers['group']}" if self.groups else "by the operators of the samples"
        if hidden <= HIDDEN:
            return "good", "the operator sees all of an image: there is nothing to reach", ""
        null, energy = _percent(reached.null_reached), 100 * reached.energy_reached.value
        gained = max(reached.energy_reached.value, reached.exposure) > NO_GAIN
        said = f"{null} of what the operator does not see is reached {how}, and {energy:.0f} % of the energy of pictures there; it does not see {unseen}"
        if self.experiment.objective.needs_ground_truth:
            return "good", f"the losses compare with ground truth, and need no group{'; ' + said if gained else ''}", ""
        if gained and reached.exposure >= EXPOSED and reached.energy_reached.value >= REACHED:
            return "good", said, ""
        numbers["would_reach"] = would = {name: value for name, value in others().items() if value > reached.exposure}
        instead = instead_of(would, solved=True)
        if gained:
            weakly = "" if reached.exposure >= EXPOSED else f"; there its measurements have {100 * reached.exposure:.2g} % of the energy that they have elsewhere"
            return "doubtful", said + weakly, instead
        if self.groups:
            return "no", f"nothing of what the operator does not see, {unseen}, is reached {how}", instead
        return without_group(self.experiment.objective, unseen, instead)

    def _draw(self, path: Path, alone: ExpectedNormal, together: ExpectedNormal) -> None:
        where, count = domain(self.physics), PROBES_QUICK if self.quick else PROBES
        with torch.no_grad():
            found = [seen(one, where, self.shape, count, self.seed, self.device) for one in (alone, together)]
        best = float(found[0].max()) or 1.0
        figures.maps(path, {"the operator alone": found[0] / best, "all virtual operators": found[1] / best}, where)


def _percent(found: Estimate) -> str:
    """The value, or the ends of its interval where they are far apart."""
    if found.high - found.low <= VAGUE:
        return f"{100 * found.value:.0f} %"
    return f"between {100 * found.low:.0f} and {100 * found.high:.0f} %"


def _numbers_of(reached: Reach) -> dict[str, Any]:
    """What was reached, by the names under which it is shown."""
    null = {"null_space_reached": asdict(reached.null_reached)} if 1 - reached.alone.value > HIDDEN else {}
    return {
        "rank_alone": asdict(reached.alone),
        "rank": asdict(reached.rank),
        **null,
        "energy_missed_alone": asdict(reached.missed_alone),
        "energy_missed": asdict(reached.missed),
        "energy_reached": asdict(reached.energy_reached),
        "exposure": reached.exposure,
        "smallest_eigenvalue": reached.smallest,
        "steps": reached.steps,
    }
