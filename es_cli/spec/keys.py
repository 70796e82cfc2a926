"""Every key of a spec by its path, as `a.b=value` on the command line has it: its meaning, its default and its only words. Read off `schema.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from es_cli.spec.component import Component, plain
from es_cli.spec.schema import LossTerm, Section, Spec

ONLY_IN_A_CHECKPOINT = {"data"}  # can be left out there alone


@dataclass(frozen=True)
class Key:
    """One key.

    `default` is as YAML writes it, "" for a section, whose keys have their own, "required" where there is none; `words` are those that it knows.
    `section` names what is below the key, "" where it is a plain value: keys with the same section have the same keys below them.
    """

    path: str
    meaning: str
    default: str
    words: tuple[str, ...] = ()
    section: str = ""


def keys_of(section: type[Section] = Spec, below: str = "") -> Iterator[Key]:
    """All keys of a section and of those in it, in the order of the schema; a loss stands at losses.0, its weight at losses.0.weight."""
    for name, field in section.model_fields.items():
        if section is LossTerm and name == "loss":  # its parameters stand among the keys of the term
            continue
        path = f"{below}{name}"
        inner = next(_sections(field.annotation), None)
        default = "required" if field.is_required() or path in ONLY_IN_A_CHECKPOINT else _default(field, inner)
        yield Key(path, field.description or "", default, tuple(_words(field.annotation)), "" if inner is None else inner.__name__)
        if inner is not None:
            yield from keys_of(inner, f"{path}.0." if inner is LossTerm else f"{path}.")


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _words(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is not dict:
        for inner in get_args(annotation):
            yield from _words(inner)


def _default(field: FieldInfo, inner: type[Section] | None) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return ""
    if inner is LossTerm:
        value = [term.loss.name for term in value]
    return value if isinstance(value, str) else _flow(plain(value) if isinstance(value, Component) else value)


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return value if isinstance(value, str) else json.dumps(value)
