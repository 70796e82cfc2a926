"""YAML ⇄ Spec: the file and line of every fault, overrides, defaults written out. Classes are checked by `es_cli.catalog`, above."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from es_cli.errors import Fault, SpecError
from es_cli.spec import wording
from es_cli.spec.component import plain
from es_cli.spec.overrides import apply_overrides, dotted, path_of
from es_cli.spec.schema import Section, Spec
from es_cli.spec.yaml_reader import MAX_BYTES, read_yaml
from es_cli.spec.yaml_reader import Path as KeyPath

# what stands in for a required part that is missing, so that the rest can still be checked
PLACEHOLDERS = {"physics": {"name": "Denoising"}, "model": {"name": "UNet"}}


@dataclass(frozen=True)
class Document:
    """A spec as far as it could be read.

    `spec` is None only if nothing could be; where `faults` is not empty it lacks what they are about, `pruned`.
    """

    spec: Spec | None
    faults: tuple[Fault, ...]
    file: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    moved: dict[KeyPath, KeyPath] = field(default_factory=dict)
    pruned: tuple[KeyPath, ...] = ()

    def where(self, path: str | KeyPath) -> str:
        """`file:line: path`, the line being that of the key or of the nearest one above it; or the override that set it."""
        keys = self._as_written(path_of(path) if isinstance(path, str) and path else tuple(path))
        for length in range(len(keys), -1, -1):
            origin = self.origins.get(keys[:length])
            if origin is not None:
                return f"override {origin}" + (f": {dotted(keys)}" if len(keys) > length else "")
            line = self.lines.get(keys[:length])
            if line is not None:
                return f"{self.file}:{line}" + (f": {dotted(keys)}" if keys else "")
        return f"{self.file}: {dotted(keys)}" if keys else self.file

    def doubts(self, path: str) -> bool:
        """Whether a fault at `path` may only follow from one that is already reported."""
        keys = path_of(path) if path else ()
        return any(keys[: len(gone)] == gone for gone in self.pruned)

    def _as_written(self, path: KeyPath) -> KeyPath:
        for target, source in self.moved.items():
            if path[: len(target)] == target:
                return (*source, *path[len(target) :])
        return path


def read_document(path: Path, overrides: Sequence[str] = ()) -> Document:
    """A spec file with `a.b=value` overrides set. Relative paths are read against the file's folder and become absolute.

    Raises SpecError where the file cannot be read as YAML at all; every other fault is in `.faults`.
    """
    tree = read_yaml(_text(path), str(path))
    raw, origins, faults = apply_overrides(tree.value, overrides)
    if not isinstance(raw, dict):
        what = "the file is empty" if raw is None else "wanted 'key: value' lines"
        raise SpecError([Fault(what, f"{path}:1", "a spec has at least physics, data and model"), *faults])
    document = Document(None, (), str(path), tree.lines, origins)
    return _validate(raw, document, path.absolute().parent, faults)


def from_dict(raw: dict[str, Any], where: str = "checkpoint") -> Spec:
    """A spec from what `to_dict` made. Raises SpecError; the names in it are not checked against the catalogue yet."""
    if not isinstance(raw, dict):
        raise SpecError([Fault("the spec is not a mapping", where)])
    document = _validate(raw, Document(None, (), where), None, [], needs_data=False)
    if document.faults or document.spec is None:
        raise SpecError(document.faults)
    return document.spec


def to_dict(spec: Spec) -> dict[str, Any]:
    """Plain YAML and JSON values, defaults filled in; `from_dict` reads them back."""
    result: dict[str, Any] = {}
    for name in type(spec).model_fields:
        result[name] = _plain_section(getattr(spec, name))
    result["losses"] = [{**plain(term.loss), "weight": term.weight, "equivariant": term.equivariant} for term in spec.losses]
    return result


def to_yaml(spec: Spec) -> str:
    """The resolved spec as text, in the order of the schema."""
    text: str = yaml.dump(to_dict(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return text


def _plain_section(value: Any) -> Any:
    if isinstance(value, Section):
        return {key: _plain_section(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [_plain_section(inner) for inner in value]
    return plain(value)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            held = file.read(MAX_BYTES + 1)  # of a device there is no end
        if len(held) > MAX_BYTES:
            raise SpecError([Fault(f"more than {MAX_BYTES} bytes; a spec takes a few thousand", str(path), "is this the right file?")])
        return held.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError([Fault("there is no such file", str(path), "give the path of a spec, a .yaml file")]) from None
    except UnicodeDecodeError:
        raise SpecError([Fault("not a text file in UTF-8", str(path), "give the path of a spec, a .yaml file")]) from None
    except OSError as error:
        raise SpecError([Fault(f"cannot be read: {error.strerror or error}", str(path), "give the path of a spec, a .yaml file")]) from None


def _validate(raw: dict[str, Any], document: Document, folder: Path | None, faults: list[Fault], needs_data: bool = True) -> Document:
    """Check, prune what is at fault, and check again until a spec stands; only the first faults of each place are reported."""
    raw, moved, clashes = _as_test_section(copy.deepcopy(raw))
    _into_train(raw, moved, clashes)
    document = _with(document, moved=moved)
    found = list(clashes)
    for section in ("transforms", "losses", "test", "training"):
        if raw.get(section, 0) is None:  # a key with nothing after it
            del raw[section]
    if needs_data and raw.get("data") is None:
        found.append((("data",), "missing", "add data: {train: {measurements: FILE}}"))
        raw.pop("data", None)
    pruned: list[KeyPath] = [path for path, _, _ in clashes]
    spec = None
    for _ in range(60):
        try:
            spec = Spec.model_validate(raw, context={"folder": folder} if folder else None)
            break
        except ValidationError as error:
            for path, what, hint in wording.in_plain_words(error, raw):
                if not any(path[: len(gone)] == gone for gone in pruned):
                    found.append((path, what, hint))
                pruned.append(_prune(raw, path))
    reported = [Fault(what, document.where(path), hint) for path, what, hint in _unique(found)]
    return _with(document, spec=spec, faults=tuple(faults + reported), pruned=tuple(pruned))


def _with(document: Document, **changes: Any) -> Document:
    return Document(**{**{name: getattr(document, name) for name in Document.__dataclass_fields__}, **changes})


def _unique(found: list[tuple[KeyPath, str, str]]) -> list[tuple[KeyPath, str, str]]:
    return list({(path, what): (path, what, hint) for path, what, hint in found}.values())


def _as_test_section(raw: dict[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, KeyPath], list[tuple[KeyPath, str, str]]]:
    """deepinv's words for how images are made, `eval_n_samples` and `transforms.eval`, become `test.splits` and `test.group`."""
    moved: dict[KeyPath, KeyPath] = {}
    clashes: list[tuple[KeyPath, str, str]] = []
    written: list[tuple[dict[str, Any], KeyPath, str]] = []
    transforms = raw.get("transforms")
    if isinstance(transforms, dict) and "eval" in transforms:
        written.append((transforms, ("transforms", "eval"), "group"))
    losses = raw.get("losses")
    for i, term in enumerate(losses if isinstance(losses, list) else []):
        if isinstance(term, dict) and term.get("name") == "EquivariantSplittingLoss" and "eval_n_samples" in term:
            written.append((term, ("losses", i, "eval_n_samples"), "splits"))
    for holder, source, target in written:
        value = holder.pop(str(source[-1]))
        if target == "group" and isinstance(value, str) and value not in ("full", "random", "trivial"):
            value = [value]
        test = raw.get("test") if raw.get("test") is not None else {}
        if not isinstance(test, dict):
            continue
        if target in test:
            clashes.append(
                (source, f"test.{target} says the same in other words", f"leave one of them out; test.{target} is es's own word")
            )
            continue
        raw["test"] = {**test, target: value}
        moved["test", target] = source
    return raw, moved, clashes


def _into_train(raw: dict[str, Any], moved: dict[KeyPath, KeyPath], clashes: list[tuple[KeyPath, str, str]]) -> None:
    """`data.params` is short for `data.train.params`."""
    data = raw.get("data")
    if not isinstance(data, dict) or "params" not in data or not isinstance(data.get("train"), dict):
        return
    given = data.pop("params")
    if data["train"].get("params") is not None and given is not None:
        clashes.append((("data", "params"), "data.train.params says the same", "leave one of them out; data.params is short for data.train.params"))
    elif given is not None:
        data["train"]["params"] = given
        moved["data", "train", "params"] = ("data", "params")


def _prune(raw: dict[str, Any], path: KeyPath) -> KeyPath:
    """Take what is at fault out of the tree, and whole lists rather than shifting their items; the path of what is gone."""
    if len(path) > 1 and path[-1] == "name":  # without its name a part is nothing
        path = path[:-1]
    holder: Any = raw
    inside: list[tuple[Any, KeyPath]] = [(raw, ())]
    for i, part in enumerate(path):
        holder = (
            holder.get(part)
            if isinstance(holder, dict)
            else holder[part]
            if isinstance(holder, list) and isinstance(part, int) and part < len(holder)
            else None
        )
        if holder is None:
            break
        inside.append((holder, path[: i + 1]))
    for length in range(len(path), 0, -1):
        above = next((node for node, at in inside if at == path[: length - 1]), None)
        if isinstance(above, dict) and path[length - 1] in above:
            del above[path[length - 1]]
            _place(raw, path[:length])
            return path[:length]
    _place(raw, path)
    return path


def _place(raw: dict[str, Any], gone: KeyPath) -> None:
    top = str(gone[0]) if gone else ""
    if top in PLACEHOLDERS and raw.get(top) is None:
        raw[top] = dict(PLACEHOLDERS[top])


class _Dumper(yaml.SafeDumper):
    """Writes floats and text so that YAML 1.1 and 1.2 read the same."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = json.dumps(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    special = {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}
    return dumper.represent_scalar("tag:yaml.org,2002:float", special.get(text, text))


_Dumper.add_representer(float, _float)
