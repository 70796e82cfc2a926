"""The catalogue as Python sees it: names, parameters and meanings, without importing deepinv or torch; and the one door to the classes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from es_cli.catalog.plugins import described, load, package, registered
from es_cli.errors import Fault, SpecError
from es_cli.spec.wording import did_you_mean

Found = list[tuple[str, str, str]]  # what is wrong with a spec: (path in it, what, hint) each

KINDS = ("physics", "noise", "generator", "transform", "loss", "metric", "model", "optimizer", "scheduler")
# filled in by what is known when the part is built, and so never missing
CONTEXT_PARAMETERS = frozenset({"img_size", "img_width", "device", "rng", "dtype", "params", "optimizer", "T_max", "total_steps"})


@dataclass(frozen=True)
class Parameter:
    """One parameter of a class.

    `types` are what YAML may hold for it (null, bool, int, float, str, list, dict, array), `parts` the kinds of nested parts; both empty:
    anything. `choices` are its only words, where the class lists them. `refused` says why it cannot be given, None if it can. `downloads`: it
    names pretrained weights; `default` is then what stands for fresh ones.
    """

    name: str
    required: bool = False
    default: Any = None
    annotation: str = ""
    meaning: str = ""
    types: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    refused: str | None = None
    downloads: bool = False


@dataclass(frozen=True)
class Entry:
    """One class that a spec may name.

    `origin` is deepinv, torch or es, or name and version of the package that registers it (see plugins.py); `refused` says why it cannot be built from YAML, None if it can. `adapts`: a loss that wraps the
    network in a model of its own. `nested_only`: it can only stand inside another part. `denoiser`: a network that is not told the operator.
    """

    name: str
    kind: str
    module: str
    origin: str
    meaning: str
    parameters: tuple[Parameter, ...]
    refused: str | None = None
    adapts: bool = False
    nested_only: bool = False
    denoiser: bool = False

    def parameter(self, name: str) -> Parameter | None:
        return next((one for one in self.parameters if one.name == name), None)


@cache
def _raw() -> dict[tuple[str, str], dict[str, Any]]:
    text = resources.files("es_cli.catalog").joinpath("catalog.json").read_text(encoding="utf-8")
    return {(entry["kind"], entry["name"]): entry for entry in json.loads(text)["entries"]}


@cache
def _names() -> dict[str, str]:
    """The kind of every name that es has itself."""
    return {name: kind for kind, name in _raw()}


@cache
def _entry(kind: str, name: str) -> Entry | None:
    raw = _raw().get((kind, name))
    return None if raw is None else _made(raw)


@cache
def _plugin(name: str) -> Entry | None:
    """What an installed package registers as `name`; None for a name that es has itself, which nobody can replace."""
    if name in _names() or name not in registered():
        return None
    return _made(described(name, _names()))


def _made(raw: dict[str, Any]) -> Entry:
    tuples = ("types", "parts", "choices")
    parameters = []
    for one in raw["parameters"]:
        fields: dict[str, Any] = {key: tuple(value) if key in tuples else value for key, value in one.items()}
        parameters.append(Parameter(**fields))
    return Entry(**{**raw, "parameters": tuple(parameters)})


def find(name: str, kinds: Iterable[str] | None = None) -> Entry | None:
    """The class called `name`, of one of `kinds` if these are given; None where there is none.

    A registered class that cannot be loaded may be of any kind: it is found as the first of `kinds`, with the reason in `refused`.
    """
    wanted = tuple(kinds or KINDS)
    own = next((entry for kind in wanted if (entry := _entry(kind, name)) is not None), None)
    other = _plugin(name) if own is None else None
    if other is None or other.kind in wanted:
        return own or other
    return replace(other, kind=wanted[0]) if other.kind == "" else None


def entries(kinds: Iterable[str] | None = None) -> list[Entry]:
    """All classes of these kinds that es has itself, by kind and name; those that cannot be built too."""
    wanted = tuple(kinds or KINDS)
    return [entry for kind, name in _raw() if kind in wanted and (entry := _entry(kind, name)) is not None]


def registered_entries(kinds: Iterable[str] | None = None) -> list[Entry]:
    """All classes of these kinds that installed packages register, which are imported for it; those that cannot be loaded, of the kind "", too."""
    wanted = ("", *(kinds or KINDS))
    found = [_plugin(name) for name in registered()]
    return sorted((entry for entry in found if entry is not None and entry.kind in wanted), key=lambda entry: (entry.kind, entry.name))


def replaced_by_none() -> list[str]:
    """Registered names that es has itself, with their package: they are not used."""
    return [f"{name} ({package(points[0])})" for name, points in registered().items() if name in _names()]


def suggest(name: str, kinds: Iterable[str] | None = None) -> str | None:
    """The name nearest to a mistyped one, among the classes of `kinds` that can be built and those that packages register; None where none is near."""
    wanted = tuple(kinds or KINDS)
    own = (known for (kind, known), raw in _raw().items() if kind in wanted and "refused" not in raw)
    return did_you_mean(name, (*own, *registered()))


def load_class(entry: Entry) -> type:
    """The class itself; only here are deepinv and torch imported.

    Raises SpecError where the class cannot be built from a spec, or the installed version has none of that name.
    """
    if entry.refused is not None:
        raise SpecError([Fault(f"{entry.name} cannot be built from a spec: {entry.refused}", entry.name)])
    if entry.name not in _names() and entry.name in registered():
        return load(entry.name)
    cls = getattr(importlib.import_module(entry.module), entry.name, None)
    if not isinstance(cls, type):
        package = entry.module.split(".")[0]
        raise SpecError(
            [Fault(f"{package} {_version(package)} has no {entry.name}", entry.name, f"install a version of {package} that has it")]
        )
    return cls


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "as installed"
