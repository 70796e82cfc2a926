"""Spec → Experiment: data, operator, network, group, splits and losses as live objects; and what a checkpoint needs to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from deepinv.loss import Loss, MCLoss, SupLoss
from deepinv.physics import MRI, GaussianNoise, Inpainting, LinearPhysics, MultiCoilMRI, ZeroNoise
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from deepinv.transform import Identity, Reflect, Rotate, Shift
from torch import Tensor, nn

from es_cli.building import Builder
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements, Samples, hold_out, not_finite
from es_cli.data.simulate import simulate
from es_cli.data.stacks import ArrayStack, find_nonfinite, open_stack
from es_cli.errors import DataError, Fault, SpecError
from es_cli.forward_operator import Operator, as_samples, build_operator
from es_cli.networks.fitting import check_network
from es_cli.spec.schema import Component, Pair, Source, Spec
from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.group import IDENTITY, Batch, Group, TransformGroup, named_group
from es_cli.splitting.objective import EquivariantSplitting, LibraryLoss, Objective
from es_cli.splitting.virtual import virtual_operator, with_noise
from es_cli.streams import stream_seed

EQUIVARIANT_SPLITTING = "EquivariantSplittingLoss"


@dataclass(frozen=True)
class Scaling:
    """`data.scale`: what y, x, σ and gain of a sample are divided by before the network, and images multiplied by after it.

    `mode` is "none", a number, or "per-sample": the 99th percentile of |Aᵀy|, or its maximum, or 1, whichever is not 0 first.
    """

    mode: str | float

    def of(self, y: Tensor, physics: Any) -> Tensor | None:
        """The scale of each sample of y (B, …), shape (B,), in the units of y; None where nothing is scaled."""
        if self.mode == "none":
            return None
        if not isinstance(self.mode, str):
            return torch.full((len(y),), float(self.mode), device=y.device)
        x = physics.A_adjoint(y)
        size = (torch.linalg.vector_norm(x, dim=1) if is_pair(physics) else x.abs()).flatten(1)
        scale = torch.quantile(size, 0.99, dim=1)
        scale = torch.where(scale > 0, scale, size.amax(1))
        return torch.where(scale > 0, scale, 1.0)

    def apply(self, scale: Tensor | None, y: Tensor, physics: Any) -> tuple[Tensor, Any]:
        """y and the physics in units in which the network works."""
        if scale is None:
            return y, physics
        noise = physics.noise_model
        if isinstance(noise, GaussianNoise):
            physics = with_noise(physics, GaussianNoise(sigma=noise.sigma / scale))
        return y / _per_sample(scale, y), physics


@dataclass(frozen=True)
class Reconstruction:
    """A network with all that making images from raw measurements takes."""

    network: nn.Module
    operator: Operator
    scaling: Scaling
    group: Group
    rule: TestRule
    splitter: Any
    seed: int

    def __call__(self, y: Tensor, rule: TestRule | None = None, max_batch: int = 32) -> Tensor:
        """Images (B, C, H, W) from measurements y (B, …), both in the user's units."""
        physics = self.operator.physics
        scale = self.scaling.of(y, physics)
        scaled, scaled_physics = self.scaling.apply(scale, y, physics)
        with torch.inference_mode():
            x = average(self.network, scaled, scaled_physics, rule or self.rule, self.group, self.splitter, seed=self.seed, max_batch=max_batch)
        return x if scale is None else x * _per_sample(scale, x)


@dataclass(frozen=True)
class Experiment:
    """Everything that training touches. `train` has ground truth only where the spec names a supervised loss."""

    spec: Spec
    resolved: Spec
    operator: Operator
    objective: Objective
    reconstruction: Reconstruction
    train: Measurements
    validation: Measurements
    test: Measurements | None

    @property
    def network(self) -> nn.Module:
        return self.objective.network


def is_pair(physics: Any) -> bool:
    """Whether images are complex, as two channels."""
    return isinstance(physics, (MRI, MultiCoilMRI))


def build_experiment(spec: Spec, device: torch.device) -> Experiment:
    """Data, operator, network and losses of a spec on `device`.

    Raises SpecError, DataError or DeviceError before anything is trained.
    """
    if spec.data is None:
        raise SpecError([Fault("there are no data to train on", "data", "add data.train: {measurements: FILE}")])
    source = spec.data.train
    pictures = source.measurements is None
    stack = as_samples(_open(source.images if pictures else source.measurements, pictures, spec.seed), spec.physics)
    operator = build_operator(spec.physics, stack, pictures, spec.seed)
    scaling = _scaling(spec, operator)
    train = _measurements(source, operator, spec.seed, "train", stack)
    if isinstance(spec.data.validation, Pair):
        validation = _measurements(spec.data.validation, operator, spec.seed, "validation")
    else:
        train, validation = hold_out(train, spec.data.validation, stream_seed(spec.seed, "validation"))
    test = None if spec.data.test is None else _measurements(spec.data.test, operator, spec.seed, "test")
    operator = operator.to(device)
    reconstruction, parts = build_reconstruction(spec, operator, scaling, device)
    objective, losses = _objective(spec, reconstruction, device)
    resolved = spec.model_copy(update={**parts, "physics": operator.part, "losses": losses})
    if not objective.needs_ground_truth:
        train = train.without_ground_truth()
    elif train.x is None:
        raise SpecError([Fault("a loss of this spec compares with ground truth, and data.train has no images", "losses", "add data.train.images, or use a loss of measurements alone")])
    _check_network(reconstruction, train, device)
    return Experiment(spec, resolved, operator, objective.to(device), reconstruction, train, validation, test)


def _check_network(made: Reconstruction, data: Measurements, device: torch.device) -> None:
    """SpecError where the network cannot be trained on batches of the operator's shape: found now, not at the first step."""
    y, _ = data.batch([0, len(data) - 1], device)
    g = Batch(made.group.draw(1, made.seed))
    check_network(made.network, y, virtual_operator(made.operator.physics, g, made.group.orthogonal), made.operator.image.shape)


def build_reconstruction(spec: Spec, operator: Operator, scaling: Scaling, device: torch.device) -> tuple[Reconstruction, dict[str, Any]]:
    """The bare network, with fresh weights, and how it is averaged at evaluation; and the parts of the resolved spec."""
    torch.manual_seed(stream_seed(spec.seed, "weights"))
    network, model = Builder(seed=spec.seed, context={"img_size": operator.image.shape}).build(spec.model, "model", "model")
    group = _group(spec, operator)
    splitter, generator_part = _splitter(spec, operator, device)
    rule = _test_rule(spec, operator, group)
    made = Reconstruction(network.to(device), operator, scaling, group, rule, splitter, stream_seed(spec.seed, "test"))
    return made, {"model": model, "mask_generator": generator_part}


def _open(source: Source | None, pictures: bool, seed: int) -> Samples:
    """The stack of a source, scanned for what is not finite where that does not take long; otherwise each batch is checked as it is read."""
    assert source is not None  # a Pair has measurements or images
    stack = open_stack(source, pictures=pictures, seed=stream_seed(seed, "pictures"))
    bad = find_nonfinite(stack)
    if bad is not None:
        raise not_finite(bad, stack.names[bad])
    return stack


def _measurements(pair: Pair, operator: Operator, seed: int, purpose: str, opened: Samples | None = None) -> Measurements:
    """The samples of one part of the data; measured once from images, with one operator and one noise draw each, where only images are given."""
    part = operator.part
    if pair.measurements is None:
        images = opened or as_samples(_open(pair.images, True, seed), part)
        x = ArrayStack(_as_images(images, operator.image), list(images.names), images.groups)
        y = ArrayStack(simulate(x.array, operator.physics, stream_seed(seed, "simulate-" + purpose)), x.names, x.groups)
        return Measurements(y, operator.measurement, np.arange(len(y)), x, operator.image)
    y_stack = opened or as_samples(_open(pair.measurements, False, seed), part)
    operator.measurement.arrange(y_stack.read([0]), y_stack.names[0])
    x_stack = None if pair.images is None else as_samples(_open(pair.images, True, seed), part)
    if x_stack is not None and len(x_stack) != len(y_stack):
        raise DataError(f"{len(x_stack)} images for {len(y_stack)} measurements", where=x_stack.names[0], hint="give one image for each measurement, in the same order")
    return Measurements(y_stack, operator.measurement, np.arange(len(y_stack)), x_stack, None if x_stack is None else operator.image)


def _as_images(stack: Samples, layout: Layout) -> np.ndarray:
    """All images of a stack, float32 (n, *layout.shape); real pictures get a zero imaginary part where the operator measures complex ones."""
    raw = stack.read(range(len(stack)))
    if layout.pair and not np.iscomplexobj(raw) and raw.shape[1:] != layout.shape:
        grey = raw.reshape(len(raw), *raw.shape[-2:]) if raw.size == len(raw) * raw.shape[-1] * raw.shape[-2] else None
        if grey is None:
            raise DataError(f"pictures of shape {raw.shape[1:]} for complex images", where=stack.names[0], hint="add grey: true to data.train.images")
        raw = grey.astype(np.complex64)
    array, _ = layout.arrange(raw, stack.names[0])
    return array


def _scaling(spec: Spec, operator: Operator) -> Scaling:
    mode = "none" if spec.data is None else spec.data.scale
    check_scalable(mode, operator)
    return Scaling(mode)


def check_scalable(mode: str | float, operator: Operator) -> None:
    """SpecError where dividing the measurements by a number is not the same as dividing the image."""
    physics = operator.physics
    homogeneous = isinstance(physics, LinearPhysics) and isinstance(physics.noise_model, (ZeroNoise, GaussianNoise))
    if mode != "none" and not homogeneous:
        name = operator.part.name if not isinstance(physics, LinearPhysics) else type(physics.noise_model).__name__
        raise SpecError([Fault(f"{name} does not scale with the image", "data.scale", "use scale: none")])


def _group(spec: Spec, operator: Operator) -> Group:
    chosen = spec.transforms
    if chosen.train is None:
        return named_group(chosen.group or "trivial", operator.image.shape)
    return _transform_group(chosen.train, "transforms.train", operator, spec.seed)


def _transform_group(parts: Sequence[Component], path: str, operator: Operator, seed: int) -> TransformGroup:
    built = [Builder(seed=seed).build(part, f"{path}.{i}", "transform")[0] for i, part in enumerate(parts)]
    height, width = operator.image.shape[-2:]
    for i, one in enumerate(built):
        if isinstance(one, Rotate) and one.multiples % 180 and height != width:
            raise SpecError([Fault(f"Rotate turns images of {height} × {width} pixels by angles that do not fit them", f"{path}.{i}", "crop to squares, or rotate by 180°")])
    transform = built[0]
    for other in built[1:]:
        transform = transform * other
    return TransformGroup(transform, operator.image.shape, all(_exact(one) for one in built))


def _exact(transform: Any) -> bool:
    """Whether a deepinv transform permutes pixels, so that its inverse is its adjoint."""
    return isinstance(transform, (Identity, Reflect, Shift)) or (isinstance(transform, Rotate) and transform.multiples % 90 == 0)


def _splitter(spec: Spec, operator: Operator, device: torch.device) -> tuple[Any, Component | None]:
    """The mask generator of the spec; deepinv's default, Bernoulli with 0.9 of the pixels, where equivariant splitting is asked for without one."""
    part = spec.mask_generator
    if part is None:
        if not any(term.loss.name == EQUIVARIANT_SPLITTING for term in spec.losses) and not spec.test.splits:
            return None, None
        part = Component(name=BernoulliSplittingMaskGenerator.__name__, parameters={"split_ratio": 0.9, "pixelwise": True})
    shape = operator.measurement.shape
    built, kept = Builder(seed=spec.seed, device=device, context={"img_size": shape}).build(part, "mask_generator", "generator")
    if isinstance(operator.physics, (MRI, Inpainting)) and tuple(getattr(built, "img_size", shape))[-2:] != shape[-2:]:
        raise SpecError([Fault(f"splits of shape {tuple(built.img_size)} for measurements of shape {shape}", "mask_generator.img_size", f"leave img_size out, or give {list(shape)}")])
    return built, kept


def _test_rule(spec: Spec, operator: Operator, group: Group) -> TestRule:
    test = spec.test
    if not isinstance(test.group, str):
        eval_group = _transform_group(test.group, "test.group", operator, spec.seed)
        return TestRule(test.splits, tuple(eval_group.elements()))
    if test.group == "trivial":
        return TestRule(test.splits)
    if test.group == "random" or group.size is None:
        return TestRule(test.splits, (IDENTITY,), draws=test.samples)
    return TestRule(test.splits, tuple(group.elements()))


def _objective(spec: Spec, made: Reconstruction, device: torch.device) -> tuple[Objective, tuple[Any, ...]]:
    terms: list[tuple[str, float, nn.Module]] = []
    resolved = []
    builder = Builder(seed=spec.seed, device=device)
    for i, term in enumerate(spec.losses):
        if term.loss.name == EQUIVARIANT_SPLITTING:
            module: nn.Module = _equivariant_splitting(term.loss, f"losses.{i}", made, builder)
            kept = term.loss
        else:
            module, kept = _library_loss(term.loss, f"losses.{i}", spec, made, builder)
        names = [name for name, _, _ in terms]
        name = term.loss.name if term.loss.name not in names else f"{term.loss.name}-{i}"
        terms.append((name, term.weight, module))
        resolved.append(term.model_copy(update={"loss": kept}))
    return Objective(made.network, terms), tuple(resolved)


def _equivariant_splitting(part: Component, path: str, made: Reconstruction, builder: Builder) -> EquivariantSplitting:
    """The loss with its two sides; left out, a side is MCLoss, and null switches it off."""
    sides: list[nn.Module | None] = []
    for side in ("consistency_loss", "prediction_loss"):
        given = part.parameters.get(side, Component(name="MCLoss", parameters={}))
        if given is None:
            sides.append(None)
            continue
        if not isinstance(given, Component) or given.name != "MCLoss":
            name = given.name if isinstance(given, Component) else given
            raise SpecError([Fault(f"{name} cannot be a side of equivariant splitting yet", f"{path}.{side}", "use MCLoss with any metric, or null")])
        sides.append(builder.build(given, f"{path}.{side}", "loss")[0])
    if sides == [None, None]:
        raise SpecError([Fault("both sides of the loss are switched off", path, "leave prediction_loss out")])
    if not isinstance(made.operator.physics, LinearPhysics):
        raise SpecError([Fault(f"equivariant splitting needs a linear operator, and {made.operator.part.name} is not", "physics")])
    for loss in sides:
        assert loss is None or isinstance(loss, MCLoss)
    return EquivariantSplitting(made.group, made.splitter, sides[0], sides[1])


def _library_loss(part: Component, path: str, spec: Spec, made: Reconstruction, builder: Builder) -> tuple[LibraryLoss, Component]:
    """Any other loss; the spec's mask generator and transforms go wherever its signature wants them."""
    context = {"mask_generator": made.splitter, "transform": _library_transform(spec, made.group)}
    filled = Builder(seed=spec.seed, device=builder.device, context={key: value for key, value in context.items() if value is not None})
    loss, kept = filled.build(part, path, "loss")
    adapts = type(loss).adapt_model is not Loss.adapt_model
    return LibraryLoss(loss, adapts, needs_ground_truth=isinstance(loss, SupLoss)), kept


def _library_transform(spec: Spec, group: Group) -> Any:
    """The deepinv transform that draws from the spec's group, for losses of deepinv; None for the trivial one."""
    if isinstance(group, TransformGroup):
        return group.transform
    turn = Rotate(multiples=90, positive=True)
    named = {"C4": turn, "D4": turn * Reflect(dim=[-1]), "reflections": Reflect(dim=[-2, -1]), "shifts": Shift()}
    return named.get(spec.transforms.group or "trivial")


def _per_sample(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
