"""What deepinv's and torch's docstrings say about a class and its parameters, in plain text."""

from __future__ import annotations

import inspect
import re

_PARAM = re.compile(
    r":param\s+(?P<head>[^\n]*?)(?P<name>\*{0,2}\w+)\s*:(?!\w*`)(?P<text>.*?)(?=\n\s*:(?:param|return|returns|raises)|\n\s*\n|\n\s*\|sep\||\Z)",
    re.DOTALL,
)
_TORCH = re.compile(r"^ {2,8}(?P<name>\w+) \((?P<head>[^\n]*?)\)\s*:(?P<text>.*?)(?=\n {2,8}\w+ \(|\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)
LONGEST = 220


def summary(cls: type) -> str:
    """The first sentence of the class's docstring, "" where it has none of its own."""
    text = vars(cls).get("__doc__") or ""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).strip())
    # some docstrings begin with a call, as in MSE(complex_abs, ...)
    return _short(next((one for one in paragraphs if not re.match(r"[\w.]+\(|[.=|-]{3}|\.\.", one)), ""))


def parameters(cls: type) -> dict[str, tuple[str, str]]:
    """By name: (type as documented, meaning), nearest class first."""
    found: dict[str, tuple[str, str]] = {}
    for owner in cls.__mro__:
        init = vars(owner).get("__init__")
        for text in (vars(owner).get("__doc__"), getattr(init, "__doc__", None)):
            for match in (*_PARAM.finditer(text or ""), *_TORCH.finditer(text or "")):
                name = match["name"].strip("*")
                found.setdefault(name, (_plain(match["head"]).rstrip(" ,"), _short(match["text"])))
    return found


def type_words(text: str) -> list[tuple[int, str]]:
    """(depth inside brackets, word) of a type as annotations and docstrings write it; dots keep only the last name."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", " ", text)
    text = re.sub(r"\b(Optional|Union)\[(.*)\]", r"\2", text)
    if text.startswith("["):
        text = text[1:-1]
    words, depth = [], 0
    for token in re.findall(r"[\[\]]|[\w.]+", text):
        if token in "[]":
            depth += 1 if token == "[" else -1
        else:
            words.append((depth, token.rsplit(".", 1)[-1]))
    return words


def literals(annotation: str) -> list[str]:
    """The choices of `Literal['a', 'b']`."""
    inner = re.search(r"Literal\[(.*?)\]", annotation)
    return re.findall(r"'([^']*)'", inner[1]) if inner else []


def _plain(text: str) -> str:
    text = re.sub(r":footcite:\w+:`[^`]*`|:cite:\w*:?`[^`]*`", "", text)
    text = re.sub(
        r":\w+(?::\w+)?:`~?([^`<]*?)(?:\s*<[^`]*>)?`", lambda found: found[1].rsplit(".", 1)[-1] if " " not in found[1] else found[1], text
    )
    text = re.sub(r"`([^`<]+?)\s*<[^`]*>`_+", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "").replace("`", "")).strip()


def _short(text: str) -> str:
    text = _plain(text)
    first = re.match(r"(.+?[^.][.])(?=\s+[A-Z])", text)
    text = first[1] if first and len(first[1]) > 20 else text
    return text.rstrip(" .:") if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + "…"
