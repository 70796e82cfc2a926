"""`es schema`."""

from __future__ import annotations

from es_cli.cli.console import answer
from es_cli.cli.listing import say_what_is_left_out
from es_cli.cli.options import Verbose


def schema(verbose: Verbose = False) -> None:
    """Print the JSON Schema of a spec, with which an editor completes and checks it.

    Write it to a file, and name the file in the first line of a spec: `# yaml-language-server: $schema=es.schema.json`. Editors with the YAML language
    server (VS Code, Neovim, Emacs, Helix and others) then offer components and their parameters, and underline what es would refuse. It holds what the text of a spec and
    the catalogue say; what its parts say about one another, only es itself checks.

    \b
    Examples:
      es schema > es.schema.json
      es schema | python -m json.tool --indent 1
    """
    import json

    from es_cli.catalog.json_schema import json_schema

    say_what_is_left_out()
    answer(json.dumps(json_schema(), ensure_ascii=False, separators=(",", ":")))
