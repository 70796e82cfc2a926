"""The two streams of a command: its answer on standard output, everything that a person reads meanwhile on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 120
LONGEST = 600  # characters of one complaint


def answer(text: str, stream: TextIO | None = None) -> None:
    """One line on standard output, at once, so that whoever reads the pipe has it; `stream` is what `answers_only` gave, None outside of it."""
    out = stream or sys.stdout
    out.write(f"{text}\n")
    out.flush()


def answer_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers that JSON does not know (NaN, infinity) are null."""
    answer(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def answer_table(table: Table) -> None:
    """A table on standard output, coloured on a terminal only."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    # captured and then written: rich ends a closed pipe with code 1 by itself
    with console.capture() as text:
        console.print(table)
    answer("\n".join(line.rstrip() for line in text.get().splitlines()))


def errors() -> Console:
    """The console on standard error. rich honours NO_COLOR; nothing in a text is taken for markup."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def complain(text: str, label: str = "error: ") -> None:
    """A fault on standard error, one line and not too long; without a label the text as it is.

    Control characters of file names are shown, not obeyed. rich is not asked to colour one word: importing it takes as long as all the rest.
    """
    if not label:
        typer.echo("\n".join(plain(line, blank=False) for line in text.rstrip().splitlines()), err=True)
        return
    shown = plain(text)
    typer.echo(coloured(label, typer.colors.RED, sys.stderr) + (shown if len(shown) <= LONGEST else shown[:LONGEST] + " ..."), err=True)


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Text in bold colour where `stream` is a terminal that shows it, and the user has not said NO_COLOR; else as it is."""
    shows = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return typer.style(text, fg=colour, bold=True) if shows else text


def plain(text: object, blank: bool = True) -> str:
    """Text that cannot steer a terminal: control characters as escapes, and on one line with single blanks if `blank`."""
    line = " ".join(str(text).split()) if blank else str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def calls_in_words(calls: int) -> str:
    """What one image costs."""
    return f"{calls} network call{'s' if calls != 1 else ''}"


def quoted(argument: object) -> str:
    """An argument as it can be pasted into a shell."""
    import shlex

    text = str(argument)
    return f'"{text}"' if sys.platform == "win32" and " " in text else text if sys.platform == "win32" else shlex.quote(text)


@contextlib.contextmanager
def answers_only() -> Iterator[TextIO]:
    """Gives standard output for answers alone: what a library prints meanwhile goes to standard error."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield out


@contextlib.contextmanager
def counting(what: str, quiet: bool = False) -> Iterator[Callable[[float, int], None]]:
    """A bar on standard error that is told (done, total); nothing where it is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=errors(), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
