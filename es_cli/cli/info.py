"""`es info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from es_cli.cli.completion import complete_checkpoints
from es_cli.cli.console import answer, answer_json, answer_table, plain
from es_cli.cli.options import AsJson, Verbose
from es_cli.errors import UsageError

LONGEST = 300  # characters of one part of the spec; --json has all


def info(
    ckpt: Annotated[
        Path, typer.Argument(metavar="FILE", help="A model.safetensors.", show_default=False, autocompletion=complete_checkpoints)
    ],
    as_json: AsJson = False,
    as_card: Annotated[bool, typer.Option("--card", help="A model card in markdown, filled from the checkpoint, instead of a table.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say what a checkpoint holds.

    \b
    Examples:
      es info run/model.safetensors
      es info run/model.safetensors --json
      es info run/model.safetensors --card > card.md
    """
    if as_json and as_card:
        raise UsageError("--json and --card exclude each other", hint="leave one of them out")
    from es_cli.card import card, facts
    from es_cli.checkpoint import read_metadata

    metadata = read_metadata(ckpt)
    if as_json:
        answer_json(vars(metadata))
        return
    if as_card:
        answer(card(metadata).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, value in facts(metadata).items():
        text = plain(value)
        table.add_row(name, Text(text if len(text) <= LONGEST else text[:LONGEST] + " ..."))
    answer_table(table)
