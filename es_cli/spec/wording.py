"""pydantic's errors in plain words: (path, what is wrong, what to do)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from es_cli.spec.component import GrammarError, shown
from es_cli.spec.schema import Data, LossTerm, Pair, Source, Spec, Test, Training, Transforms
from es_cli.spec.yaml_reader import Path

SECTIONS: dict[str, type[BaseModel]] = {
    "": Spec,
    "data": Data,
    "train": Pair,
    "validation": Pair,
    "measurements": Source,
    "images": Source,
    "transforms": Transforms,
    "training": Training,
}
WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a section of 'key: value' lines",
    "model_attributes_type": "a section of 'key: value' lines",
    "dict_type": "a section of 'key: value' lines",
    "tuple_type": "a list",
    "list_type": "a list",
}
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def in_plain_words(error: ValidationError, raw: Any) -> list[tuple[Path, str, str]]:
    """All faults of a validation of `raw`."""
    found: list[tuple[Path, str, str]] = []
    for one in error.errors(include_url=False):
        path = _real(one["loc"], raw)
        inner = (one.get("ctx") or {}).get("error")
        if isinstance(inner, GrammarError):
            found += [(_real((*path, *below), raw), what, hint) for below, what, hint in inner.faults]
        else:
            found.append((path, *_sentence(one, path)))
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`, if any is near; letter case does not count."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.65)
    return by_lower[near[0]] if near else None


def _sentence(one: Any, path: Path) -> tuple[str, str]:
    kind, context, given = one["type"], one.get("ctx") or {}, one.get("input")
    described = _description(path)
    if kind == "extra_forbidden":
        return "unknown key", _place_for(str(path[-1]), path)
    if kind == "missing":
        return "missing", described and f"add {path[-1]}: {described}"
    if kind in WANTED:
        hint = described
        if kind == "string_type" and not isinstance(given, (dict, list)) and given is not None:
            hint = "put it in quotes"
        if kind == "bool_type" and isinstance(given, str) and given.lower() in YES_NO:
            hint = f"write {YES_NO[given.lower()]}"
        return f"wanted {WANTED[kind]}, got {shown(given)}", hint
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return f"must be {words} {context[key]}, got {shown(given)}", described
    if kind == "literal_error":
        near = did_you_mean(given, _choices(context["expected"])) if isinstance(given, str) else None
        what = f"must be one of {', '.join(_choices(context['expected']))}, got {shown(given)}"
        return what, f"did you mean {near}?" if near else described
    if kind == "string_too_short":
        return "wanted text, got nothing", described
    what, _, hint = str(context.get("error", one["msg"])).partition("; ")
    return what, hint


def _choices(expected: str) -> list[str]:
    return [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]


def _section(path: Path) -> type[BaseModel] | None:
    if not path:
        return Spec
    if path[0] == "test" and len(path) == 1:
        return Test
    if path[0] == "losses" and len(path) == 2:
        return LossTerm
    if path[:2] == ("data", "test") and len(path) == 2:
        return Pair
    return SECTIONS.get(str(path[-1]))


def _description(path: Path) -> str:
    section = _section(path[:-1]) if path else None
    known = section.model_fields.get(str(path[-1])) if section is not None else None
    return (known.description or "") if known is not None else ""


def _place_for(word: str, path: Path) -> str:
    section = _section(path[:-1])
    known = list(section.model_fields) if section is not None else []
    near = did_you_mean(word, known)
    if near:
        return f"did you mean {near}?"
    sections: dict[str, type[BaseModel]] = {**SECTIONS, "test": Test}
    for name, other in sections.items():
        if name not in {"train", "validation"} and word in other.model_fields:
            return f"it belongs under {name}" if name else "it belongs at the top level"
    return f"known here: {', '.join(known)}"


def _real(loc: Path, raw: Any) -> Path:
    """`loc` without what pydantic adds of its own, such as the branch of a union that it tried."""
    path: list[str | int] = []
    node = raw
    for i, part in enumerate(loc):
        if isinstance(node, dict) and (part in node or i == len(loc) - 1):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        path.append(part)
    return tuple(path)
