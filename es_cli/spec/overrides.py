"""`a.b.c=value` after the spec on the command line: set in the plain tree before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from es_cli.errors import Fault, SpecError
from es_cli.spec.yaml_reader import Path, read_yaml

# parts that a spec may leave out and an override may still reach into
DEFAULTS: dict[Path, Any] = {
    ("losses",): [{"name": "EquivariantSplittingLoss"}],
    ("training", "optimizer"): {"name": "AdamW", "lr": 5e-4, "weight_decay": 1e-8},
}
# setting one of these lifts the other, which the file may hold
EXCLUSIVE = {"epochs": "steps", "steps": "epochs", "group": "train", "train": "group", "file": "sample", "sample": "file"}
EXCLUSIVE_IN = {
    "training": ("epochs", "steps"),
    "transforms": ("group", "train"),
    "measurements": ("file", "sample"),
    "images": ("file", "sample"),
}


def apply_overrides(tree: Any, overrides: Sequence[str]) -> tuple[Any, dict[Path, str], list[Fault]]:
    """The tree with the overrides set, which override set which path, and what is wrong with them."""
    origins: dict[Path, str] = {}
    faults: list[Fault] = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        path = path_of(key.strip())
        if not equals or not all(part != "" for part in path):
            faults.append(Fault("an override is written a.b.c=value", f"override {text}", "such as training.steps=2000"))
            continue
        try:
            value = read_yaml(raw, f"override {text}", with_line=False).value
            tree = _set(tree if isinstance(tree, dict) else {}, path, value, text)
        except SpecError as error:
            faults += error.faults
            continue
        origins = {earlier: origin for earlier, origin in origins.items() if earlier[: len(path)] != path}
        origins[path] = text
        _lift_other(tree, path, value, origins)
    return tree, origins, faults


def path_of(dotted: str) -> Path:
    """`losses.0.weight` as ("losses", 0, "weight")."""
    return tuple(int(part) if part.isdecimal() else part for part in dotted.split("."))


def _set(tree: dict[str, Any], path: Path, value: Any, text: str) -> dict[str, Any]:
    """A copy of `tree` with `value` at `path`; mappings on the way are made where they are missing."""
    return _put(tree, path, 0, value, text)


def _put(node: Any, path: Path, depth: int, value: Any, text: str) -> Any:
    if depth == len(path):
        return value
    done, key = path[:depth], path[depth]
    if node is None:
        node = DEFAULTS.get(done, {})
    if isinstance(node, str):  # a bare name or file, which the override reaches into
        node = {"file" if done[0] == "data" else "name": node}
    if isinstance(node, list):
        if not isinstance(key, int) or key > len(node):
            what = f"{dotted(done)} is a list of {len(node)}"
            hint = f"use {dotted(done)}.0 to {dotted(done)}.{len(node)}" if node else f"use {dotted(done)}.0"
            raise SpecError([Fault(what, f"override {text}", hint)])
        old = node[key] if key < len(node) else None
        return [*node[:key], _put(old, path, depth + 1, value, text), *node[key + 1 :]]
    if not isinstance(node, dict):
        raise SpecError([Fault(f"{dotted(done)} is {node!r}, which has no {key}", f"override {text}", "override the whole of it")])
    return {**node, str(key): _put(node.get(str(key)), path, depth + 1, value, text)}


def _lift_other(tree: Any, path: Path, value: Any, origins: dict[Path, str]) -> None:
    """`training.steps=2` stands in place of the file's `epochs`, unless both are overridden."""
    if value is None or len(path) < 2 or path[-1] not in EXCLUSIVE_IN.get(str(path[-2]), ()):
        return
    other = EXCLUSIVE[str(path[-1])]
    if (*path[:-1], other) in origins:
        return
    holder = tree
    for part in path[:-1]:
        holder = holder[part]
    holder.pop(other, None)


def dotted(path: Path) -> str:
    return ".".join(map(str, path))
