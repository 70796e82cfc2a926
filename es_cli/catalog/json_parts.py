"""JSON Schema of the components: one definition for each class, `physics.Inpainting`, and one for each kind, `physics`, which is any of its classes.

It says of one component what `checking.py` says: a name, its parameters, their types and the parts that they take.
"""

from __future__ import annotations

from typing import Any

from es_cli.catalog.checking import WEIGHT_FILES, kinds_in
from es_cli.catalog.consistency import LEVELS
from es_cli.catalog.entries import CONTEXT_PARAMETERS, KINDS, Entry, Parameter, find
from es_cli.catalog.listing import givable, nameable, page
from es_cli.catalog.loading import FROM_TOP_LEVEL
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING, MEASURED, NOISE_AWARE
from es_cli.spec.schema import FROM_DATA

Json = dict[str, Any]

ARRAY: Json = {"$ref": "#/$defs/ArrayFile"}
# a mapping with one of these keys is a part or an array, not a mapping of the user's own
RESERVED: Json = {"anyOf": [{"required": [key]} for key in ("name", "file", "tensor")]}
PLAIN: dict[str, list[Json]] = {
    "null": [{"type": "null"}],
    "bool": [{"type": "boolean"}],
    "int": [{"type": "integer"}],
    "float": [{"type": "number"}],
    "str": [{"type": "string"}],
    "dict": [{"type": "object", "not": RESERVED}],
    "array": [ARRAY],
}
# what the top level of the spec, or the physics with its noise model and its generator of masks, says already
LOSSES_ARE_TOLD = frozenset({"mask_generator", "transform", "physics_generator", *LEVELS})
SIDES = {"consistency_loss": (MEASURED, *NOISE_AWARE), "prediction_loss": (MEASURED,)}
WEIGHT: Json = {"type": "number", "minimum": 0, "description": "what this side of the loss is multiplied by", "default": 1.0}


def definitions() -> dict[str, Json]:
    """By name, all classes that a spec can name and all kinds. Packages that register components are imported for it."""
    found = nameable()
    made = {f"{entry.kind}.{entry.name}": component(entry) for entry in found}
    for kind in KINDS:
        made[kind] = any_of([entry for entry in found if entry.kind == kind and not entry.nested_only], f"a {kind}, by name or with parameters")
    return made


def any_of(found: list[Entry], description: str, form: str = "{kind}.{name}") -> Json:
    """One of these classes: the bare name of one that needs nothing, or a mapping."""
    bare = [entry.name for entry in found if not _required(entry)]
    refs = [{"$ref": "#/$defs/" + form.format(kind=entry.kind, name=entry.name)} for entry in found]
    return {"description": description, "anyOf": [*([{"enum": bare}] if bare else []), *refs]}


def component(entry: Entry, extra: dict[str, Json] | None = None) -> Json:
    """A mapping with `name` and the parameters of one class, and the properties of `extra`."""
    properties: Json = {"name": {"const": entry.name, "description": _about(entry)}}
    for parameter in givable(entry):
        properties[parameter.name] = _parameter(parameter, entry)
    return {
        "type": "object",
        "description": _about(entry),
        "properties": {**properties, **(extra or {})},
        "required": ["name", *_required(entry)],
        "additionalProperties": False,
    }


def _about(entry: Entry) -> str:
    return f"{entry.meaning or entry.name} ({page(entry) or entry.origin})"


def _required(entry: Entry) -> list[str]:
    known = CONTEXT_PARAMETERS | (LOSSES_ARE_TOLD if entry.kind == "loss" else frozenset())
    return [one.name for one in entry.parameters if one.required and one.name not in known]


def _parameter(parameter: Parameter, entry: Entry) -> Json:
    notes = [parameter.meaning] if parameter.meaning else []
    if parameter.name in CONTEXT_PARAMETERS:
        notes.append("known from the data where it is left out")
    described: Json = {"description": "; ".join(notes)} if notes else {}
    if parameter.default is not None:
        described["default"] = parameter.default
    return {**_value(parameter, entry), **described}


def _value(parameter: Parameter, entry: Entry) -> Json:
    if entry.name == EQUIVARIANT_SPLITTING and parameter.name in {*FROM_TOP_LEVEL, "img_size"}:
        return {"type": "null"}
    if entry.name == EQUIVARIANT_SPLITTING and parameter.name in SIDES:
        return {"anyOf": [{"type": "null"}, *_side(SIDES[parameter.name])]}
    if parameter.downloads:
        fresh = [] if parameter.required else [{"const": parameter.default}]
        return {"anyOf": [*fresh, {"type": "string", "pattern": _suffixes()}]}
    kinds = kinds_in(parameter, entry)
    if not parameter.types and not kinds:
        return {}
    forms = [*_plain(parameter), *_parts(kinds)]
    if "list" in parameter.types:
        forms += [{"type": "array", "items": _item(kinds)}, *([] if "array" in parameter.types else [ARRAY])]
    if entry.kind == "physics" and parameter.name == "mask":
        forms.append({"const": FROM_DATA})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _plain(parameter: Parameter) -> list[Json]:
    forms: list[Json] = []
    for word in parameter.types:
        forms += [{"enum": list(parameter.choices)}] if word == "str" and parameter.choices else PLAIN.get(word, [])
    if parameter.default is None and not parameter.required and "null" not in parameter.types:
        forms += PLAIN["null"]
    return forms


def _parts(kinds: tuple[str, ...]) -> list[Json]:
    nested = [entry for entry in nameable("physics") if entry.nested_only] if "physics" in kinds else []
    return [*({"$ref": f"#/$defs/{kind}"} for kind in kinds), *({"$ref": f"#/$defs/{one.kind}.{one.name}"} for one in nested)]


def _item(kinds: tuple[str, ...]) -> Json:
    """What stands in a list: parts of these kinds, arrays, and plain values."""
    return {"anyOf": [*_parts(kinds), ARRAY, {"not": {"type": "object", **RESERVED}}]}


def _side(names: tuple[str, ...]) -> list[Json]:
    """A loss on one side of equivariant splitting, which may have a weight."""
    found = [entry for name in names if (entry := find(name, ("loss",))) is not None]
    return [{"enum": [entry.name for entry in found]}, *(component(entry, {"weight": WEIGHT}) for entry in found)]


def _suffixes() -> str:
    """Ends in one of WEIGHT_FILES, in letters of any case."""
    either = ["".join(f"[{letter}{letter.upper()}]" for letter in suffix.lstrip(".")) for suffix in WEIGHT_FILES]
    return rf"\.({'|'.join(either)})$"
