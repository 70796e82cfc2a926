"""The second section of `es check`: do the transforms of the spec act as they should, and does the operator see images anew under them?

Where T_gᵀAᵀA T_g = AᵀA for every g, all virtual operators A T_g see the same part of an image, and the group teaches nothing about the rest
(METHOD.md, section 5.1). AᵀA is compared, since A T_g and T_g A may live in different spaces. The converse does not hold: rotations of a square move
its corners, and interpolation moves a little everywhere. So what counts is how much A sees of T_g u, for u that A does not see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor, nn

from es_cli.diagnostics.algebra import DAMPING, probe_images, samples_of, spectrum, steps_for, unseen_fraction, unseen_part
from es_cli.diagnostics.finding import Finding, Verdict
from es_cli.diagnostics.operator import looked_at
from es_cli.errors import SpecError
from es_cli.experiment import Experiment
from es_cli.splitting.group import IDENTITY, Element, Group, named_group
from es_cli.splitting.library_loss import LibraryLoss
from es_cli.splitting.objective import Equivariant, EquivariantSplitting, Objective
from es_cli.splitting.parameters import of_one_sample
from es_cli.splitting.sparse_radon import with_sparse_radon
from es_cli.splitting.transforms import TOLERANCE, GroupTransform, TransformGroup, element_defects
from es_cli.streams import stream_seed

SECTION = "transforms"
# in the order in which they are proposed: shifts come last, since what leaves an image comes back at the other side
NAMED = ("D4", "C4", "reflections", "rotations", "shifts")
# the energy of what differs is the square of the defect: below this, none of it is left in float32
NOTHING = math.sqrt(torch.finfo(torch.float32).eps)
# what a rotation shows of all that a round blur hides is the edge of the image, which comes back at the other side: a third of a per cent at 32 × 32
ENOUGH = 5 * DAMPING
DIFFER = 0.05  # a defect between the operators of two samples whose energy is more than a quarter of a per cent
FEWEST = 12  # steps towards what A does not see; with fewer, what it sees badly passes for it
HIDDEN = 0.01  # of the dimensions of images: what A must leave unseen before a group is asked for
# losses that judge A x̂ against y alone and split nothing: whatever A does not see they leave as the network has it
CONSISTENCY_ONLY = ("MCLoss", "R2RLoss", "SureGaussianLoss", "SurePoissonLoss", "SurePGLoss", "ScoreLoss")


@dataclass(frozen=True)
class ElementErrors:
    """Of one element T: ‖T⁻¹T x − x‖ / ‖x‖, ‖T⁻¹z − Tᵀz‖ / ‖z‖, and the operator defect, None where that was not measured."""

    label: str
    round_trip: float
    adjoint: float
    defect: float | None


def tried_elements(group: Group, count: int, seed: int) -> list[Element]:
    """All elements of a group of at most `count`; else about `count`: half are those that evaluation takes, half are drawn."""
    if group.size is not None and group.size <= count:
        return group.representatives(count, seed)
    drawn = group.sample(math.ceil(count / 2), stream_seed(seed, "drawn"))
    return list({element.label: element for element in [*group.representatives(count // 2, seed)[: count // 2], *drawn]}.values())


def operator_defect(physics: Any, elements: Sequence[Element], x: Tensor) -> float:
    """max over g and samples of ‖T_gᵀAᵀA T_g x − AᵀA x‖ / ‖AᵀA x‖ for images x (B, C, …, H, W); B as many as the operator has parameters of, or
    any number where it has none. 0 where the group teaches nothing about what A does not see. T⁻¹ stands for Tᵀ.
    """
    seen = physics.A_adjoint(physics.A(x))
    defects = [_relative(element.inverse(physics.A_adjoint(physics.A(element.act(x)))), seen) for element in elements]
    return max(defects, default=0.0)


def sample_variation(physics: Any, image_shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> float:
    """max over samples of ‖A_iᵀA_i x − A_1ᵀA_1 x‖ / ‖A_1ᵀA_1 x‖: 0 where all samples were measured with one operator.

    Where they were not, one sees what another does not, without any group.
    """
    count = samples_of(physics)
    if count == 1:
        return 0.0
    x = probe_images(1, image_shape, seed, device).expand(count, *image_shape)
    seen = physics.A_adjoint(physics.A(x))
    return _relative(seen, seen[:1].expand_as(seen))


def newly_seen(physics: Any, elements: Sequence[Element], unseen: Tensor, norm: float) -> float:
    """max over g and samples of ‖A T_g u‖² / (‖A‖² ‖u‖²): what share A sees of images u (B, C, …, H, W), which it does not see, once they are moved.

    `norm` is ‖A‖; see `unseen_part` for u. At most `DAMPING` where the group teaches nothing. 0 where u is 0.
    """
    size = norm**2 * unseen.flatten(1).square().sum(1).clamp(min=torch.finfo(unseen.dtype).tiny)
    shares = [float((physics.A(element.act(unseen)).flatten(1).square().sum(1) / size).max()) for element in elements]
    return max(shares, default=0.0)


def groups_that_teach(physics: Any, unseen: Tensor, norm: float, seed: int, count: int = 4) -> dict[str, float]:
    """What is newly seen under each group that can be named for images u that A does not see, by name, where that is enough to count.

    Of the elements of an infinite group, `count` are tried.
    """
    found = {}
    for name in NAMED:
        try:
            group = named_group(name, unseen.shape)
        except SpecError:  # not for images that are no squares
            continue
        share = newly_seen(physics, tried_elements(group, count if group.size is None else group.size, stream_seed(seed, name)), unseen, norm)
        if share > enough(physics, unseen, norm):
            found[name] = share
    return found


def enough(physics: Any, unseen: Tensor, norm: float) -> float:
    """The share of u that A must see anew: more than edges make, and twice what it sees of u as it is, where solving for u was cut short."""
    return max(ENOUGH, 2 * newly_seen(physics, [IDENTITY], unseen, norm))


def groups_of_losses(objective: Objective, image_shape: Sequence[int]) -> list[Group]:
    """The groups that the losses of an objective move images by, each once; [] where none does. Those of one element teach nothing."""
    found: dict[int, Group] = {}
    for term in objective.terms:
        for group in _groups_of(term, image_shape):
            found.setdefault(id(group), group)
    return [group for group in found.values() if group.size != 1]


def _groups_of(term: nn.Module, image_shape: Sequence[int]) -> list[Group]:
    if isinstance(term, EquivariantSplitting):
        return [term.group]
    if isinstance(term, Equivariant):
        return [term.group, *_groups_of(term.term, image_shape)]
    if not isinstance(term, LibraryLoss):
        return []
    # equivariant imaging calls it T, VORTEX T_e
    own = [one for name in ("T", "T_e") if (one := getattr(term.loss, name, None)) is not None]
    return [one.group if isinstance(one, GroupTransform) else TransformGroup([one], image_shape) for one in own]


def transforms_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """Whether the transforms are undone, orthogonal and exact on these images, and whether the operator sees images anew under them.

    No where losses that rely on a group have one under which A sees nothing new, and A does not see everything. `quick` tries fewer elements.
    """
    with torch.no_grad():
        return _found(experiment, quick)


def _found(experiment: Experiment, quick: bool) -> Finding:
    seed, device = stream_seed(experiment.spec.seed, "check-transforms"), torch.device(experiment.operator.device)
    positions = next(looked_at(experiment.train, 2 if quick else 4, 1))
    y, _, physics, _ = experiment.reconstruction.batch(experiment.train, positions, device)
    physics = with_sparse_radon(physics)
    shape = experiment.operator.image.fitted(tuple(y.shape[1:])).shape
    groups = groups_of_losses(experiment.objective, shape)
    tried = [element for group in groups or [experiment.reconstruction.group] for element in tried_elements(group, 4 if quick else 8, seed)]
    numbers: dict[str, Any] = {"group": group_name(experiment, groups), "elements": len(tried), "listed": all(group.size is not None for group in groups)}
    linear = isinstance(physics, LinearPhysics)
    x = probe_images(samples_of(physics), shape, stream_seed(seed, "probe"), device)
    numbers |= _numbers_of(measured_elements(physics if linear else None, tried, x))
    if not linear:
        return Finding(SECTION, "good", "the operator is not linear: what a group adds to it cannot be measured", "", numbers)
    steps = max(FEWEST, steps_for(shape, quick))
    norm = spectrum(physics, shape, 4, seed, device).norm
    numbers["unseen"] = unseen_fraction(physics, shape, norm, steps, seed, device)
    numbers["operators_differ"] = sample_variation(physics, shape, stream_seed(seed, "variation"), device)
    first = of_one_sample(physics, 0)
    unseen = unseen_part(first, x[:1], norm, steps)
    numbers["newly_seen"] = newly_seen(first, tried, unseen, norm)
    numbers["enough"] = enough(first, unseen, norm)
    return _judged(experiment, numbers, bool(groups), lambda: groups_that_teach(first, unseen, norm, seed))


def measured_elements(physics: Any, elements: Sequence[Element], x: Tensor) -> list[ElementErrors]:
    """The errors of elements on images like x (B, C, …, H, W); `physics` None: without the operator defect."""
    found = []
    for element in elements:
        errors = element_defects([element], tuple(x.shape[1:]), x.device)
        defect = None if physics is None or not math.isfinite(errors.round_trip) else operator_defect(physics, [element], x)
        found.append(ElementErrors(element.label, errors.round_trip, errors.adjoint, defect))
    return found


def group_name(experiment: Experiment, groups: Sequence[Group]) -> str:
    """The name of what moves images, as the spec has it."""
    chosen = experiment.spec.transforms
    own = [group for group in groups if isinstance(group, TransformGroup)]
    if own and (chosen.train is not None or groups == own):
        return " and ".join(" · ".join(type(one).__name__ for one in group.transforms) for group in own)
    return chosen.group or "trivial"


def _numbers_of(errors: Sequence[ElementErrors]) -> dict[str, Any]:
    """The worst of the elements, and each by its label."""
    defects = [one.defect for one in errors if one.defect is not None]
    each = {one.label: {"round_trip": one.round_trip, "adjoint": one.adjoint, "operator_defect": one.defect} for one in errors}
    return {
        "round_trip": max(one.round_trip for one in errors),
        "not_orthogonal": max(one.adjoint for one in errors),
        "exact": all(one.round_trip == 0 for one in errors),
        "operator_defect": max(defects, default=None),
        "each": each,
    }


def _judged(experiment: Experiment, numbers: dict[str, Any], relies: bool, others: Callable[[], dict[str, float]]) -> Finding:
    """The verdict on what was measured; `relies`: a loss moves images by a group of more than one element; `others` measures what else would teach."""
    group, unseen = numbers["group"], f"{100 * numbers['unseen']:.0f} % of the dimensions of images"
    defect, share = numbers["operator_defect"] or 0.0, numbers["newly_seen"]

    def found(verdict: Verdict, reason: str, advice: str = "") -> Finding:
        return Finding(SECTION, verdict, reason, advice, numbers)

    if numbers["round_trip"] > TOLERANCE:
        lost = f"{100 * numbers['round_trip']:.3g} %"
        return found("doubtful", f"{group} is not undone by its inverse on these images: {lost} of a random image is lost", "use group: D4, reflections or shifts")
    if numbers["unseen"] <= HIDDEN:
        return found("good", "the operator sees all of an image: there is nothing for a group to reach")
    if experiment.objective.needs_ground_truth:
        said = f"; under {group} the operator would see {100 * share:.2g} % of what it does not see" if relies else ""
        return found("good", f"the losses compare with ground truth, and need no group{said}")
    if numbers["operators_differ"] > DIFFER:
        return found("good", f"the samples have operators of their own, each of which sees what others do not ({numbers['operators_differ']:.2g} apart)")
    if relies and defect > NOTHING and share > numbers["enough"]:
        if numbers["not_orthogonal"] > TOLERANCE:
            what = f"{group} is not orthogonal: its inverse is {100 * numbers['not_orthogonal']:.2g} % off its adjoint"
            return found("doubtful", what, "use group: rotations, whose inverses are their adjoints, or D4")
        return found("good", f"under {group} the operator sees images anew: {100 * share:.2g} % of what it does not see, which is {unseen}")
    numbers["would_teach"] = would = others()
    instead = instead_of(would, solved=numbers["enough"] <= ENOUGH)
    if relies and (defect <= NOTHING or share <= DAMPING):
        what = f"this group teaches nothing about what A does not see, {unseen}: {group} has an operator defect of {defect:.1g}, and shows {100 * share:.1g} % of it"
        return found("no", what, instead)
    if relies:
        what = f"{group} teaches next to nothing about what the operator does not see, {unseen}: it shows {100 * share:.1g} % of it"
        return found("doubtful", what, instead)
    return found(*without_group(experiment.objective, unseen, instead))


def without_group(objective: Objective, unseen: str, instead: str) -> tuple[Verdict, str, str]:
    """What to say of losses none of which moves images."""
    losses = [library(term) for term in objective.terms]
    if any(getattr(loss, "physics_generator", None) is not None for loss in losses):
        return "good", "no loss moves images by a group; one draws other operators, which see what this one does not", ""
    if all(type(loss).__name__ in CONSISTENCY_ONLY for loss in losses):
        return "no", f"the losses compare with the measurements alone, and nothing teaches what the operator does not see, {unseen}", instead
    return "doubtful", f"no loss moves images by a group: what the operator does not see, {unseen}, is left to splits and to the symmetries of the network", instead


def library(term: nn.Module) -> Any:
    """The loss of deepinv within a term; the term itself where there is none."""
    return term.loss if isinstance(term, LibraryLoss) else term


def instead_of(would: dict[str, float], solved: bool) -> str:
    """What to do where a group teaches nothing, by the groups that would; `solved`: what A does not see is known well enough to say that none would."""
    if not would and not solved:
        return "let the whole check find a group that would"
    if not would:
        return "no group that has a name here teaches anything about this operator; give samples operators of their own, or ground truth"
    # some elements were tried on one image: half as much is as good
    names = sorted(would, key=lambda name: 2 * would[name] < max(would.values()))
    use = f"use EquivariantSplittingLoss with transforms: {{group: {names[0]}}}"
    return use + (f"; {', '.join(names[1:])} would teach too" if names[1:] else "")


def _relative(made: Tensor, wanted: Tensor) -> float:
    """The largest relative error of a sample of (B, …)."""
    wrong, size = (torch.linalg.vector_norm(one.flatten(1), dim=1) for one in (made - wanted, wanted))
    return float((wrong / size.clamp(min=torch.finfo(wanted.dtype).tiny)).max())
