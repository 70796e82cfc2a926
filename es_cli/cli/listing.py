"""`es list`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.completion import complete_components_of_kind, complete_kinds_and_components
from es_cli.cli.console import answer, answer_json, complain, plain
from es_cli.cli.options import AsJson, Verbose

if TYPE_CHECKING:
    from es_cli.catalog import Entry


def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="physics, noise, generator, transform, loss, metric, model, optimizer or scheduler; or a name.",
            show_default=False,
            autocompletion=complete_kinds_and_components,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One component: its parameters, defaults and meaning.", show_default=False, autocompletion=complete_components_of_kind),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what a spec can name, one component a line: kind, name, source, meaning and parameters, with tabs between.

    The source is deepinv, torch, es, or name and version of an installed package that registers the component. Parameters in [brackets] are known from the data.
    With a name, its parameters follow, one a line: name, default, what may stand there and meaning. torch is imported only where a package registers something.

    \b
    Examples:
      es list physics
      es list model ArtifactRemoval
      es list --json
    """
    from es_cli.catalog import KINDS
    from es_cli.catalog.listing import check_kind, look_up, nameable

    if kind is not None and name is not None:
        check_kind(kind)
    of_kind = kind in KINDS or kind is None
    if name is None and of_kind:
        _answer(nameable(kind), as_json)
        say_what_is_left_out()
        return
    entry = look_up(name or str(kind), kind if of_kind else None)
    _answer([entry], as_json)
    if not as_json:
        _answer_parameters(entry)


def say_what_is_left_out() -> None:
    """What packages register and nobody can name: said on standard error, and no reason to stop."""
    from es_cli.catalog.entries import replaced_by_none
    from es_cli.catalog.listing import not_loaded

    for entry in not_loaded():
        complain(f"{entry.name} is left out: {entry.refused}", "note: ")
    for name in replaced_by_none():
        complain(f"{name} is left out: es has a component of that name", "note: ")


def _answer(found: list[Entry], as_json: bool) -> None:
    from es_cli.catalog.listing import call

    if as_json:
        answer_json({"components": [dataclasses.asdict(entry) for entry in found]})
        return
    for entry in found:
        answer("\t".join(plain(cell) for cell in (entry.kind, entry.name, entry.origin, entry.meaning, call(entry))))


def _answer_parameters(entry: Entry) -> None:
    from es_cli.catalog.listing import accepts, default, givable

    for one in givable(entry):
        answer("\t".join(plain(cell) for cell in (one.name, default(one), accepts(one, entry), one.meaning)))
    for one in entry.parameters:
        if one.refused is not None:
            answer("\t".join(plain(cell) for cell in (one.name, "cannot be given", "", one.refused)))
