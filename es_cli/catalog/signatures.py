"""The parameters that a class really takes: its own, and those of the classes that its `__init__` hands `**kwargs` up to."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

LIBRARIES = ("deepinv", "torch.optim", "es_cli")


@dataclass(frozen=True)
class Signature:
    """One parameter; `annotation` as written, "" where there is none."""

    name: str
    required: bool
    default: Any
    annotation: str


def parameters_of(cls: type) -> list[Signature]:
    """In the order of the signatures, the class's own first; without positional lists."""
    found: dict[str, Signature] = {}
    taken: set[str] = {"self"}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner) or not owner.__module__.startswith(_libraries(cls)):
            if "__init__" in vars(owner):
                break
            continue
        parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
        for one in parameters:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in taken and one.name not in found:
                found[one.name] = _signature(one)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
        passed = _passed_up(vars(owner)["__init__"], _next_init(cls, owner))
        if passed is None:
            break
        taken |= passed
    return list(found.values())


def takes_positional_list(cls: type) -> str | None:
    """The name of `*args` in the class's own signature, where it is more than a way to pass arguments up."""
    own = next((vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base) and base.__module__.startswith(_libraries(cls))), None)
    if own is None:
        return None
    return next(
        (one.name for one in inspect.signature(own).parameters.values() if one.kind is one.VAR_POSITIONAL and one.name != "args"), None
    )


def _libraries(cls: type) -> tuple[str, ...]:
    """Whose signatures are read: those of the libraries, and of the package that the class itself is from."""
    return (*LIBRARIES, cls.__module__.partition(".")[0])


def _signature(one: inspect.Parameter) -> Signature:
    required = one.default is one.empty
    annotation = (
        ""
        if one.annotation is one.empty
        else one.annotation
        if isinstance(one.annotation, str)
        else inspect.formatannotation(one.annotation)
    )
    return Signature(one.name, required, None if required else one.default, " ".join(annotation.split()))


def _next_init(cls: type, owner: type) -> Any:
    order = cls.__mro__
    return next((vars(base)["__init__"] for base in order[order.index(owner) + 1 :] if "__init__" in vars(base)), None)


def _passed_up(init: Any, above: Any) -> set[str] | None:
    """The names that `init` gives to `super().__init__` itself, which nobody else can give; None where `**kwargs` go nowhere."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError):
        return None
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "__init__"
            and any(kw.arg is None for kw in call.keywords)
        ):
            named = {kw.arg for kw in call.keywords if kw.arg is not None}
            names = [] if above is None else [name for name in inspect.signature(above).parameters if name != "self"]
            given = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
            if given and isinstance(given[0], ast.Name) and given[0].id == "self":
                given = given[1:]
            return named | set(names[: len(given)])
    return None
