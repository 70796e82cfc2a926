"""Make catalog.json from the installed deepinv and torch: `python -m es_cli.catalog.generate`."""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from es_cli.catalog.describing import entry

CATALOG = Path(__file__).with_name("catalog.json")
# where the classes of a kind are looked for; a class belongs to the first kind whose base it has
PLACES = (
    ("deepinv.physics", ("physics", "noise")),
    ("deepinv.physics.generator", ("generator",)),
    ("deepinv.transform", ("transform",)),
    ("deepinv.loss.metric", ("metric",)),
    ("deepinv.loss", ("loss",)),
    ("deepinv.loss.mri", ("loss",)),
    ("deepinv.loss.adversarial", ("loss",)),
    ("deepinv.models", ("model",)),
    ("torch.optim", ("optimizer",)),
    ("torch.optim.lr_scheduler", ("scheduler",)),
)
OWN = (
    ("es_cli.splitting.generators", "AngleSplittingMaskGenerator", "generator"),
    ("es_cli.splitting.generators", "LineSplittingMaskGenerator", "generator"),
    ("es_cli.splitting.composed", "ComposedLinearPhysics", "physics"),
    ("es_cli.splitting.stacked", "StackedLinearPhysics", "physics"),
    ("es_cli.splitting.sensing", "CompressedSensing", "physics"),
    ("es_cli.splitting.sensing", "SensingMatrix", "physics"),
    ("es_cli.splitting.sinograms", "SinogramMSE", "metric"),
    ("es_cli.splitting.tomography", "Tomography", "physics"),
    ("es_cli.splitting.unrolled", "DataConsistentMoDL", "model"),
    ("es_cli.splitting.unrolled", "Unrolled", "model"),
    ("es_cli.networks.equivariant", "EquivariantUNet", "model"),
    ("es_cli.networks.equivariant", "CircularCNN", "model"),
)


def generate() -> dict[str, Any]:
    """The catalogue as JSON holds it, sorted: equal libraries give an equal catalogue."""
    found: dict[tuple[str, str], tuple[type, str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, kinds in PLACES:
            module = importlib.import_module(place)
            for name in dir(module):
                cls = getattr(module, name)
                if _is_public_class(cls, name, place):
                    kind = _kind(cls, kinds)
                    found.setdefault((kind, name), (cls, place))
        for place, name, kind in OWN:
            found[kind, name] = (getattr(importlib.import_module(place), name), place)
    _drop_foreign(found)
    names = {name: kind for kind, name in sorted(found)}
    entries = [entry(name, kind, cls, place, _origin(place), names) for (kind, name), (cls, place) in sorted(found.items(), key=lambda item: item[0])]
    return {"made_from": {package: version(package).split("+")[0] for package in ("deepinv", "torch")}, "entries": entries}


def dumps(catalog: dict[str, Any]) -> str:
    """One entry a line, so that a new deepinv shows as a readable difference."""
    lines = [json.dumps(entry, separators=(",", ":"), ensure_ascii=False) for entry in catalog["entries"]]
    return '{"made_from":' + json.dumps(catalog["made_from"], separators=(",", ":")) + ',"entries":[\n' + ",\n".join(lines) + "\n]}\n"


def _is_public_class(cls: Any, name: str, place: str) -> bool:
    return inspect.isclass(cls) and not name.startswith("_") and cls.__module__.startswith(place.split(".")[0]) and cls.__name__ == name


def _kind(cls: type, kinds: tuple[str, ...]) -> str:
    above = {base.__name__ for base in cls.__mro__}
    return "noise" if "noise" in kinds and "NoiseModel" in above else kinds[0]


def _origin(place: str) -> str:
    return {"deepinv": "deepinv", "torch": "torch"}.get(place.split(".")[0], "es")


def _drop_foreign(found: dict[tuple[str, str], tuple[type, str]]) -> None:
    """A class that one module merely imports from another is listed once: metrics in deepinv.loss, Optimizer in the schedulers' module."""
    for kind, name in [key for key in found if key[0] in {"loss", "scheduler", "physics", "model"}]:
        cls = found[kind, name][0]
        twin = any(
            other != kind and (other, name) in found and found[other, name][0] is cls
            for other in ("metric", "optimizer", "generator", "noise")
        )
        if twin or cls.__name__ == "Tensor":
            del found[kind, name]


if __name__ == "__main__":
    CATALOG.write_text(dumps(generate()), encoding="utf-8")
