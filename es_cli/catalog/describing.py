"""A class → its entry in the catalogue: what it takes, by its signatures, and what that means, by its docstrings.

Parameters come from the signatures of `__init__`, through the classes that it hands its keyword arguments up to.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from es_cli.catalog import docstrings, refusals
from es_cli.catalog.signatures import Signature, parameters_of

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


def entry(name: str, kind: str, cls: type, place: str, origin: str, names: dict[str, str]) -> dict[str, Any]:
    """The entry of `cls` as JSON holds it; `place` is the module that it is imported from, `names` the kinds of all classes by name."""
    documented = docstrings.parameters(cls)
    parameters = [_parameter(one, kind, name, documented, names) for one in parameters_of(cls) if not one.name.startswith("_")]
    made: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "module": place,
        "origin": origin,
        "meaning": docstrings.summary(cls),
        "parameters": parameters,
    }
    if kind == "loss" and _adapts(cls):
        made["adapts"] = True
    if kind == "model" and not _knows_the_operator(cls):
        made["denoiser"] = True
    if name in refusals.NESTED_ONLY:
        made["nested_only"] = True
    refused = refusals.of_class(name, kind, cls) or _unfillable(parameters)
    if refused:
        made["refused"] = refused
    return made


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
