"""A part against the catalogue: its name, its parameters, and the parts nested in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from es_cli.catalog.entries import CONTEXT_PARAMETERS, KINDS, Entry, Found, Parameter, entries, find, suggest
from es_cli.spec.component import ArrayFile, Component, TensorRef, shown
from es_cli.spec.schema import FROM_DATA
from es_cli.spec.wording import YES_NO, did_you_mean

WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "array": "an array ({file: PATH})",
    "null": "null",
}
# what is done again and again: a spec, which may be a stranger's, sets no machine to work for days before the first step
REPEATED = {"num_iter", "inner_iter", "outer_iter", "num_cascades", "depth", "num_blocks", "n_layers", "solver_steps", "refine_steps"}
MOST_REPEATS, MOST_CHANNELS = 1000, 1 << 14
WEIGHT_FILES = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")
WEIGHTS = "weights"  # a reserved key of every model: the file that its weights are read from
ARTICLE = {"optimizer": "an optimizer", "physics": "a physics", "noise": "a noise model", "generator": "a generator", "model": "a model"}
# top-level keys that fill a parameter of the same name in a loss
TOP_LEVEL = {
    "mask_generator": "add mask_generator: {name: …} at the top level of the spec",
    "transform": "add transforms: {group: D4} at the top level of the spec",
}


def check(component: Component, path: str, kinds: Iterable[str], filled: Iterable[str] = (), *, nested: bool = False) -> Found:
    """What is wrong with a part: (path in the spec, what, hint) each.

    `filled` are parameters that es fills in beside CONTEXT_PARAMETERS.
    """
    kinds = tuple(kinds)
    entry = find(component.name, kinds)
    if entry is None:
        return [(f"{path}.name" if component.parameters else path, *_no_such_class(component.name, kinds))]
    if entry.refused is not None:
        return [(path, f"{entry.name} cannot be built from a spec: {entry.refused}", _instead(entry))]
    if entry.nested_only and not nested:
        return [(path, f"{entry.name} cannot stand alone", "it describes the geometry of Ptychography")]
    found: Found = []
    for name, value in component.parameters.items():
        found += _check_parameter(entry, name, value, f"{path}.{name}")
    if len(files := weight_files(component)) > 1 and entry.kind == "model":
        found.append((path, f"{' and '.join(files)} both name a file of weights", "keep one of them"))
    for parameter in entry.parameters:
        if parameter.required and parameter.name not in component.parameters and parameter.name not in {*CONTEXT_PARAMETERS, *filled}:
            hint = TOP_LEVEL.get(parameter.name, _described(parameter)) if entry.kind == "loss" else _described(parameter)
            found.append((path, f"{entry.name} needs {parameter.name}", hint))
    return found


def with_parts(component: Component, kinds: Iterable[str]) -> Component:
    """The part with bare names made parts where a part is wanted, and downloads replaced by fresh weights."""
    entry = find(component.name, kinds)
    if entry is None:
        return component
    values = {name: _with_parts(entry.parameter(name), value, entry) for name, value in component.parameters.items()}
    for parameter in entry.parameters:
        if parameter.downloads and not parameter.required and parameter.name not in values:
            values[parameter.name] = parameter.default
    return Component(name=component.name, parameters=values)


def is_weights(entry: Entry | None, name: str) -> bool:
    """Whether a parameter of a model names its weights: deepinv's own `pretrained` and the like, or the reserved `weights`."""
    if entry is None or entry.kind != "model":
        return False
    parameter = entry.parameter(name)
    return parameter.downloads if parameter is not None else name == WEIGHTS


def names_file(value: Any) -> bool:
    """Whether a value is the path of a file of weights, and no word for one that would be downloaded."""
    return isinstance(value, str) and value.lower().endswith(WEIGHT_FILES)


def weight_files(component: Component) -> dict[str, str]:
    """The files of weights that a model itself names, by parameter; not those of parts nested in it."""
    entry = find(component.name, ("model",))
    return {name: value for name, value in component.parameters.items() if is_weights(entry, name) and names_file(value)}


def kinds_in(parameter: Parameter, entry: Entry) -> tuple[str, ...]:
    """Which parts a parameter takes: a generator may also stand where the operator wants an array."""
    drawn = ("generator",) if entry.kind == "physics" and "array" in parameter.types else ()
    return (*parameter.parts, *drawn)


def _with_parts(parameter: Parameter | None, value: Any, entry: Entry) -> Any:
    kinds = () if parameter is None else kinds_in(parameter, entry)
    if isinstance(value, str) and kinds and (parameter is not None and "str" not in parameter.types) and find(value, kinds) is not None:
        value = Component(name=value)
    if isinstance(value, Component):
        return with_parts(value, kinds or KINDS)
    if isinstance(value, tuple):
        return tuple(_with_parts(parameter, inner, entry) for inner in value)
    return value


def _no_such_class(name: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    wanted = " or ".join(ARTICLE.get(kind, f"a {kind}") for kind in kinds)
    other = find(name)
    if other is not None:
        return f"{name} is {ARTICLE.get(other.kind, f'a {other.kind}')}; wanted {wanted}".replace(";", ","), f"such as {_example(kinds)}"
    near = suggest(name, kinds)
    return f"no {' or '.join(kinds)} is called {name}", f"did you mean {near}?" if near else f"such as {_example(kinds)}"


def _example(kinds: tuple[str, ...]) -> str:
    known = {
        "physics": "Inpainting",
        "noise": "GaussianNoise",
        "generator": "BernoulliSplittingMaskGenerator",
        "transform": "Rotate",
        "loss": "MCLoss",
    }
    known |= {"metric": "PSNR", "model": "UNet", "optimizer": "AdamW", "scheduler": "CosineAnnealingLR"}
    return " or ".join(known[kind] for kind in kinds)


def _instead(entry: Entry) -> str:
    near = [
        other.name
        for other in entries((entry.kind,))
        if other.refused is None and not other.nested_only and entry.name.lower() in other.name.lower()
    ][:3]
    return f"such as {', '.join(near)}" if near else f"such as {_example((entry.kind,))}"


def _described(parameter: Parameter) -> str:
    meaning = parameter.meaning[:1].lower() + parameter.meaning[1:] if parameter.meaning[1:2].islower() else parameter.meaning
    return f"add {parameter.name}: {_cut(meaning, 90) or wanted_in_words(parameter, parameter.parts)}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0] + "…"


def _check_parameter(entry: Entry, name: str, value: Any, path: str) -> Found:
    parameter = entry.parameter(name)
    if parameter is None and is_weights(entry, name):
        parameter = Parameter(WEIGHTS, downloads=True)
    if parameter is None:
        givable = [one.name for one in entry.parameters if one.refused is None]
        near = did_you_mean(name, givable)
        hint = f"did you mean {near}?" if near else f"it takes {_cut(', '.join(givable), 160)}" if givable else "it takes no parameters"
        return [(path, f"{entry.name} has no parameter {name}", hint)]
    if parameter.refused is not None:
        return [(path, f"{name} cannot be given: {parameter.refused}", "leave it out")]
    if parameter.downloads:
        return _check_weights(parameter, value, path)
    return _check_value(entry, parameter, value, path)


def _check_weights(parameter: Parameter, value: Any, path: str) -> Found:
    fresh = "null" if parameter.default is None else str(parameter.default).lower()
    if value == parameter.default and type(value) is type(parameter.default) and not parameter.required:
        return []
    if names_file(value):
        return []
    if parameter.required:
        return [
            (
                path,
                f"wanted a file of weights, got {shown(value)}",
                "es never reaches for the network; download them once and give the file",
            )
        ]
    if parameter.name == WEIGHTS or not isinstance(value, (str, bool)):
        return [(path, f"wanted a file of weights, got {shown(value)}", f"give a path that ends in {', '.join(WEIGHT_FILES)}, or leave it out")]
    hint = f"leave it out ({fresh} is fresh weights), or fetch the file yourself and give its path, such as weights.pth"
    return [(path, f"{shown(value)} would be downloaded, and es never reaches for the network", hint)]


def _check_value(entry: Entry, parameter: Parameter, value: Any, path: str) -> Found:
    kinds = kinds_in(parameter, entry)
    if entry.kind == "physics" and parameter.name == "mask" and value == FROM_DATA:
        return []
    if isinstance(value, Component):
        return _check_part(entry, parameter, value, path, kinds)
    if isinstance(value, tuple) and ("list" in parameter.types or not (parameter.types or kinds)):
        inside = [fault for i, inner in enumerate(value) if isinstance(inner, Component) for fault in _check_part(entry, parameter, inner, f"{path}.{i}", kinds)]
        return inside + _check_count(parameter.name, value, path)
    if parameter.choices and isinstance(value, str) and value not in parameter.choices:
        near = did_you_mean(value, parameter.choices)
        return [
            (
                path,
                f"must be one of {', '.join(parameter.choices)}, got {shown(value)}",
                f"did you mean {near}?" if near else _meaning(parameter),
            )
        ]
    if _fits(parameter, value, kinds):
        return _check_count(parameter.name, value, path)
    if isinstance(value, str) and kinds and "str" not in parameter.types:
        if find(value, kinds) is None and (parameter.parts or find(value) is not None):
            return [(path, *_no_such_class(value, kinds))]
        if find(value, kinds) is not None:
            return check(Component(name=value), path, kinds, nested=True)
    return [(path, f"wanted {wanted_in_words(parameter, parameter.parts)}, got {shown(value)}", _hint(parameter, value))]


def _check_count(name: str, value: Any, path: str) -> Found:
    """What a machine would be busy with for days, or need all its memory for, before anything else is found wrong with it."""
    limit = MOST_REPEATS if name in REPEATED else MOST_CHANNELS if name.endswith("channels") or name.startswith("channels_per") else None
    if limit is None:
        return []
    above = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, (int, float)) and one > limit]
    return [(path, f"{above[0]:g} is more than any network or solver takes", f"give {limit} or less")] if above else []


def _check_part(entry: Entry, parameter: Parameter, value: Component, path: str, kinds: tuple[str, ...]) -> Found:
    if not parameter.types and not kinds:
        found = find(value.name)
        return check(value, path, (found.kind,) if found else ("model",), nested=True)
    if not kinds:
        return [(path, f"wanted {wanted_in_words(parameter, ())}, got the part {value.name}", _meaning(parameter))]
    # what the top level of the spec, and the noise model of the physics, say already
    filled = ("mask_generator", "transform", "sigma", "gain") if entry.kind == "loss" else ()
    return check(value, path, kinds, filled, nested=True)


def _fits(parameter: Parameter, value: Any, kinds: tuple[str, ...]) -> bool:
    """Whether a plain value has a type that the parameter takes."""
    types = parameter.types
    if not types and not kinds:
        return True
    if isinstance(value, (ArrayFile, TensorRef)):
        return "array" in types or "list" in types
    if value is None:
        return "null" in types or (parameter.default is None and not parameter.required)
    if isinstance(value, bool):
        return "bool" in types
    if isinstance(value, int):
        return "int" in types or "float" in types
    if isinstance(value, float):
        return "float" in types or ("int" in types and value.is_integer() and abs(value) < 2**53)
    words: dict[type, str] = {str: "str", dict: "dict", tuple: "list", list: "list"}
    return words.get(type(value), "") in types


def wanted_in_words(parameter: Parameter, kinds: tuple[str, ...]) -> str:
    """What a parameter takes: parts of these kinds, and plain values."""
    types = [one for one in parameter.types if one in WORDS and not (one == "int" and "float" in parameter.types)]
    words = [ARTICLE.get(kind, f"a {kind}") + f" such as {_example((kind,))}" for kind in kinds] + [
        WORDS[one] for one in types if one != "null"
    ]
    words += ["null"] if "null" in types else []
    return " or ".join(words) or "another value"


def _hint(parameter: Parameter, value: Any) -> str:
    if isinstance(value, str) and "bool" in parameter.types and value.lower() in YES_NO:
        return f"write {YES_NO[value.lower()]}"
    if isinstance(value, str) and value.lower().endswith((".npy", ".npz", ".h5", ".hdf5", ".tif", ".tiff")) and "array" in parameter.types:
        return f"write {{file: {value}}}"
    return _meaning(parameter)


def _meaning(parameter: Parameter) -> str:
    meaning = f"{parameter.name}: {_cut(parameter.meaning, 110)}" if parameter.meaning else ""
    return meaning.replace(";", ",")
