"""`es schema`."""

from __future__ import annotations

from es_cli.cli.console import answer
from es_cli.cli.listing import say_what_is_left_out
from es_cli.cli.options import Verbose


def schema(verbose: Verbose = False) -> None:
    """Print the JSON Schema of a spec, with which an editor completes and checks it.

    Write it to a file beside your specs, and name it in the first line of a spec: # yaml-language-server: $schema=es.schema.json. Editors with the YAML
    language server (VS Code, Neovim, Emacs, Helix and others) then offer components with their parameters and defaults, and underline what es would refuse.
    What the parts of a spec say about one another, only es itself checks. It is JSON Schema draft 7, with components of installed packages in it.

    \b
    Examples:
      es schema > es.schema.json
      es schema | python -m json.tool --indent 1
    """
    import json

    from es_cli.catalog.json_schema import json_schema

    answer(json.dumps(json_schema(), ensure_ascii=False, separators=(",", ":")))
    say_what_is_left_out()
