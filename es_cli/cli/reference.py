"""The reference page: every command as its help has it, and every key of a spec as the schema has it, in Markdown.

    python -m es_cli.cli.reference > docs/reference.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import typer

from es_cli.cli.app import app
from es_cli.cli.console import answer
from es_cli.spec.keys import Key, keys_of

HEAD = """# Reference of `es`

Made from the help of the commands and the schema of specs by `python -m es_cli.cli.reference > docs/reference.md`; a test fails where it differs.

## Commands"""

SPEC = """## The spec

A YAML file. Each key below can be changed on the command line, behind the spec, as `training.steps=2000`. Where a component is wanted (an operator, a network, a loss, …)
stands its name alone, `UNet`, or a mapping with its parameters, `{name: UNet, in_channels: 1}`; `es list KIND NAME` says which there are. An array is `{file: PATH}`, or
`{file: PATH, key: NAME}` for one of several in an `.npz` or `.h5`. Paths count from the spec's folder. `es schema` prints the same for editors."""

OURS_NOT = {"install_completion", "show_completion"}  # options in Typer's words, which may change with its version
BLOCK = "\b\n"  # starts what is to be shown as it is written


def reference() -> str:
    """The page, with a line break at its end."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD, *_command("es", group, "###"), *(part for name, inner in group.commands.items() for part in _command(f"es {name}", inner, "###"))]
    return "\n\n".join([*parts, SPEC, *_sections(list(keys_of()))]) + "\n"


def _command(name: str, command: Any, heading: str) -> Iterator[str]:
    """Heading, synopsis, description, arguments and options, examples."""
    description, *blocks = (command.help or "").split(BLOCK)
    yield f"{heading} `{name}`"
    yield _code([_synopsis(name, command)])
    yield from (_escaped(" ".join(paragraph.split())) for paragraph in description.strip().split("\n\n"))
    own = [param for param in command.params if param.name not in OURS_NOT | {"help"}]
    rows = [(f"`{_written(param)}`", _escaped(param.help or ""), _default(param)) for param in own]
    yield _table(("argument or option", "meaning", "default"), rows)
    for block in blocks:
        title, _, lines = block.strip().partition("\n")
        yield title
        yield _code(line.removeprefix("  ") for line in lines.splitlines())


def _synopsis(name: str, command: Any) -> str:
    words = [_metavar(param) if param.required else f"[{_metavar(param)}]" for param in command.params if param.param_type_name == "argument"]
    return " ".join([name, *(["COMMAND"] if hasattr(command, "commands") else []), *words, "[OPTIONS]"])


def _written(param: Any) -> str:
    """A parameter as it is typed: `-o, --out FILE`, or `SPEC`."""
    if param.param_type_name == "argument":
        return _metavar(param)
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag else f"{names} {_metavar(param)}"


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _default(param: Any) -> str:
    if param.required:
        return "required"
    return "" if param.default in (None, False) or callable(param.default) else f"`{param.default}`"


def _sections(keys: list[Key]) -> Iterator[str]:
    """A table for each top-level section, after one of what stands at the top."""
    places: dict[str, str] = {}
    repeated: dict[str, str] = {}  # paths whose keys stand in the page already, and where
    for key in keys:
        first = places.setdefault(key.section or key.path, key.path)
        if first != key.path:
            repeated[key.path] = first
    rows = [(key, _row(key, repeated)) for key in keys if not any(key.path.startswith(f"{path}.") for path in repeated)]
    yield _keys_table(row for key, row in rows if "." not in key.path)
    for top in [key.path for key in keys if "." not in key.path]:
        below = [row for key, row in rows if key.path.startswith(f"{top}.")]
        if below:
            yield f"### `{top}`"
            yield _keys_table(below)


def _row(key: Key, repeated: dict[str, str]) -> tuple[str, str, str]:
    words = f"; one of {', '.join(key.words)}" if key.words and key.words != ("true", "false") and not all(word in key.meaning for word in key.words) else ""
    same = f"; its keys are those of `{repeated[key.path]}`" if key.path in repeated else ""
    default = key.default if key.default in ("", "required") else f"`{key.default}`"
    return f"`{key.path}`", _escaped(key.meaning + words) + same, default


def _keys_table(rows: Iterable[tuple[str, str, str]]) -> str:
    return _table(("key", "meaning", "default"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    for sign in "\\*_|<":
        text = text.replace(sign, f"\\{sign}")
    return text


if __name__ == "__main__":
    answer(reference().rstrip("\n"))
