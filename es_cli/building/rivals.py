"""Losses of deepinv beside equivariant splitting: built from the spec with what its context knows, and tried on two samples before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from deepinv.loss import AugmentConsistencyLoss, SplittingLoss
from deepinv.loss.mri import Phase2PhaseLoss
from torch import Tensor

from es_cli import catalog
from es_cli.building.forward_operator import Operator
from es_cli.building.parts import Builder
from es_cli.errors import LIBRARY_ERRORS, Fault, SpecError, out_of_memory, said
from es_cli.spec.schema import Component, Spec
from es_cli.splitting.group import Group
from es_cli.splitting.library_loss import LibraryLoss, SeededSplits
from es_cli.splitting.masks import Splitter, sampling_mask
from es_cli.splitting.objective import Equivariant, Objective, Pass
from es_cli.splitting.transforms import GroupTransform
from es_cli.streams import stream_seed

# parameters of losses that say how strong the noise is; left out, they are those of the operator's noise model
NOISE = ("sigma", "gain", "noise_model")


def splits_of_losses(spec: Spec) -> tuple[bool, Component | None]:
    """Whether a loss splits measurements, and the mask generator that stands inside one, or that SplittingLoss describes; None: the default."""
    splits = [term.loss for term in spec.losses if _takes_splits(term.loss)]
    for part in splits:
        own = part.parameters.get("mask_generator")
        if isinstance(own, Component):
            return True, own
        said = {name: part.parameters[name] for name in ("split_ratio", "pixelwise") if part.parameters.get(name) is not None}
        if said:
            return True, Component(name="BernoulliSplittingMaskGenerator", parameters={"split_ratio": 0.9, **said})
    return bool(splits), None


def _takes_splits(part: Component) -> bool:
    entry = catalog.find(part.name, ("loss",))
    return entry is not None and entry.parameter("mask_generator") is not None


def build_library_loss(
    part: Component, path: str, spec: Spec, operator: Operator, group: Group, splitter: Splitter | None, device: torch.device | str
) -> tuple[LibraryLoss, Component]:
    """The loss that `part` names, on `device`, and the part as the resolved spec keeps it.

    Filled in where the spec leaves it out: the mask generator and the group of the top level, the generator that drew the operator's
    mask, and the noise level of the operator. Raises SpecError for a loss that this operator or scale does not go with.
    """
    entry = catalog.find(part.name, ("loss",))
    known = set() if entry is None else {parameter.name for parameter in entry.parameters}
    _check_units(part, path, spec)
    context: dict[str, Any] = {"img_size": operator.measurement.shape}
    if spec.transforms.group != "trivial":
        context |= {"transform": GroupTransform(group), "T_e": GroupTransform(group)}
    if splitter is not None:
        context["mask_generator"] = SeededSplits(splitter, operator.measurement.shape)
    context |= _noise_levels(operator.physics)
    drawn = spec.physics.parameters.get("mask")
    filled = part
    if "physics_generator" in known - set(part.parameters) and isinstance(drawn, Component) and "physics" not in part.parameters:
        filled = Component(name=part.name, parameters={**part.parameters, "physics_generator": drawn})
    loss, kept = Builder(seed=spec.seed, device=device, context=context).build(filled, path, "loss")
    _check_fit(loss, path, operator)
    if isinstance(loss, SplittingLoss) and not isinstance(loss, Phase2PhaseLoss) and splitter is not None:
        loss.mask_generator = SeededSplits(splitter, operator.measurement.shape)
    follows = {name for name in NOISE if name in known and part.parameters.get(name) is None}
    written = {name: value for name, value in kept.parameters.items() if name in filled.parameters}
    return LibraryLoss(loss, path, follows).to(device), Component(name=part.name, parameters=written)


def _noise_levels(physics: Any) -> dict[str, float]:
    """σ and gain of the operator's noise, where they are numbers, in the units of the measurements."""
    levels = {name: getattr(physics.noise_model, name, None) for name in catalog.LEVELS}
    return {name: float(value) for name, value in levels.items() if isinstance(value, Tensor) and value.numel() == 1}


def _check_units(part: Component, path: str, spec: Spec) -> None:
    """A noise level that the loss is given is in raw units, and a scaled measurement is not."""
    scaled = spec.data is not None and spec.data.scale != "none"
    given = [name for name in NOISE if part.parameters.get(name) is not None]
    if scaled and given:
        what = f"{given[0]} is in the units of the measurements, which data.scale changes"
        raise SpecError([Fault(what, f"{path}.{given[0]}", "leave it out: it then follows physics.noise_model; or use scale: none")])
    if scaled and part.parameters.get("unsure"):
        what = "one noise level is learned for all samples, and data.scale gives each sample another"
        raise SpecError([Fault(what, f"{path}.unsure", "use scale: none")])


def _check_fit(loss: Any, path: str, operator: Operator) -> None:
    name = type(loss).__name__
    mask = getattr(operator.physics, "mask", None)
    if isinstance(loss, SplittingLoss) and isinstance(mask, Tensor) and mask.numel() > 1 and sampling_mask(operator.physics) is None:
        what = f"{name} takes the mask of {operator.part.name} for what was sampled, and it holds something else"
        raise SpecError([Fault(what, path, "use EquivariantSplittingLoss with transforms: {group: trivial}, which is splitting alone")])
    if isinstance(loss, Phase2PhaseLoss) and not loss.dynamic_model:
        what = f"{name} would average over time in a wrapper that the checkpoint does not keep"
        raise SpecError([Fault(what, f"{path}.dynamic_model", "leave it out, and name a network that takes sequences")])
    if isinstance(loss, AugmentConsistencyLoss) and not isinstance(loss.T_e, GroupTransform) and _chooses_anew(loss.T_e):
        what = f"{name} without transforms compares an image that was shifted with one that was turned (deepinv draws which one anew each time)"
        raise SpecError([Fault(what, path, "add transforms: {group: shifts} at the top level of the spec")])


def _chooses_anew(transform: Any) -> bool:
    """Whether a deepinv transform is `t1 | t2`: it draws which of the two at each use, and its parameters do not say which."""
    return hasattr(transform, "recent_choice")


def try_losses(objective: Objective, y: Tensor, physics: Any, x: Tensor | None, seed: int, scale: Tensor | None = None) -> None:
    """SpecError where a loss of deepinv cannot be computed for the samples y (B, …): found now, not at the first step."""
    faults = list(_complaints(objective, Pass(objective.network, physics, y, x, stream_seed(seed, "try"), scale)))
    if faults:
        raise SpecError(faults)


def _complaints(objective: Objective, batch: Pass) -> Iterator[Fault]:
    for i, term in enumerate(objective.terms):
        judged = term.term if isinstance(term, Equivariant) else term
        if not isinstance(judged, LibraryLoss):
            continue
        name = type(judged.loss).__name__
        try:
            with torch.no_grad():
                value = float(term(batch))
        except LIBRARY_ERRORS as error:
            if out_of_memory(error):
                raise
            yield Fault(f"{name} cannot be computed for these data: {said(error)}", f"losses.{i}", "see its documentation for the operators it is made for")
            continue
        if value != value or value in {float("inf"), float("-inf")}:
            yield Fault(f"{name} is {value} for these data", f"losses.{i}", "see its documentation for the operators it is made for")
