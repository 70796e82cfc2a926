"""Components of other packages: an installed package registers classes under the entry-point group `es_cli.components`.

    [project.entry-points."es_cli.components"]
    MyBlur = "my_package.operators:MyBlur"

Which names there are is read off the packages' metadata; a package is imported only when one of its names is asked for. The name stands in a
spec, never an import path. What a package does wrong is said about its own names, and touches no other.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from es_cli.errors import Fault, SpecError, said

GROUP = "es_cli.components"
# the first of these that a class is built on says its kind: all of deepinv's are modules of torch
KIND_OF_BASE = {
    "NoiseModel": "noise", "Physics": "physics", "PhysicsGenerator": "generator", "Transform": "transform", "Metric": "metric", "Loss": "loss",
    "Optimizer": "optimizer", "LRScheduler": "scheduler", "Module": "model",
}  # fmt: skip


@cache
def registered() -> dict[str, tuple[EntryPoint, ...]]:
    """What the installed packages register, by name; more than one where two packages claim the same name. Imports none of them."""
    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # a package may lie on the path twice, as after an editable installation
        found.setdefault(point.name, {})[package(point), point.value] = point
    return {name: tuple(found[name].values()) for name in sorted(found)}


def package(point: EntryPoint) -> str:
    """Name and version of the package that registers it."""
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def load(name: str) -> type:
    """The class registered as `name`. Raises SpecError where the package cannot be imported, or holds no class of that name."""
    points = registered()[name]
    packages = [package(point) for point in points]
    if len(points) > 1:
        raise SpecError([Fault(f"{' and '.join(packages)} both register it", name, "remove one of them")])
    try:
        with contextlib.redirect_stdout(sys.stderr):
            cls = points[0].load()
    except Exception as error:
        raise SpecError([Fault(f"{packages[0]}, which registers it, cannot be loaded: {type(error).__name__}: {said(error)}", name)]) from error
    if _kind(cls) is None:
        raise SpecError([Fault(f"what {packages[0]} registers is no class built on one of deepinv's or torch's", name)])
    return cls


def described(name: str, names: dict[str, str]) -> dict[str, Any]:
    """The entry of a registered class as catalog.json would hold it, with its package as origin; `names` are the kinds of what es has itself.

    Of a class that cannot be loaded no kind is known, "", and `refused` says why.
    """
    from es_cli.catalog.describing import entry

    point = registered()[name][0]
    try:
        cls = load(name)
    except SpecError as error:
        what = {"meaning": "", "parameters": [], "refused": error.fault.what}
        return {"name": name, "kind": "", "module": point.module, "origin": package(point), **what}
    return entry(name, str(_kind(cls)), cls, point.module, package(point), names)


def _kind(cls: Any) -> str | None:
    """The kind of a class, by what it is built on; None where it is no component. deepinv need not be imported to ask."""
    if not inspect.isclass(cls):
        return None
    above = {base.__name__ for base in cls.__mro__ if base.__module__.startswith(("deepinv.", "torch."))}
    return next((kind for base, kind in KIND_OF_BASE.items() if base in above), None)
