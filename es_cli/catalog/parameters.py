"""Which parameters of an operator may differ from sample to sample, and what a spec says about them."""

from __future__ import annotations

from es_cli.catalog.consistency import LEVELS, pairs
from es_cli.catalog.entries import Found
from es_cli.spec.component import Component
from es_cli.spec.schema import FROM_DATA, Pair, Spec
from es_cli.spec.wording import did_you_mean

BY_PHYSICS = {
    "Inpainting": ("mask",),
    "MRI": ("mask",),
    "DynamicMRI": ("mask",),
    "MultiCoilMRI": ("mask", "coil_maps"),
}
OF_PHYSICS = tuple(dict.fromkeys(name for names in BY_PHYSICS.values() for name in names))
BY_NOISE = {"GaussianNoise": ("sigma",), "PoissonNoise": ("gain",), "PoissonGaussianNoise": ("sigma", "gain")}


def operator_parameters(physics: Component) -> tuple[str, ...]:
    """The parameters of an operator that may differ from sample to sample: its own, and those of its noise model."""
    return (*BY_PHYSICS.get(physics.name, ()), *BY_NOISE.get(_noise(physics).name, ()))


def fixed_parameters(physics: Component) -> set[str]:
    """Those of them that the spec gives the operator itself."""
    given = {**physics.parameters, **{name: value for name, value in _noise(physics).parameters.items() if name in LEVELS}}
    return {name for name in operator_parameters(physics) if given.get(name) is not None}


def left_to_samples(physics: Component, pair: Pair) -> list[str]:
    """What `pair` gives each of its samples, and the operator cannot be built without: it keeps that of the first sample."""
    needed = {"Inpainting": ("mask",), "MultiCoilMRI": ("coil_maps",)}.get(physics.name, ())
    return [name for name in needed if name in pair.params and physics.parameters.get(name) is None]


def check_parameters(spec: Spec, looked_into: bool = False) -> Found:
    """(path, what, hint) for parameters of samples that the operator does not take, or that a part of the data lacks.

    An HDF5 file may hold them itself; `looked_into` says that those which do are named by now.
    """
    found: Found = []
    legal = operator_parameters(spec.physics)
    for part, pair in pairs(spec):
        for name, source in pair.params.items():
            path = f"data.{part}.params.{name}"
            if name not in legal:
                found.append((path, f"{described(spec.physics)} takes no {name} for each sample", wanted(name, legal)))
            elif source == FROM_DATA and name != "mask":
                found.append((path, f"only a mask can be read off the data, and this is {name}", "give a file"))
            elif source == FROM_DATA and pair.measurements is None:
                found.append((path, f"from-data reads the mask off measurements, and data.{part} has none", "give a file of masks"))
    return [*found, *_lacking(spec, legal, looked_into)]


def wanted(name: str, legal: tuple[str, ...]) -> str:
    """What to do about a parameter that does not exist."""
    near = did_you_mean(name, legal)
    return f"did you mean {near}?" if near else f"it takes {', '.join(legal)}" if legal else "it takes none"


def described(physics: Component) -> str:
    """An operator in words, with its noise, which decides what it takes."""
    noise = _noise(physics).name
    return f"{physics.name} with {noise}" if noise else f"{physics.name} without noise"


def _lacking(spec: Spec, legal: tuple[str, ...], looked_into: bool) -> Found:
    """A parameter that some samples have and others lack must be one of the operator itself."""
    parts = pairs(spec)
    named = {name for _, pair in parts for name in pair.params if name in legal} - fixed_parameters(spec.physics)
    return [
        (
            f"data.{part}.params.{name}",
            f"these samples have no {name}, and neither has physics",
            "add it here, or one for all to physics",
        )
        for part, pair in parts
        if looked_into or not _may_hold_them(pair)
        for name in sorted(named - set(pair.params))
    ]


def _may_hold_them(pair: Pair) -> bool:
    file = None if pair.measurements is None else pair.measurements.file
    return file is not None and file.lower().endswith((".h5", ".hdf5"))


def _noise(physics: Component) -> Component:
    """The noise model, with an empty name where there is none."""
    given = physics.parameters.get("noise_model")
    if isinstance(given, str):
        return Component(name=given)
    if given is None:  # deepinv's Denoising is the one operator that is noisy unless told otherwise
        return Component(name="GaussianNoise" if physics.name == "Denoising" else "")
    return given if isinstance(given, Component) else Component(name="")
