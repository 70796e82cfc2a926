"""What the parts of a spec say about one another: operators drawn beside measurements that another operator made, losses that exclude each other."""

from __future__ import annotations

import math
from typing import Any

from es_cli.catalog.entries import Found, find
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING
from es_cli.spec.component import Component, TensorRef
from es_cli.spec.schema import FROM_DATA, Pair, Spec

LEVELS = ("sigma", "gain")  # of noise, in the units of the measurements
HAS_SAMPLING_MASK = ("Inpainting", "MRI", "MultiCoilMRI", "DynamicMRI")
# operators that deepinv draws at random when they are built, and the parameters that fix them; () where nothing does
DRAWN: dict[str, tuple[str, ...]] = {
    "CompressedSensing": (),
    "RandomPhaseRetrieval": (),
    "StructuredRandomPhaseRetrieval": (),
    "StructuredRandom": ("diagonals",),
    "HyperSpectralUnmixing": ("M",),
    "CompressiveSpectralImaging": ("mask",),
}
INSTEAD = {
    "CompressedSensing": "use SensingMatrix with matrix: {file: PATH}",
    "SinglePixelCamera": "use SensingMatrix with matrix: {file: PATH}, or fast: true",
}


def check_consistency(spec: Spec) -> Found:
    """(path, what, hint) each."""
    return [
        *_drawn_operator(spec), *_noise_in_a_stack(spec), *_mask_from_data(spec), *_noise_levels(spec), *_one_adapting_loss(spec),
        *_splits_in_turn(spec), *_blind_network(spec), *_tensor_references(spec),
    ]  # fmt: skip


def measurements_in(spec: Spec) -> str | None:
    """The path of the first measurements that the spec names; None where all are simulated."""
    for name, pair in pairs(spec):
        if pair.measurements is not None:
            return f"data.{name}.measurements"
    return None


def pairs(spec: Spec) -> list[tuple[str, Pair]]:
    """The parts of the data: (train, validation or test, what it is)."""
    if spec.data is None:
        return []
    given = (("train", spec.data.train), ("validation", spec.data.validation), ("test", spec.data.test))
    return [(name, pair) for name, pair in given if isinstance(pair, Pair)]


def _drawn_operator(spec: Spec) -> Found:
    measured = measurements_in(spec)
    if measured is None:
        return []
    name = spec.physics.name
    if name in HAS_SAMPLING_MASK:
        hint = "give {file: mask.npy}, or from-data to read the mask off the zeros"
    elif name in INSTEAD:
        hint = INSTEAD[name]
    else:
        hint = "name images to simulate from" if DRAWN.get(name) == () else "give the array as {file: PATH}"
    return [
        (path, f"{what} is drawn anew, but {measured} were made by another operator", hint)
        for path, what in _draws(spec.physics, "physics")
    ]


def _draws(part: Component, path: str) -> list[tuple[str, str]]:
    """Where an operator is left to chance: (path, in words)."""
    found = []
    for name, value in part.parameters.items():
        below = f"{path}.{name}"
        if isinstance(value, (Component, tuple)):
            found += [draw for at, inner in _nested(value, below) for draw in _nested_draws(inner, at)]
        elif name == "mask" and _is_ratio(value) and find(part.name, ("physics",)) is not None:
            found.append((below, f"a mask of ratio {value}"))
        elif name == "coil_maps" and isinstance(value, int) and not isinstance(value, bool):
            found.append((below, f"a set of {value} coil maps"))
    fixed = DRAWN.get(part.name)
    if part.name == "SinglePixelCamera":  # its patterns are those of Hadamard unless it is told otherwise
        drawn = part.parameters.get("fast") is False
    else:
        drawn = fixed is not None and not any(part.parameters.get(name) is not None for name in fixed)
    if drawn:
        found.append((path, f"the operator of {part.name}"))
    return found


def _nested(value: Any, path: str) -> list[tuple[str, Component]]:
    if isinstance(value, Component):
        return [(path, value)]
    return [(f"{path}.{i}", inner) for i, inner in enumerate(value) if isinstance(inner, Component)]


def _nested_draws(part: Component, path: str) -> list[tuple[str, str]]:
    if find(part.name, ("generator",)) is not None:
        return [(path, f"what {part.name} draws")]
    return _draws(part, path) if find(part.name, ("physics",)) is not None else []


def _is_ratio(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with_all_in(part: Component, path: str) -> list[tuple[str, Component]]:
    """(path, part) of an operator and of those that are nested in it."""
    inside = [(f"{path}.{name}", value) for name, value in part.parameters.items() if isinstance(value, (Component, tuple))]
    nested = [found for at, value in inside for found in _nested(value, at) if find(found[1].name, ("physics",)) is not None]
    return [(path, part), *(found for at, one in nested for found in _with_all_in(one, at))]


def _noise_in_a_stack(spec: Spec) -> Found:
    """The measurements of a stack are one array, with one noise model."""
    stacked = spec.physics.parameters.get("physics_list")
    if spec.physics.name != "StackedLinearPhysics" or not isinstance(stacked, tuple):
        return []
    inner = [found for path, part in _nested(stacked, "physics.physics_list") for found in _with_all_in(part, path)]
    return [
        (f"{path}.noise_model", "the noise of a stack is its own, and not that of the operators in it", "move noise_model up, beside physics_list")
        for path, part in inner
        if part.parameters.get("noise_model") is not None
    ]


def _mask_from_data(spec: Spec) -> Found:
    if spec.data is None or spec.physics.parameters.get("mask") != FROM_DATA:
        return []
    if spec.data.train.measurements is None:
        return [
            (
                "physics.mask",
                "from-data reads the mask off measurements, and data.train has none",
                "give {file: mask.npy}, a ratio or a generator",
            )
        ]
    if spec.physics.name not in HAS_SAMPLING_MASK:
        return [("physics.mask", f"the mask of {spec.physics.name} cannot be read off the data", "give {file: PATH}")]
    return []


def known_of_operator(physics: Component) -> set[str]:
    """Parameters of losses that the operator knows: the level of its noise, and the generator that its mask is drawn from."""
    known = set()
    noise, mask = physics.parameters.get("noise_model"), physics.parameters.get("mask")
    entry = find(noise.name, ("noise",)) if isinstance(noise, Component) else None
    if entry is not None:
        known |= {parameter.name for parameter in entry.parameters if parameter.name in LEVELS}
    if isinstance(mask, Component) and find(mask.name, ("generator",)) is not None:
        known.add("physics_generator")
    return known


def _noise_levels(spec: Spec) -> Found:
    """σ and gain of a noise model are finite; σ may be 0, where there is none."""
    noise = spec.physics.parameters.get("noise_model")
    given = {} if not isinstance(noise, Component) else {name: noise.parameters.get(name) for name in LEVELS}
    found = []
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name == "gain"):
            found.append((f"physics.noise_model.{name}", f"{name} is {value}, which is no noise level", "give a number above 0"))
    return found


def _one_adapting_loss(spec: Spec) -> Found:
    found: Found = []
    first = None
    for i, term in enumerate(spec.losses):
        entry = find(term.loss.name, ("loss",))
        if entry is None or not entry.adapts or entry.refused:
            continue
        if term.equivariant:
            what = f"{term.loss.name} wraps the network in a model of its own, and judges the image of that one"
            found.append((f"losses.{i}.equivariant", what, "leave equivariant out"))
        if first is not None:
            what = f"{term.loss.name} and {first} both wrap the network in a model of their own"
            found.append((f"losses.{i}", what, "keep one of them; the others see the bare network"))
        first = first or term.loss.name
    return found


def _splits_in_turn(spec: Spec) -> Found:
    """Losses of deepinv draw their splits by themselves."""
    if spec.training.splits == "random" or any(term.loss.name == EQUIVARIANT_SPLITTING for term in spec.losses):
        return []
    what = f"complementary splits are those of {EQUIVARIANT_SPLITTING}, which this spec does not name"
    return [("training.splits", what, f"leave splits out, or name {EQUIVARIANT_SPLITTING}, with transforms: none for splitting alone")]


def _blind_network(spec: Spec) -> Found:
    """A network that is not told the operator gives the same image for A and A T_g, and so learns nothing from a group."""
    entry = find(spec.model.name, ("model",))
    direct = spec.model.name == "ArtifactRemoval" and str(spec.model.parameters.get("mode", "")).lower() == "direct"
    if spec.transforms.group == "trivial" or entry is None or not (entry.denoiser or direct):
        return []
    if direct:
        return [("model.mode", "direct hands the network the measurements without the operator, so that transforms mean nothing to it", "use adjoint or pinv, or transforms: none")]
    wrapped = f"{{name: ArtifactRemoval, backbone_net: {{name: {entry.name}, …}}}}"
    return [("model", f"{entry.name} is not told the operator, so that transforms mean nothing to it", f"wrap it, {wrapped}, or write transforms: none")]


def _tensor_references(spec: Spec) -> Found:
    """{tensor: …} points into a checkpoint, which a spec file has not."""
    if spec.data is None:
        return []
    parts = [("physics", spec.physics), ("model", spec.model), *((f"losses.{i}", term.loss) for i, term in enumerate(spec.losses))]
    return [(path, "{tensor: …} only stands inside checkpoints", "give {file: PATH}") for at, part in parts for path in _tensors(part, at)]


def _tensors(value: Any, path: str) -> list[str]:
    if isinstance(value, TensorRef):
        return [path]
    if isinstance(value, Component):
        return [at for name, inner in value.parameters.items() for at in _tensors(inner, f"{path}.{name}")]
    return [at for i, inner in enumerate(value) for at in _tensors(inner, f"{path}.{i}")] if isinstance(value, tuple) else []
