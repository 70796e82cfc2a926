"""The mask generator of a spec, fitted to what the operator measures, and refused before training where the two contradict each other."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import MRI, Denoising, Inpainting, LinearPhysics, MultiCoilMRI, Tomography
from deepinv.physics.generator import BernoulliSplittingMaskGenerator

from es_cli.building.forward_operator import Operator
from es_cli.building.parts import Builder
from es_cli.errors import LIBRARY_ERRORS, Fault, SpecError, out_of_memory, said
from es_cli.spec.schema import Component
from es_cli.splitting.generators import AngleSplittingMaskGenerator, LineSplittingMaskGenerator
from es_cli.splitting.masks import Splitter, draw_split, split_axes, units
from es_cli.splitting.operators import sampling_mask
from es_cli.streams import generator, stream_seed

ADJOINT_TOLERANCE = 0.03  # of ⟨x, AᵀA x⟩ against ‖A x‖²; deepinv's fast back-projection, which interpolates, errs by 0.01
PATH = "mask_generator"


def default_part(physics: Any) -> Component:
    """What splits where the spec says nothing: deepinv's 0.9 of the pixels, points, frames or entries; the paper's 0.6 of the angles for CT."""
    if isinstance(physics, Tomography):
        return Component(name=AngleSplittingMaskGenerator.__name__, parameters={"split_ratio": 0.6})
    return Component(name=BernoulliSplittingMaskGenerator.__name__, parameters={"split_ratio": 0.9, "pixelwise": True})


def build_splitter(part: Component | None, operator: Operator, seed: int, device: torch.device) -> tuple[Splitter, Component]:
    """The splits of `operator` by the generator `part` (None: the default), and the part with its size written out.

    Raises SpecError, saying which shape is wanted, where the generator does not fit the measurement or leaves nothing to predict, and where
    the operator cannot be split.
    """
    physics, shape = operator.physics, operator.measurement.shape
    _check_splittable(operator)
    given = part or default_part(physics)
    mask_shape = generator_shape(physics, shape)
    _check_size(given.parameters.get("img_size"), mask_shape)
    built, kept = Builder(seed=seed, device=device, context={"img_size": mask_shape}).build(given, PATH, "generator")
    pixelwise = getattr(built, "pixelwise", True) is not False
    if not pixelwise and isinstance(physics, (MRI, MultiCoilMRI)):
        what = "real and imaginary part of a point of k-space are measured together and cannot be split"
        raise SpecError([Fault(what, f"{PATH}.pixelwise", "leave pixelwise out")])
    _check_axis(built, physics, shape)
    if operator.measurement.free and not (type(built) is BernoulliSplittingMaskGenerator or isinstance(built, LineSplittingMaskGenerator)):
        what = f"{type(built).__name__} draws masks of one size, and the samples have several"
        raise SpecError([Fault(what, PATH, "use BernoulliSplittingMaskGenerator or LineSplittingMaskGenerator")])
    splitter = Splitter(built, split_axes(physics, len(shape) + 1, pixelwise))
    _check_draw(splitter, operator, mask_shape)
    return splitter, kept


def generator_shape(physics: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The img_size of a generator for measurements of `shape` (C, …): without the coils, which share a split."""
    return (shape[0], *shape[2:]) if isinstance(physics, MultiCoilMRI) else shape


def count_folds(splitter: Splitter, operator: Operator, wanted: int | None, path: str) -> int:
    """How many complementary splits there are: `wanted`, or None as many as leave out each what the split ratio does, but two at least.

    Raises SpecError, at `path`, where the measurement has not so many units, and where the generator's splits make no partition.
    """
    mask, generator = sampling_mask(operator.physics), splitter.generator
    most = int(units(splitter, (1 if mask is None else len(mask), *operator.measurement.shape), mask).max())
    if most < (wanted or 2):
        where, hint = (f"{path}.folds", f"give folds: {most} or less") if wanted and most > 1 else (f"{path}.splits", "use random splits")
        raise SpecError([Fault(f"a split can leave out {most} of each measurement, one at a time, too few for {wanted or 2} folds", where, hint)])
    if wanted is not None:
        return wanted
    ratio = (generator.min_split_ratio + generator.max_split_ratio) / 2 if generator.random_split_ratio else generator.split_ratio
    return most if ratio >= 1 else max(2, min(most, round(1 / (1 - ratio))))


def _check_size(given: Any, wanted: tuple[int, ...]) -> None:
    """SpecError for masks of more entries than a measurement has: generators draw all of them before anybody sees that they do not fit."""
    if isinstance(given, (list, tuple)) and all(isinstance(n, int) for n in given) and math.prod(given) > 2 * math.prod(wanted):
        raise SpecError([Fault(f"splits of shape {tuple(given)} for measurements of shape {wanted}", f"{PATH}.img_size", f"leave img_size out, or give {list(wanted)}")])


def _check_axis(built: Any, physics: Any, shape: tuple[int, ...]) -> None:
    if isinstance(built, AngleSplittingMaskGenerator) and not isinstance(physics, Tomography):
        raise SpecError([Fault("this generator splits the angles of a sinogram, and the operator measures none", PATH, "use BernoulliSplittingMaskGenerator")])
    if isinstance(built, LineSplittingMaskGenerator) and not -len(shape) <= built.dim <= -1:
        raise SpecError([Fault(f"measurements of shape {shape} have no axis {built.dim}", f"{PATH}.dim", "give -1 for columns, -2 for rows")])


def _check_draw(splitter: Splitter, operator: Operator, wanted: tuple[int, ...]) -> None:
    """One split of each of two samples, drawn as training draws them."""
    shape = operator.measurement.shape
    mask = sampling_mask(operator.physics)
    hint = f"leave img_size out, or give {list(wanted)}"
    size = getattr(splitter.generator, "img_size", wanted)
    # masks of the right rank but another size would be fitted or made anew in silence
    if tuple(size)[-1] != wanted[-1] or (len(size) > 1 < len(wanted) and tuple(size)[-2] not in (1, wanted[-2])):
        raise SpecError([Fault(f"splits of shape {tuple(size)} for measurements of shape {wanted}", f"{PATH}.img_size", hint)])
    try:
        split = draw_split(splitter, (2, *shape), mask, seed=0).cpu()
    except LIBRARY_ERRORS as error:
        if out_of_memory(error):
            raise
        what = f"no split of measurements of shape {wanted} can be drawn: {said(error, 160)}"
        raise SpecError([Fault(what, PATH, f"{hint}, and a split_ratio between 0 and 1")]) from error
    rest = (1 if mask is None else mask.cpu()) - split
    if not bool(rest.flatten(1).any(1).all()):
        lines = getattr(splitter.generator, "center_lines", 0)
        what = f"the {lines} central lines are all that was acquired" if lines else "only one entry of each measurement can be split off"
        raise SpecError([Fault(f"{what}, so that nothing is left to predict", PATH, "lower center_lines" if lines else "measure more than one")])


def _check_splittable(operator: Operator) -> None:
    """SpecError for an operator whose measurements cannot be split: not linear, or with an adjoint that is not its own."""
    physics, name = operator.physics, operator.part.name
    if not isinstance(physics, LinearPhysics):
        raise SpecError([Fault(f"splitting needs a linear operator, and {name} is not", "physics")])
    if isinstance(physics, (Inpainting, Denoising)) or type(physics) in (MRI, MultiCoilMRI):
        return
    device = next((buffer.device for buffer in physics.buffers()), torch.device("cpu"))
    x = torch.randn(1, *operator.image.shape, generator=generator(stream_seed(0, "adjointness"))).to(device)
    with torch.no_grad():
        y = physics.A(x)
        back = physics.A_adjoint(y)
    energy = y.abs().square().sum()  # what measures complex numbers is none of ours, and is answered too
    if back.shape != x.shape or bool((energy - (x * back).sum()).abs() > ADJOINT_TOLERANCE * energy):
        what = f"the adjoint of {name} is not that of its forward operator, which gradients and splits rely on"
        raise SpecError([Fault(what, "physics", "use another operator")])
