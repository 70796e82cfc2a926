"""The one grammar of every nested part: `{name: X, parameter: value, …}`, `{file: PATH}`, `{tensor: KEY}`, lists and plain values.

Value = None | bool | int | float | str | tuple[Value, ...] | Component | ArrayFile | TensorRef | dict[str, Value]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from es_cli.errors import Fault, SpecError

Value = Any  # the union above: a recursive one would make pydantic try every branch and report them all
Path_ = tuple[str | int, ...]


class GrammarError(ValueError):
    """Faults inside a nested value: (path below the value, what, hint) each."""

    def __init__(self, faults: list[tuple[Path_, str, str]]) -> None:
        self.faults = faults
        super().__init__("; ".join(what for _, what, _ in faults))


class ArrayFile(BaseModel):
    """An array read from disk; `key` names one of several arrays in an npz or h5 file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    file: str
    key: str | None = None


class TensorRef(BaseModel):
    """An array that a checkpoint holds under this key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    tensor: str


class Component(BaseModel):
    """A class of the catalogue by name, with the parameters that the spec gives it; a parameter that is left out is not in `parameters`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    parameters: dict[str, Any] = {}

    @field_validator("parameters", mode="before")
    @classmethod
    def _grammar(cls, raw: Any) -> Any:
        return as_value_dict(raw) if isinstance(raw, dict) else raw


def as_component(raw: Any, info: ValidationInfo | None = None) -> Component:
    """A part from its YAML form: a mapping with `name`, or a bare name. Raises GrammarError."""
    reader = _Reader(folder_of(info))
    part = reader.component(raw, ())
    if reader.faults or part is None:
        raise GrammarError(reader.faults)
    return part


def as_value_dict(raw: dict[str, Any]) -> dict[str, Value]:
    """Parameters from their YAML form. Raises GrammarError."""
    reader = _Reader(None)
    values = {name: reader.value(value, (name,)) for name, value in raw.items()}
    if reader.faults:
        raise GrammarError(reader.faults)
    return values


def _field(raw: Any, info: ValidationInfo) -> Component:
    # pydantic hands its info over only where the parameter has no default
    return as_component(raw, info)


PartField = Annotated[Component, BeforeValidator(_field)]


def plain(value: Value) -> Any:
    """A value as YAML and JSON hold it."""
    if isinstance(value, Component):
        return {"name": value.name, **{key: plain(inner) for key, inner in value.parameters.items()}}
    if isinstance(value, (ArrayFile, TensorRef)):
        return value.model_dump(exclude_none=True)
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def folder_of(info: ValidationInfo | None) -> Path | None:
    """The folder against which relative paths are read; None leaves them as they are."""
    return (info.context or {}).get("folder") if info is not None else None


def absolute(file: str, folder: Path | None) -> str:
    """`file`, a path or glob, made absolute; `~` is the home folder. Raises SpecError where a folder's name is no text."""
    if folder is None:
        return file
    path = os.path.abspath(folder / Path(file).expanduser())
    if not path.isascii() and path.encode(errors="ignore") != os.fsencode(path):
        raise SpecError([Fault("the name of a folder is not in UTF-8, so that no spec can hold it", path, "rename the folder")])
    return path


def shown(value: Any) -> str:
    """A value as an error message shows it: short, on one line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = {None: "nothing", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    text = text or (f"'{value}'" if isinstance(value, str) else str(value))
    return text if len(text) <= 40 else text[:37] + "…" + ("'" if isinstance(value, str) else "")


class _Reader:
    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.faults: list[tuple[Path_, str, str]] = []

    def component(self, raw: Any, path: Path_) -> Component | None:
        if isinstance(raw, Component):
            return raw
        if isinstance(raw, str) and raw:
            return Component(name=raw)
        if not isinstance(raw, dict):
            self._fault(path, f"wanted a part, got {shown(raw)}", "write {name: Class, parameter: value, …} or just the name")
            return None
        if not isinstance(raw.get("name"), str) or not raw["name"]:
            what = f"wanted the name of a class, got {shown(raw['name'])}" if "name" in raw else "this part has no name"
            self._fault((*path, "name") if "name" in raw else path, what, "write {name: Class, parameter: value, …}")
            return None
        parameters = {key: self.value(value, (*path, key)) for key, value in raw.items() if key != "name"}
        return Component.model_construct(name=raw["name"], parameters=parameters)

    def value(self, raw: Any, path: Path_) -> Value:
        if isinstance(raw, dict):
            return self._mapping(raw, path)
        if isinstance(raw, (list, tuple)):
            return tuple(self.value(inner, (*path, i)) for i, inner in enumerate(raw))
        if raw is None or isinstance(raw, (bool, int, float, str, Component, ArrayFile, TensorRef)):
            return raw
        self._fault(path, f"a value of type {type(raw).__name__} cannot stand in a spec", "")
        return None

    def _mapping(self, raw: dict[Any, Any], path: Path_) -> Value:
        if "name" in raw:
            return self.component(raw, path)
        for form, keys in ((ArrayFile, ("file", "key")), (TensorRef, ("tensor",))):
            if keys[0] in raw:
                return self._reference(form, keys, raw, path)
        return {str(key): self.value(value, (*path, key)) for key, value in raw.items()}

    def _reference(self, form: type[ArrayFile | TensorRef], keys: tuple[str, ...], raw: dict[Any, Any], path: Path_) -> Value:
        before = len(self.faults)
        for key, value in raw.items():
            if key not in keys:
                self._fault(
                    (*path, key),
                    "unknown key",
                    f"beside {keys[0]} only {keys[1]} can stand" if keys[1:] else f"nothing stands beside {keys[0]}",
                )
            elif not (isinstance(value, str) and value) and not (key == "key" and value is None):
                self._fault((*path, key), f"wanted text, got {shown(value)}", "put it in quotes")
        if len(self.faults) > before:
            return None
        if form is ArrayFile:
            return ArrayFile(file=absolute(raw["file"], self.folder), key=raw.get("key"))
        return TensorRef(tensor=raw["tensor"])

    def _fault(self, path: Path_, what: str, hint: str) -> None:
        self.faults.append((path, what, hint))
