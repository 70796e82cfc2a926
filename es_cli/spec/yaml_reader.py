"""YAML 1.2 text → plain values and the line of every key; safely: no tags, no duplicate keys, bounded size, depth and aliases."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from es_cli.errors import Fault, SpecError

Path = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 20_000  # after aliases are expanded

_NOWHERE = re.compile("[\0\ud800-\udfff]")  # a run's spec.yaml is UTF-8
_NULL = re.compile(r"(null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,100}\Z")
_BASED = re.compile(r"0(x[0-9a-fA-F]{1,64}|o[0-7]{1,64})\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@dataclass
class Tree:
    """Plain values, and by path the line (from 1) on which the key or list item stands."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)


class _Refused(Exception):
    def __init__(self, line: int, what: str, hint: str) -> None:
        self.line, self.what, self.hint = line, what, hint


def read_yaml(text: str, where: str, *, with_line: bool = True) -> Tree:
    """The one document in `text`; `where` names it in faults, followed by `:line` if `with_line`.

    Raises SpecError with all duplicate keys and tags, or with the first fault of syntax.
    """

    def fault(line: int, what: str, hint: str) -> Fault:
        return Fault(what, f"{where}:{line}" if with_line else where, hint)

    if len(text) > MAX_BYTES:
        raise SpecError([fault(1, f"{len(text)} characters; a spec takes a few thousand", "is this the right file?")])
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        builder = _Builder()
        value = None if node is None else builder.build(node, (), ())
    except _Refused as refused:
        raise SpecError([fault(refused.line, refused.what, refused.hint)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position if isinstance(error.position, int) else 0) + 1
        raise SpecError([fault(line, "a character that cannot stand in YAML", "save the file as plain UTF-8 text")]) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError([fault(*_syntax(error, text))]) from None
    if builder.faults:
        raise SpecError([fault(*one) for one in builder.faults])
    return Tree(value, builder.lines)


def scalar(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema: `1e-4` is a number; `no`, `on`, `1_000` and `12:30` are text."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return float(text)
    return _SPECIAL.get(text.lower(), text)


def _check_events(text: str) -> None:
    """What must be refused before the text is composed, which recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if count > 4 * MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES} values", "a spec takes a few hundred; is this the right file?")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested more than {MAX_DEPTH} deep", "a spec needs about six levels")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _Refused(
                line,
                f"the tag {tag.replace('tag:yaml.org,2002:', '!!')} is not allowed",
                "leave it out: a spec is plain values and names of the catalogue",
            )


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    lines = text.splitlines()
    found = lines[line - 1] if line <= len(lines) else ""
    if "\t" in found[: len(found) - len(found.lstrip())] or "'\\t'" in str(error.problem):
        return line, "a tab in the indentation", "indent with spaces"
    if isinstance(error, yaml.composer.ComposerError):
        if "single document" in str(error.context):
            return line, "a second YAML document begins here", "one file holds one spec; remove the line ---"
        return line, " ".join(str(error.problem).split()), "define an anchor (&name) above the alias (*name)"
    problem = " ".join(str(error.problem or error.context or "it cannot be read").split())
    known = {
        "mapping values are not allowed here": ("a second ':' where a value stands", "put the value in quotes, or check the indentation"),
        "could not find expected ':'": ("a key without ':'", "write key: value"),
        "expected <block end>, but found '<block mapping start>'": (
            "the indentation does not fit the lines above",
            "indent keys of one mapping alike",
        ),
        "expected <block end>, but found '-'": ("a list item does not fit the lines above", "indent items of one list alike"),
        "expected ',' or ']', but got '<stream end>'": ("a '[' is not closed", "add ']'"),
        "expected ',' or '}', but got '<stream end>'": ("a '{' is not closed", "add '}'"),
    }
    what, hint = known.get(problem, (f"not YAML: {problem}", "check indentation, brackets and quotes around here"))
    return line, what, hint


class _Builder:
    """Nodes → values; aliases are expanded, within bounds."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.faults: list[tuple[int, str, str]] = []
        self.nodes = 0
        self.characters = 0

    def build(self, node: yaml.Node, path: Path, above: tuple[int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refused(line, f"aliases expand to more than {MAX_NODES} values", "write the parts out, without * aliases")
        if id(node) in above:
            raise _Refused(line, "an alias refers to the part that holds it", "write the part out, without * aliases")
        if len(above) > MAX_DEPTH:
            raise _Refused(line, f"aliases nest more than {MAX_DEPTH} deep", "write the parts out, without * aliases")
        above = (*above, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), above) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        self._check_text(node.value, line)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return scalar(node.value) if plain else node.value

    def _check_text(self, text: str, line: int) -> None:
        self.characters += len(text)
        if self.characters > MAX_BYTES:
            raise _Refused(line, f"aliases expand to more than {MAX_BYTES} characters", "write the parts out, without * aliases")
        if _NOWHERE.search(text):
            raise _Refused(line, "a character that neither a name nor a file can hold", "leave out \\0 and halves of surrogate pairs")

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key, str):
                self.faults.append((line, "a key that is a list or a mapping", "keys are plain words"))
            elif _NOWHERE.search(key):
                self.faults.append((line, "a key with a character that no name holds", "keys are plain words"))
            elif key == "<<" and key_node.style is None:
                self.faults.append((line, "merge keys (<<) are not read", "write the keys out"))
            elif key in values:
                self.faults.append((line, f"the key '{key}' stands twice (first on line {first[key]})", "remove one of them"))
            else:
                first[key] = line
                self.lines[(*path, key)] = line
                values[key] = self.build(value_node, (*path, key), above)
        return values
