"""Make catalog.json from the installed deepinv and torch: `python -m es_cli.catalog.generate`.

Parameters come from the signatures of `__init__`, through the classes that it hands its keyword arguments up to; meanings from the docstrings.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from es_cli.catalog import docstrings, refusals
from es_cli.catalog.signatures import Signature, parameters_of

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
# words of annotations and docstrings → what YAML may hold
WORDS = {
    "int": "int", "float": "float", "bool": "bool", "str": "str", "string": "str", "Path": "str", "PathLike": "str", "None": "null", "NoneType": "null",
    "tuple": "list", "list": "list", "Sequence": "list", "Iterable": "list", "List": "list", "Tuple": "list", "Iterator": "list",
    "dict": "dict", "Mapping": "dict", "Tensor": "array", "ndarray": "array", "Callable": "function", "callable": "function", "function": "function",
    "Literal": "str", "Any": "any",
}  # fmt: skip
PART_BASES = {
    "Module": "model", "Denoiser": "model", "Reconstructor": "model", "Metric": "metric", "Loss": "loss", "Transform": "transform", "NoiseModel": "noise",
    "PhysicsGenerator": "generator", "Physics": "physics", "LinearPhysics": "physics", "LRScheduler": "scheduler",
}  # fmt: skip


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
    entries = [_entry(name, kind, cls, place, names) for (kind, name), (cls, place) in sorted(found.items(), key=lambda item: item[0])]
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


def _entry(name: str, kind: str, cls: type, place: str, names: dict[str, str]) -> dict[str, Any]:
    documented = docstrings.parameters(cls)
    parameters = [_parameter(one, kind, name, documented, names) for one in parameters_of(cls) if not one.name.startswith("_")]
    origin = {"deepinv": "deepinv", "torch": "torch"}.get(place.split(".")[0], "es")
    entry: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "module": place,
        "origin": origin,
        "meaning": docstrings.summary(cls),
        "parameters": parameters,
    }
    if kind == "loss" and _adapts(cls):
        entry["adapts"] = True
    if kind == "model" and not _knows_the_operator(cls):
        entry["denoiser"] = True
    if name in refusals.NESTED_ONLY:
        entry["nested_only"] = True
    refused = refusals.of_class(name, kind, cls) or _unfillable(parameters)
    if refused:
        entry["refused"] = refused
    return entry


def _adapts(cls: type) -> bool:
    """Whether a loss wraps the network in a model of its own."""
    from deepinv.loss import Loss

    return getattr(cls, "adapt_model", Loss.adapt_model) is not Loss.adapt_model


def _knows_the_operator(cls: Any) -> bool:
    """Whether a network is called with measurements and their operator; a denoiser is called with an image and its noise level."""
    from deepinv.models import Reconstructor

    return issubclass(cls, Reconstructor) and "physics" in inspect.signature(cls.forward).parameters


def _unfillable(parameters: list[dict[str, Any]]) -> str | None:
    bad = next((one for one in parameters if one.get("required") and one.get("refused") and one["name"] not in refusals.FILLED), None)
    return None if bad is None else f"its parameter {bad['name']} cannot be given: {bad['refused']}"


def _parameter(one: Signature, kind: str, owner: str, documented: dict[str, tuple[str, str]], names: dict[str, str]) -> dict[str, Any]:
    doc_type, meaning = documented.get(one.name, ("", ""))
    annotation = re.sub(r"\b(?:\w+\.)+(?=\w)", "", one.annotation or doc_type)
    types, parts = _accepted(one, doc_type, names)
    if kind == "optimizer":  # a tensor as learning rate only serves compiled code
        types = [word for word in types if word != "array"]
    default, downloads = refusals.offline(one.name, one.default, owner)
    made: dict[str, Any] = {"name": one.name}
    if one.required or refusals.needs_weights(owner, one.name):
        made["required"] = True
    refused = refusals.of_parameter(one.name, kind, owner, types, parts, one.default)
    if refused:
        return {**made, "refused": refused}
    default = _plain(default)
    made |= {
        key: value for key, value in (("default", default), ("annotation", annotation), ("meaning", meaning)) if value not in (None, "")
    }
    made |= {key: value for key, value in (("types", types), ("parts", parts), ("choices", _literals(one.annotation))) if value}
    if downloads:
        made["downloads"] = True
    return made


def _accepted(one: Signature, doc_type: str, names: dict[str, str]) -> tuple[list[str], list[str]]:
    """Types and kinds of parts that a value may have, by annotation, docstring and default together; no types: anything may stand."""
    types, parts = _read_type(one.annotation, names)
    more_types, more_parts = _read_type(doc_type, names)
    types, parts = types | more_types, parts | more_parts
    if not types and not parts and (one.required or one.default is None):
        return [], []
    default = _type_of(one.default)
    if default is not None and not one.required:
        types.add(default)
        if default == "int" and not one.annotation and not doc_type:
            types.add("float")
    above = {base.__name__ for base in type(one.default).__mro__}
    parts |= {kind for base, kind in PART_BASES.items() if base in above and base != "Module"}
    if "model" in parts and one.name.startswith("noise"):
        parts = parts - {"model"} | {"noise"}
    if "metric" in parts:
        parts.discard("model")
    if "any" in types:
        return [], sorted(parts)
    return sorted(types), sorted(parts)


def _read_type(text: str, names: dict[str, str]) -> tuple[set[str], set[str]]:
    types: set[str] = set()
    parts: set[str] = set()
    for depth, word in docstrings.type_words(text):
        if word in WORDS and depth == 0:
            types.add(WORDS[word])
        elif word in PART_BASES or word in names:
            parts.add(PART_BASES.get(word) or names[word])
        elif depth == 0 and word[:1].isupper():
            types.add("python")
    return types, parts


def _literals(annotation: str) -> list[str]:
    return docstrings.literals(annotation)


def _type_of(default: Any) -> str | None:
    if default is None:
        return "null"
    for kind, word in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (tuple, "list"), (list, "list"), (dict, "dict")):
        if isinstance(default, kind):
            return word
    return "python"


def _plain(value: Any) -> Any:
    """A default as JSON holds it, None where it cannot."""
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return None


if __name__ == "__main__":
    CATALOG.write_text(dumps(generate()), encoding="utf-8")
