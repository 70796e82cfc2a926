"""The whole check of a spec: what its text says (es_cli.spec), what the catalogue says, and what the parts say about one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from es_cli.catalog.checking import check, is_weights, names_file, with_parts
from es_cli.catalog.consistency import check_consistency, known_of_operator
from es_cli.catalog.entries import find
from es_cli.catalog.parameters import check_parameters
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING, check_sides, without_weights
from es_cli.errors import Fault, SpecError
from es_cli.spec.component import Component, absolute
from es_cli.spec.document import Document, read_document
from es_cli.spec.schema import Spec

# where parts stand in a spec, and of which kind they are
SLOTS = (
    ("physics", "physics"),
    ("mask_generator", "generator"),
    ("model", "model"),
    ("training.optimizer", "optimizer"),
    ("training.scheduler", "scheduler"),
)
# a loss of equivariant splitting takes these from the top level of the spec, where one value serves training and test
FROM_TOP_LEVEL = {"mask_generator": "mask_generator", "transform": "transforms.train", "eval_transform": "transforms.eval"}


def load_spec(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec in a YAML file, checked, with `a.b=value` overrides set and paths absolute.

    Bare names that stand for parts are parts afterwards, and downloads of pretrained weights are replaced by fresh ones.
    Raises SpecError with all faults, each "file:line: a.b.c: what; hint".
    """
    document = read_document(path, overrides)
    faults = list(document.faults)
    if document.spec is not None:
        spec = _with_weight_files(resolve(document.spec), path.absolute().parent)
        faults += [
            Fault(fault.what, document.where(fault.where), fault.hint) for fault in check_spec(spec) if not document.doubts(fault.where)
        ]
        if not faults:
            return spec
    raise SpecError(sorted(_unique(faults), key=lambda fault: _order(fault, document)))


def check_spec(spec: Spec) -> list[Fault]:
    """What is wrong with the classes, parameters and combinations of a spec; `where` is the path in the spec, as "physics.mask"."""
    filled = {"mask_generator"} if spec.mask_generator is not None else set()
    filled |= {"transform"} if spec.transforms.group != "trivial" else set()
    filled |= known_of_operator(spec.physics)
    found = []
    for path, kind, part in parts_of(spec):
        if kind == "loss" and part.name == EQUIVARIANT_SPLITTING:
            found += _check_equivariant_splitting(part, path)
        else:
            found += check(part, path, (kind,), filled if kind == "loss" else ())
    return [Fault(what, where, hint) for where, what, hint in (*found, *check_consistency(spec), *check_parameters(spec), *check_sides(spec))]


def parts_of(spec: Spec) -> Iterator[tuple[str, str, Component]]:
    """All parts at the places of the schema: (path, kind, part)."""
    for path, kind in SLOTS:
        value: Any = spec
        for key in path.split("."):
            value = getattr(value, key)
        if value is not None:
            yield path, kind, value
    for i, part in enumerate(spec.transforms.train or ()):
        yield f"transforms.train.{i}", "transform", part
    for i, term in enumerate(spec.losses):
        yield f"losses.{i}", "loss", term.loss
    for i, part in enumerate(spec.test.group if isinstance(spec.test.group, tuple) else ()):
        yield f"test.group.{i}", "transform", part


def resolve(spec: Spec) -> Spec:
    """The spec with bare names made parts, and pretrained weights that would be downloaded made fresh ones. Nothing is left to guess."""

    def part(kind: str, one: Component | None) -> Component | None:
        return None if one is None else with_parts(one, (kind,))

    def parts(several: tuple[Component, ...]) -> tuple[Component, ...]:
        return tuple(with_parts(one, ("transform",)) for one in several)

    training = spec.training.model_copy(
        update={"optimizer": part("optimizer", spec.training.optimizer), "scheduler": part("scheduler", spec.training.scheduler)}
    )
    changes: dict[str, Any] = {
        "physics": part("physics", spec.physics),
        "mask_generator": part("generator", spec.mask_generator),
        "model": part("model", spec.model),
        "losses": tuple(term.model_copy(update={"loss": part("loss", term.loss)}) for term in spec.losses),
        "training": training,
    }
    if spec.transforms.train is not None:
        changes["transforms"] = spec.transforms.model_copy(update={"train": parts(spec.transforms.train)})
    if isinstance(spec.test.group, tuple):
        changes["test"] = spec.test.model_copy(update={"group": parts(spec.test.group)})
    elif spec.test.group is None:
        changes["test"] = spec.test.model_copy(update={"group": "full" if _trains_under_the_group(spec) else "trivial"})
    return spec.model_copy(update=changes)


def _trains_under_the_group(spec: Spec) -> bool:
    """Whether the network meets the virtual operators A T_g in training; one that never did makes poor images of them at test."""
    return any(term.loss.name == EQUIVARIANT_SPLITTING or term.equivariant for term in spec.losses)


def without_weight_files(part: Component) -> Component:
    """A part whose weights come from elsewhere: all files of weights in it are left out, as a checkpoint must not depend on them."""
    return _map_weights(part, lambda value, fresh: fresh)


def with_fresh_weights(part: Component, files: Iterable[str]) -> Component:
    """A model with fresh weights where its own parameters `files` named a file; parts nested in it keep theirs."""
    entry = find(part.name, ("model",))
    own = {name: entry.parameter(name) for name in files} if entry is not None else {}
    kept = {name: value for name, value in part.parameters.items() if name not in own}
    return Component(name=part.name, parameters=kept | {name: one.default for name, one in own.items() if one is not None})


def _with_weight_files(spec: Spec, folder: Path) -> Spec:
    """Files of weights made absolute, as all paths are."""

    def made(value: Any, fresh: Any) -> Any:
        return absolute(value, folder) if names_file(value) else value

    losses = tuple(term.model_copy(update={"loss": _map_weights(term.loss, made)}) for term in spec.losses)
    return spec.model_copy(update={"model": _map_weights(spec.model, made), "losses": losses})


def _map_weights(value: Any, change: Any) -> Any:
    """A value with `change(given, fresh)` in place of all weights of the models in it; None leaves the reserved key out."""
    if isinstance(value, tuple):
        return tuple(_map_weights(inner, change) for inner in value)
    if not isinstance(value, Component):
        return value
    entry = find(value.name, ("model",))
    values = {}
    for name, inner in value.parameters.items():
        parameter = None if entry is None else entry.parameter(name)
        made = change(inner, None if parameter is None else parameter.default) if is_weights(entry, name) else _map_weights(inner, change)
        if made is not None or parameter is not None or not is_weights(entry, name):
            values[name] = made
    return Component(name=value.name, parameters=values)


def _check_equivariant_splitting(part: Component, path: str) -> list[tuple[str, str, str]]:
    moved = [
        (f"{path}.{name}", f"{name} stands at the top level of the spec", f"move it there, as {target}")
        for name, target in FROM_TOP_LEVEL.items()
        if part.parameters.get(name) is not None
    ]
    if part.parameters.get("img_size") is not None:
        moved.append((f"{path}.img_size", "the size is that of the measurements", "leave it out"))
    rest = {name: value for name, value in without_weights(part).parameters.items() if name not in {*FROM_TOP_LEVEL, "img_size"}}
    return moved + check(Component(name=part.name, parameters=rest), path, ("loss",))


def _unique(faults: list[Fault]) -> list[Fault]:
    return list(dict.fromkeys(faults))


def _order(fault: Fault, document: Document) -> tuple[int, int]:
    """By line; overrides after the file."""
    line = fault.where.removeprefix(document.file).lstrip(":").split(":")[0] if fault.where.startswith(document.file) else ""
    return (0, int(line)) if line.isdecimal() else (1, 0)
