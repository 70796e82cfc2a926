"""JSON Schema of a whole spec, for editors: the sections as pydantic knows them, and the components as the catalogue does.

In draft 7, which every editor knows. What the text of a spec cannot say wrongly without breaking a line of `spec/schema.py` or of the catalogue is in it;
what parts say about one another (`consistency.py`) is not.
"""

from __future__ import annotations

from typing import Any

from es_cli.catalog.json_parts import Json, any_of, component, definitions
from es_cli.catalog.listing import nameable
from es_cli.spec.schema import LONGEST_NAME, LossTerm, Spec

NULL: Json = {"type": "null"}
TEXT: Json = {"type": "string", "minLength": 1}
PIXELS: Json = {"type": "integer", "minimum": 1}
SIZE: Json = {"anyOf": [PIXELS, {"type": "array", "items": PIXELS, "minItems": 2, "maxItems": 2}, NULL]}
# pydantic's words for bounds behind a validator of our own → JSON Schema's
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _some(*forms: Json) -> Json:
    return {"anyOf": list(forms)}


TRANSFORMS = _some(_ref("transform"), {"type": "array", "items": _ref("transform"), "minItems": 1}, NULL)
GROUP = _some({"enum": ["full", "random", "trivial"]}, _ref("transform_with_parameters"), {"type": "array", "items": _ref("transform"), "minItems": 1}, NULL)
PARAMETERS: Json = {"type": ["object", "null"], "additionalProperties": _some(TEXT, _ref("ArrayFile"))}
NO_NAME = r'/\\:*?"<>|'  # in the name of a folder
FOLDER: Json = {"type": "string", "pattern": f"^[^-. {NO_NAME}]([^{NO_NAME}]*[^. {NO_NAME}])?$", "maxLength": LONGEST_NAME}
# settings whose YAML has more forms than the type of the field: section, setting, what may stand there
FORMS: dict[tuple[str, str], Json] = {
    ("Spec", "name"): FOLDER,
    ("Spec", "physics"): _ref("physics"),
    ("Spec", "data"): _ref("Data"),
    ("Spec", "mask_generator"): _some(_ref("generator"), NULL),
    ("Spec", "transforms"): _some(_ref("group_name"), _ref("Transforms"), NULL),
    ("Spec", "losses"): _some({"type": "array", "items": _ref("loss_term"), "minItems": 1}, NULL),
    ("Spec", "test"): _some(_ref("Test"), NULL),
    ("Spec", "model"): _ref("model"),
    ("Spec", "training"): _some(_ref("Training"), NULL),
    ("Data", "validation"): _some({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, _ref("Pair")),
    ("Data", "scale"): _some({"enum": ["none", "per-sample"]}, {"type": "number", "exclusiveMinimum": 0}, NULL),
    ("Data", "params"): PARAMETERS,
    ("Pair", "measurements"): _some(TEXT, _ref("Source"), NULL),
    ("Pair", "images"): _some(TEXT, _ref("Source"), NULL),
    ("Pair", "params"): PARAMETERS,
    ("Source", "crop"): SIZE,
    ("Source", "resize"): SIZE,
    ("Transforms", "group"): _some(_ref("group_name"), NULL),
    ("Transforms", "train"): TRANSFORMS,
    ("Transforms", "eval"): _some(*GROUP["anyOf"], _ref("transform")),
    ("Test", "splits"): _some({"enum": ["none", "complementary"]}, {"type": "integer", "minimum": 1}, NULL),
    ("Test", "group"): GROUP,
    ("Training", "optimizer"): _ref("optimizer"),
    ("Training", "scheduler"): _some(_ref("scheduler"), NULL),
    ("Training", "freeze"): _some(TEXT, {"type": "array", "items": TEXT}, NULL),
}
# what es accepts beside the fields of a section, as the short or deepinv's form of another
ALSO = {
    ("Data", "params"): "short for data.train.params",
    ("Transforms", "eval"): "deepinv's word for test.group",
}
EXCLUSIVE = {"Source": ("file", "sample"), "Transforms": ("group", "train"), "Training": ("epochs", "steps")}
ONE_OF = {"Source": ("file", "sample"), "Pair": ("measurements", "images")}  # at least


def _given(name: str, form: Json | None = None) -> Json:
    """A mapping in which `name` stands, as `form`; None is anything but null."""
    return {"required": [name], "properties": {name: form or {"not": NULL}}}


# what a setting needs beside it: (the setting, what it needs)
NEEDS: dict[str, tuple[tuple[Json, Json], ...]] = {
    "Source": (
        (_given("part"), _given("sample")),
        (_given("key"), _given("file")),
        (_given("crops_per_image", {"type": "integer", "minimum": 2}), _given("crop")),
    ),
    "Test": ((_given("folds"), _given("splits", {"const": "complementary"})),),
    "Training": ((_given("folds"), _given("splits", {"const": "complementary"})),),
}


def json_schema() -> Json:
    """The schema, as plain values. Packages that register components are imported for it; torch and deepinv are not."""
    made = Spec.model_json_schema()
    sections: Json = {"Spec": made, **made.pop("$defs")}
    for unused in ("Component", "LossTerm"):
        del sections[unused]
    groups = sections["Transforms"]["properties"]["group"]["anyOf"][0]["enum"]
    for (section, name), form in FORMS.items():
        properties = sections[section]["properties"]
        kept = {key: value for key, value in properties.get(name, {}).items() if key in ("description", "default")}
        properties[name] = {**form, **kept} if name in properties else {**form, "description": ALSO[section, name]}
    for section in sections:
        _relate(sections[section], section)
    spec = sections.pop("Spec")
    spec["required"] = [*spec["required"], "data"]
    parts = {**definitions(), **_more_definitions(), "group_name": {"enum": ["none", *groups]}}
    tidy: Json = _tidy({**spec, "$defs": {**sections, **parts}})
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "A spec of es", **tidy}


def _relate(made: Json, section: str) -> None:
    """What the settings of a section say about one another."""
    if section in EXCLUSIVE:
        made["not"] = {"allOf": [_given(name) for name in EXCLUSIVE[section]]}
    if section in ONE_OF:
        made["anyOf"] = [_given(name) for name in ONE_OF[section]]
    if section in NEEDS:
        made["allOf"] = [{"if": one, "then": other} for one, other in NEEDS[section]]


def _more_definitions() -> dict[str, Json]:
    """What stands in `losses`, with the keys that es reserves; and a transform that is more than a name, where names mean something else."""
    reserved = _tidy({name: one for name, one in LossTerm.model_json_schema()["properties"].items() if name != "loss"})
    losses = nameable("loss")
    terms = {f"loss_term.{entry.name}": component(entry, reserved) for entry in losses}
    transforms = any_of(nameable("transform"), "a transform with its parameters")
    transforms["anyOf"] = [form for form in transforms["anyOf"] if "$ref" in form]
    return {**terms, "loss_term": any_of(losses, "a loss, by name or with parameters", "loss_term.{name}"), "transform_with_parameters": transforms}


def _tidy(node: Any, names: bool = False) -> Any:
    """Without pydantic's titles; bounds in JSON Schema's words; what draft 7 ignores beside a $ref, around it. `names`: the keys are names, not words."""
    if isinstance(node, list):
        return [_tidy(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _tidy(inner) for key, inner in node.items()}
    kept = {BOUNDS.get(key, key): _tidy(inner, key in ("properties", "$defs")) if key != "default" else inner for key, inner in node.items() if key != "title"}
    if "$ref" in kept and len(kept) > 1:
        return {"allOf": [{"$ref": kept.pop("$ref")}], **kept}
    return kept
