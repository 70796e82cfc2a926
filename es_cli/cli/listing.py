"""`es list`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.completion import complete_components_of_kind, complete_kinds_and_components
from es_cli.cli.console import answer, answer_json, answer_table, complain, plain
from es_cli.cli.options import Verbose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from es_cli.catalog import Entry

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, instead of lines.")]


def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="physics, noise, generator, transform, loss, metric, model, optimizer or scheduler; or the name of a component.",
            show_default=False,
            autocompletion=complete_kinds_and_components,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A component, to see what it takes.", show_default=False, autocompletion=complete_components_of_kind)
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List what a spec can name, with its parameters, defaults, meaning and source.

    One component a line: kind, name, parameters, source and meaning, with tabs between them where standard output is no terminal. Parameters in [brackets]
    are known from the data. With a name, one parameter a line: name, default, what it accepts, and what it means. Components of installed packages (the
    entry-point group es_cli.components) are shown with their package.

    \b
    Examples:
      es list
      es list loss
      es list Tomography
      es list model UNet --json
      es list physics | cut -f 2
    """
    from es_cli.catalog import KINDS
    from es_cli.catalog.listing import check_kind, look_up, nameable, to_dict

    if name is not None or (kind is not None and kind not in KINDS):
        if name is not None:
            check_kind(str(kind))
        entry = look_up(name or str(kind), kind if name is not None else None)
        answer_json(to_dict(entry)) if as_json else _describe(entry)
        return
    found = nameable(kind)
    say_what_is_left_out()
    if as_json:
        answer_json({"components": [to_dict(entry) for entry in found]})
    else:
        _answer_lines(found)


def say_what_is_left_out() -> None:
    """Packages that cannot be used stop nobody from naming what there is."""
    from es_cli.catalog.entries import replaced_by_none
    from es_cli.catalog.listing import not_loaded

    for entry in not_loaded():
        complain(f"{entry.name} is left out: {entry.refused}", "note: ")
    for name in replaced_by_none():
        complain(f"{name} is left out: es has a component of that name", "note: ")


def _answer_lines(found: Sequence[Entry]) -> None:
    from es_cli.catalog.listing import call

    rows = [(entry.kind, entry.name, call(entry), entry.origin, entry.meaning) for entry in found]
    if not sys.stdout.isatty():
        _answer_tabs(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for ratio in (None, None, 2, None, 3):
        table.add_column(no_wrap=True, ratio=ratio, overflow="ellipsis")
    for row in rows:
        table.add_row(*[Text(plain(cell)) for cell in row])
    answer_table(table)


def _describe(entry: Entry) -> None:
    from es_cli.catalog.listing import accepts, default, givable, page

    where = page(entry)
    answer(f"{entry.name} ({entry.kind}, {entry.origin}): {plain(entry.meaning) or 'not described'}")
    answer(f"see {where}" if where else f"see {entry.module}")
    rows = [(one.name, default(one), accepts(one, entry), one.meaning) for one in givable(entry)]
    if not sys.stdout.isatty():
        _answer_tabs(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("parameter", "default", "accepts", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*[Text(plain(cell)) for cell in row])
    answer_table(table)


def _answer_tabs(rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        answer("\n".join("\t".join(plain(cell) for cell in row) for row in rows))
