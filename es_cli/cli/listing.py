"""`es list`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.console import answer, answer_json, plain
from es_cli.cli.options import AsJson, Verbose
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.catalog import Entry, Parameter

IN_WORDS = {"dict": "mapping", "str": "text", "null": "null", "int": "integer", "float": "number", "bool": "true or false", "array": "array or {file: …}"}


def list_components(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="physics, noise, generator, transform, loss, metric, model, optimizer or scheduler; or a name.", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One component: its parameters, defaults and meaning.", show_default=False)] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a spec can name, one component a line: kind, name, source and meaning, with tabs between.

    With a name, its parameters follow, one a line: name, default, what YAML may hold for it and meaning. Nothing is imported to know that.

    \b
    Examples:
      es list physics
      es list model ArtifactRemoval
      es list --json
    """
    found = chosen(kind, name)
    one = found[0] if len(found) == 1 and (name is not None or kind == found[0].name) else None
    if as_json:
        answer_json({"components": [dataclasses.asdict(entry) for entry in found]})
        return
    lines = ["\t".join((entry.kind, entry.name, entry.origin, plain(entry.meaning))) for entry in found]
    if one is not None:
        lines += ["\t".join((parameter.name, _default(parameter), accepts(parameter), plain(parameter.refused or parameter.meaning))) for parameter in one.parameters]
    answer("\n".join(lines))


def chosen(kind: str | None, name: str | None) -> list[Entry]:
    """The components of a kind, all of them for None, or the one of a name. Raises UsageError where there is none."""
    from es_cli.catalog import KINDS, entries, find, suggest
    from es_cli.spec.wording import did_you_mean

    if kind is not None and kind not in KINDS:
        if name is not None:
            nearest = did_you_mean(kind, KINDS)
            raise UsageError(f"there is no kind {kind}", hint=f"did you mean {nearest}?" if nearest else f"kinds are {', '.join(KINDS)}")
        kind, name = None, kind
    kinds = None if kind is None else (kind,)
    if name is None:
        return [entry for entry in entries(kinds) if entry.refused is None]
    entry = find(name, kinds)
    if entry is None:
        nearest = suggest(name, kinds) or (did_you_mean(name, KINDS) if kind is None else None)
        raise UsageError(f"there is no {kind or 'component'} {name}", hint=f"did you mean {nearest}?" if nearest else f"es list {kind or ''}".strip() + " names all")
    if entry.refused is not None:
        raise UsageError(f"{name} cannot be built from a spec: {entry.refused}", hint=f"es list {entry.kind} names what can")
    return [entry]


def accepts(parameter: Parameter) -> str:
    """What YAML may hold for a parameter, in words."""
    if parameter.choices:
        return " | ".join(parameter.choices)
    kinds = [IN_WORDS.get(kind, kind) for kind in parameter.types] + [f"a {kind}" for kind in parameter.parts]
    return " | ".join(kinds) or "anything"


def _default(parameter: Parameter) -> str:
    from es_cli.catalog import CONTEXT_PARAMETERS

    if parameter.refused is not None:
        return "cannot be given"
    if not parameter.required:
        return "null" if parameter.default is None else plain(parameter.default)
    return "filled in" if parameter.name in CONTEXT_PARAMETERS else "required"
