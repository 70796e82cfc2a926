"""Spec → Experiment: data, operator, network, group, splits and losses as live objects; and what a checkpoint needs to make them again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from deepinv.physics import GammaNoise, GaussianNoise, LinearPhysics, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from torch import Tensor, nn

from es_cli.building.data_sets import open_measurements, open_samples
from es_cli.building.forward_operator import Operator, as_samples
from es_cli.building.image_shape import is_pair
from es_cli.building.mask_generator import build_splitter, count_folds
from es_cli.building.parameters import build_sampled_operator, with_stored_parameters
from es_cli.building.parts import Builder
from es_cli.building.rivals import build_library_loss, splits_of_losses, try_losses
from es_cli.building.rule import build_test_rule, build_transform_group
from es_cli.building.sides import build_consistency
from es_cli.building.sizes import sized, with_sizes
from es_cli.catalog import EQUIVARIANT_SPLITTING, side_of
from es_cli.data.batches import ends_of_each
from es_cli.data.damaged import Samples
from es_cli.data.measurements import Measurements, hold_out
from es_cli.errors import KNOBS, DeviceError, Fault, SpecError, out_of_memory
from es_cli.networks.fitting import check_network
from es_cli.networks.memory import channels_last
from es_cli.spec.schema import Component, Pair, Spec
from es_cli.splitting.averaging import Averaged, TestRule, average, images_at_once, moments
from es_cli.splitting.consistency import Consistency
from es_cli.splitting.group import Batch, Group, named_group
from es_cli.splitting.masks import Splitter
from es_cli.splitting.noise import rescaled
from es_cli.splitting.objective import Equivariant, EquivariantSplitting, Objective
from es_cli.splitting.parameters import with_parameters
from es_cli.splitting.virtual import split_operator, virtual_operator, with_noise
from es_cli.streams import stream_seed

SHAPES_TRIED = 16  # of the samples of a data set, before training
SCALES = (ZeroNoise, GaussianNoise, PoissonNoise, PoissonGaussianNoise, GammaNoise)  # noise that scales with the image, see `rescaled`


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
        size = (torch.linalg.vector_norm(x, dim=1) if is_pair(type(physics)) else x.abs()).flatten(1)
        scale = torch.quantile(size, 0.99, dim=1)
        scale = torch.where(scale > 0, scale, size.amax(1))
        return torch.where(scale > 0, scale, 1.0)

    def apply(self, scale: Tensor | None, y: Tensor, physics: Any) -> tuple[Tensor, Any]:
        """y and the physics in units in which the network works."""
        if scale is None:
            return y, physics
        return y / _per_sample(scale, y), with_noise(physics, rescaled(physics.noise_model, scale))


@dataclass(frozen=True)
class Reconstruction:
    """A network with all that making images from raw measurements takes; `consistency` says what it is fed, None: the measurement itself."""

    network: nn.Module
    operator: Operator
    scaling: Scaling
    group: Group
    rule: TestRule
    splitter: Splitter | None
    consistency: Consistency | None
    seed: int

    def __call__(
        self, y: Tensor, rule: TestRule | None = None, max_batch: int = 32, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Images (B, C, H, W) from measurements y (B, …), both in the user's units; `params` are the operator's where these samples have their own.

        At most `max_batch` images go through the network at once, fewer where they are large (B at least).
        """
        arguments, scale = self.arguments(y, self.physics_of(y, params or {}), rule, max_batch)
        with torch.inference_mode():
            x = average(**arguments)
        return x if scale is None else x * _per_sample(scale, x)

    def moments(
        self, y: Tensor, rule: TestRule | None = None, max_batch: int = 32, params: Mapping[str, Tensor] | None = None
    ) -> Averaged:
        """What calling this gives, and the variance of the passes around it, in the user's units squared: at no further network call."""
        arguments, scale = self.arguments(y, self.physics_of(y, params or {}), rule, max_batch)
        with torch.inference_mode():
            found = moments(**arguments)
        if scale is None:
            return found
        size = _per_sample(scale, found.mean)
        return Averaged(found.mean * size, found.variance * size.square())

    def arguments(
        self, y: Tensor, physics: Any, rule: TestRule | None = None, max_batch: int = 32, mask: Tensor | None = None
    ) -> tuple[dict[str, Any], Tensor | None]:
        """What `average`, `moments` and `passes` take for measurements y (B, …) of `physics`, and the scale (B,) of what they give, None: 1.

        `mask` M₁ (B, …) keeps a part of the measurement from the network, None: it is given all. The scale is that of the whole y in each case,
        as in training.
        """
        scale = self.scaling.of(y, physics)
        scaled, inside = self.scaling.apply(scale, y, physics)
        noise = None if self.consistency is None else self.consistency.noise(inside, scale)
        if mask is not None:
            scaled, inside = mask * scaled, split_operator(inside, mask, scaled)
        size = images_at_once(sized(self.operator, tuple(y.shape[1:])).image.shape, max_batch)
        given = {"network": self.network, "y": scaled, "physics": inside, "rule": rule or self.rule, "group": self.group, "splitter": self.splitter}
        return {**given, "consistency": self.consistency, "noise": noise, "seed": self.seed, "max_batch": size}, scale

    def physics_of(self, y: Tensor, params: Mapping[str, Tensor]) -> Any:
        """The operator of measurements y (B, …): of their size, with the parameters that they have of their own."""
        return with_parameters(sized(self.operator, tuple(y.shape[1:])).physics, params)

    def batch(self, data: Measurements | Samples, positions: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor | None, Any, Tensor | None]:
        """y (B, …), x (B, C, H, W) or None, and the operator with the parameters of these samples, in the units in which the network works; and
        the scale (B,) that they were divided by, None where nothing is scaled."""
        return self.in_units(*data.batch(positions, device))

    def in_units(self, y: Tensor, x: Tensor | None, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None, Any, Tensor | None]:
        """What `batch` gives, of samples that were read already."""
        physics = self.physics_of(y, params)
        scale = self.scaling.of(y, physics)
        y, physics = self.scaling.apply(scale, y, physics)
        return y, x if x is None or scale is None else x / _per_sample(scale, x), physics, scale


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


def build_experiment(spec: Spec, device: torch.device) -> Experiment:
    """Data, operator, network and losses of a spec on `device`.

    Raises SpecError, DataError or DeviceError before anything is trained.
    """
    spec = with_stored_parameters(spec)
    if spec.data is None:
        raise SpecError([Fault("there are no data to train on", "data", "add data.train: {measurements: FILE}")])
    source = spec.data.train
    pictures = source.measurements is None
    scan = pictures or spec.data.on_bad_sample == "stop"
    stack = as_samples(open_samples(source.images if pictures else source.measurements, pictures, spec.seed, scan=scan), spec.physics, pictures)
    operator = build_sampled_operator(spec.physics, source, stack, pictures, spec.seed)
    scaling = _scaling(spec, operator)
    train = open_measurements(source, operator, spec.seed, "train", stack, scan)
    if isinstance(spec.data.validation, Pair):
        validation = open_measurements(spec.data.validation, operator, spec.seed, "validation", scan=scan)
    else:
        train, validation = hold_out(train, spec.data.validation, stream_seed(spec.seed, "validation"))
    test = None if spec.data.test is None else open_measurements(spec.data.test, operator, spec.seed, "test")
    operator = with_sizes(operator, _image_sizes(operator, train, validation, test)).to(device)
    reconstruction, parts = build_reconstruction(spec, operator, scaling, device)
    objective, losses = _objective(spec, reconstruction, device)
    resolved = spec.model_copy(update={**parts, "physics": operator.part, "losses": losses})
    if not objective.needs_ground_truth:
        train = train.without_ground_truth()
    elif train.x is None:
        raise SpecError([Fault("a loss of this spec compares with ground truth, and data.train has no images", "losses", "add data.train.images, or use a loss of measurements alone")])
    _check_parts(spec, objective, reconstruction, train, validation, test, device)
    return Experiment(spec, resolved, operator, objective.to(device), reconstruction, train, validation, test)


def _image_sizes(operator: Operator, *parts: Measurements | None) -> list[tuple[int, ...]]:
    """The shapes of images in all parts of the data."""
    return [operator.image.fitted(part.shape_at(ends[0])).shape for part in parts if part is not None for ends in ends_of_each(part)]


def _check_parts(
    spec: Spec, objective: Objective, made: Reconstruction, train: Measurements, validation: Measurements, test: Measurements | None, device: torch.device
) -> None:
    """SpecError where the network or a loss fails on one of the shapes of the data: on all of them, or on `SHAPES_TRIED` from the smallest
    to the largest. DeviceError where the memory is too small for one sample."""
    found: dict[tuple[int, ...], tuple[Samples, list[int], bool]] = {}
    skip = spec.data is not None and spec.data.on_bad_sample == "skip"
    for data in [part for part in (train, validation, test) if part is not None]:
        for ends in ends_of_each(data):
            found.setdefault(data.shape_at(ends[0]), (Samples(data, skip and data is not test), ends, data is not test))
    shapes = sorted(found, key=lambda shape: (math.prod(shape), shape))
    count = min(len(shapes), SHAPES_TRIED)
    for shape in [shapes[round(i * (len(shapes) - 1) / max(1, count - 1))] for i in range(count)]:
        samples, ends, losses = found[shape]
        # training cuts what two samples have no room for
        tried = [ends] if len(ends) == 1 else [ends, ends[:1]]
        if not any(_check_shape(spec, objective, made, samples, positions, device, losses) for positions in tried):
            raise DeviceError(f"the memory is too small for one sample, an image of shape {shape}", where=str(device), hint=KNOBS)


def _check_shape(
    spec: Spec, objective: Objective, made: Reconstruction, data: Samples, positions: Sequence[int], device: torch.device, losses: bool
) -> bool:
    """Whether the memory is large enough to tell. Raises SpecError where the network, or if `losses` one of these, fails on samples."""
    try:
        _check_network(made, data, positions, device)
        if losses:
            _check_losses(objective, made, data, positions, spec, device)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _check_network(made: Reconstruction, data: Samples, positions: Sequence[int], device: torch.device) -> None:
    """SpecError where the network cannot be trained on batches of the shape that these samples have: found now, not at the first step."""
    y, _, physics, _ = made.batch(data, positions, device)
    g = Batch(made.group.draw(1, made.seed))
    check_network(made.network, y, virtual_operator(physics, g, made.group.orthogonal), sized(made.operator, tuple(y.shape[1:])).image.shape)


def _check_losses(
    objective: Objective, made: Reconstruction, data: Samples, positions: Sequence[int], spec: Spec, device: torch.device
) -> None:
    """SpecError where a loss cannot be computed: for two samples, as some networks and noise levels go with one only."""
    y, x, physics, scale = made.batch(data, positions[: spec.training.batch_size], device)
    try_losses(objective, y, physics, x if objective.needs_ground_truth else None, spec.seed, scale)


def build_reconstruction(spec: Spec, operator: Operator, scaling: Scaling, device: torch.device) -> tuple[Reconstruction, dict[str, Any]]:
    """The bare network, with fresh weights, and how it is averaged at evaluation; and the parts of the resolved spec."""
    torch.manual_seed(stream_seed(spec.seed, "weights"))
    network, model = Builder(seed=spec.seed, context={"img_size": operator.image.shape}).build(spec.model, "model", "model")
    group = _group(spec, operator)
    splitter, generator_part = _splitter(spec, operator, device)
    consistency, repeats = build_consistency(spec, operator.physics, device)
    rule = build_test_rule(spec, operator, group, splitter, repeats)
    made = Reconstruction(channels_last(network.to(device)), operator, scaling, group, rule, splitter, consistency, stream_seed(spec.seed, "test"))
    return made, {"model": model, "mask_generator": generator_part}


def with_test_rule(made: Reconstruction, spec: Spec, device: torch.device) -> Reconstruction:
    """The same network, averaged as `spec.test` says. Raises SpecError as building a spec with that section does."""
    splitter, _ = _splitter(spec, made.operator, device)
    return replace(made, splitter=splitter, rule=build_test_rule(spec, made.operator, made.group, splitter, made.rule.repeats))


def _scaling(spec: Spec, operator: Operator) -> Scaling:
    mode = "none" if spec.data is None else spec.data.scale
    check_scalable(mode, operator)
    return Scaling(mode)


def check_scalable(mode: str | float, operator: Operator) -> None:
    """SpecError where dividing the measurements by a number is not the same as dividing the image."""
    physics = operator.physics
    noise = physics.noise_model
    homogeneous = isinstance(physics, LinearPhysics) and isinstance(noise, SCALES) and bool(getattr(noise, "normalize", True))
    if mode != "none" and not homogeneous:
        name = operator.part.name if not isinstance(physics, LinearPhysics) else type(physics.noise_model).__name__
        raise SpecError([Fault(f"{name} does not scale with the image", "data.scale", "use scale: none")])


def check_group(spec: Spec, operator: Operator) -> None:
    """SpecError where a group of the spec does not map images of this operator to themselves."""
    whole = spec.model_copy(update={"test": spec.test.model_copy(update={"splits": None})})
    build_test_rule(whole, operator, _group(spec, operator), None, 1)


def _group(spec: Spec, operator: Operator) -> Group:
    chosen = spec.transforms
    if chosen.train is None:
        group, *_ = [named_group(chosen.group or "trivial", size) for size in (operator.image.shape, *operator.sizes)]
    else:
        group = build_transform_group(chosen.train, "transforms.train", operator, spec.seed)
    group.per_batch = chosen.per == "batch"
    return group


def _splitter(spec: Spec, operator: Operator, device: torch.device) -> tuple[Splitter | None, Component | None]:
    """The splits of the spec, or of a loss that splits, or the default; None where nothing asks for any."""
    asked, own = splits_of_losses(spec)
    if not (asked or spec.mask_generator is not None or spec.test.splits):
        return None, None
    return build_splitter(spec.mask_generator or own, operator, spec.seed, device)


def _objective(spec: Spec, made: Reconstruction, device: torch.device) -> tuple[Objective, tuple[Any, ...]]:
    terms: list[tuple[str, float, nn.Module]] = []
    resolved = []
    builder = Builder(seed=spec.seed, device=device)
    for i, term in enumerate(spec.losses):
        if term.loss.name == EQUIVARIANT_SPLITTING:
            module: nn.Module = _equivariant_splitting(term.loss, f"losses.{i}", spec, made, builder)
            kept = term.loss
        else:
            module, kept = build_library_loss(term.loss, f"losses.{i}", spec, made.operator, made.group, made.splitter, device)
            module = Equivariant(module, made.group) if term.equivariant else module
        names = [name for name, _, _ in terms]
        name = term.loss.name if term.loss.name not in names else f"{term.loss.name}-{i}"
        terms.append((name, term.weight, module))
        resolved.append(term.model_copy(update={"loss": kept}))
    return Objective(made.network, terms), tuple(resolved)


def _equivariant_splitting(part: Component, path: str, spec: Spec, made: Reconstruction, builder: Builder) -> EquivariantSplitting:
    """The loss with its two sides; left out, a side is MCLoss, and null switches it off."""
    if not isinstance(made.operator.physics, LinearPhysics):
        raise SpecError([Fault(f"equivariant splitting needs a linear operator, and {made.operator.part.name} is not", "physics")])
    given, weight = side_of(part, "prediction_loss")
    prediction = None if given is None else builder.build(given, f"{path}.prediction_loss", "loss")[0]
    folds = None
    if spec.training.splits == "complementary" and made.splitter is not None:
        folds = count_folds(made.splitter, made.operator, spec.training.folds, "training")
    return EquivariantSplitting(made.group, made.splitter, made.consistency, prediction, (side_of(part, "consistency_loss")[1], weight), folds)


def _per_sample(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
