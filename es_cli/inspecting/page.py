"""Lines of YAML with the reasons beside them."""

from __future__ import annotations

import re
from typing import Any

import yaml

COLUMN = 44  # where comments begin, after lines that are shorter
WIDTH = 140  # of a line with its comment, where the line itself leaves room
LONGEST = 400  # characters of a comment


class Page:
    """A YAML text that is written from the top to the bottom."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def comment(self, text: str) -> None:
        """A line of its own."""
        self._lines.append(f"# {_printable(text)}")

    def line(self, depth: int, text: str, why: str = "") -> None:
        """`text`, indented by `depth`, with the reason `why` beside it, or above where there is no room."""
        written, reason = "  " * depth + text, _printable(why)
        if why and len(written) > COLUMN and len(written) + len(reason) > WIDTH:
            self._lines += [f"{'  ' * depth}# {reason}", written]
        else:
            self._lines.append(f"{written:<{COLUMN - 1}} # {reason}" if why else written)

    def item(self, depth: int, key: str, value: Any, why: str = "") -> None:
        """`key: value`, a value of any kind on one line."""
        self.line(depth, f"{key}: {flow(value)}", why)

    def gap(self) -> None:
        """An empty line."""
        self._lines.append("")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._lines) + "\n"


def flow(value: Any) -> str:
    """A value as YAML on one line, quoted where it has to be; read again, it is the same."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False).strip()
    return re.sub(r"\n\.\.\.$", "", text)


def rounded(number: float) -> float:
    """A number to two digits."""
    return float(f"{number:.2g}")


def _printable(text: str) -> str:
    """File names are part of comments, and must not end them."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."
