"""What a spec can name, for people who look for it: each component with its parameters, their defaults and meanings, and where it is from."""

from __future__ import annotations

import json

from es_cli.catalog.checking import WEIGHT_FILES, WEIGHTS, kinds_in, wanted_in_words
from es_cli.catalog.entries import CONTEXT_PARAMETERS, KINDS, Entry, Parameter, entries, find, registered_entries, suggest
from es_cli.catalog.loading import FROM_TOP_LEVEL
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING
from es_cli.errors import UsageError
from es_cli.spec.wording import did_you_mean

PAGES = {
    "deepinv": "https://deepinv.github.io/deepinv/api/stubs/{module}.{name}.html",
    "torch": "https://docs.pytorch.org/docs/stable/generated/{module}.{name}.html",
}


def nameable(kind: str | None = None) -> list[Entry]:
    """All components of a kind that can be built, by kind and name; None is all kinds. Packages that register components are imported for it."""
    kinds = KINDS if kind is None else (kind,)
    found = [entry for entry in (*entries(kinds), *registered_entries(kinds)) if entry.refused is None]
    return sorted(found, key=lambda entry: (entry.kind, entry.name))


def not_loaded() -> list[Entry]:
    """What installed packages register and cannot be loaded; `refused` says why."""
    return [entry for entry in registered_entries() if entry.kind == ""]


def look_up(name: str, kind: str | None = None) -> Entry:
    """The component called `name`; None is any kind. Raises UsageError where there is none of that kind, or it cannot be built."""
    kinds = None if kind is None else (kind,)
    entry = find(name, kinds)
    if entry is None and kind is not None and (other := find(name)) is not None:
        raise UsageError(f"{name} is no {kind}, but a {other.kind}", hint=f"es list {other.kind} {name}")
    if entry is None:
        near = suggest(name, kinds) or (did_you_mean(name, KINDS) if kind is None else None)
        raise UsageError(f"there is no {kind or 'component'} {name}", hint=f"did you mean {near}?" if near else f"es list {kind or ''}".strip() + " names all")
    if entry.refused is not None:
        raise UsageError(f"{name} cannot be built from a spec: {entry.refused}", hint=f"es list {kind or entry.kind}".rstrip() + " names what can")
    return entry


def check_kind(kind: str) -> None:
    """Raises UsageError where there is no such kind."""
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise UsageError(f"there is no kind {kind}", hint=f"did you mean {near}?" if near else f"kinds are {', '.join(KINDS)}")


def givable(entry: Entry) -> list[Parameter]:
    """The parameters that a spec may give, and for a network the file that its weights are read from."""
    found = [one for one in entry.parameters if one.refused is None]
    if entry.kind == "model" and not any(one.name == WEIGHTS for one in found):
        found.append(Parameter(WEIGHTS, meaning="file that the weights are read from", downloads=True))
    return found


def page(entry: Entry) -> str | None:
    """The page of the library's documentation; None for what is no library's."""
    form = PAGES.get(entry.origin)
    return None if form is None else form.format(module=entry.module, name=entry.name)


def accepts(parameter: Parameter, entry: Entry) -> str:
    """What may stand there, in words."""
    if entry.name == EQUIVARIANT_SPLITTING and parameter.name in FROM_TOP_LEVEL:
        return f"stands at the top level of the spec, as {FROM_TOP_LEVEL[parameter.name]}"
    if parameter.downloads:
        return f"a file of weights ({', '.join(WEIGHT_FILES)})"
    if parameter.choices:
        return " or ".join(parameter.choices)
    kinds = kinds_in(parameter, entry)
    return "anything" if not parameter.types and not kinds else wanted_in_words(parameter, kinds)


def default(parameter: Parameter) -> str:
    """The value that stands where nothing is given, as YAML writes it; what is required or known from the data says so."""
    if not parameter.required:
        return parameter.default if isinstance(parameter.default, str) else json.dumps(parameter.default, ensure_ascii=False)
    return "known from the data" if parameter.name in CONTEXT_PARAMETERS else "required"


def call(entry: Entry) -> str:
    """All parameters on one line: `angles, [img_width], circle=true`; what is in brackets is known from the data."""
    return ", ".join(
        f"[{one.name}]" if one.name in CONTEXT_PARAMETERS else one.name if one.required else f"{one.name}={default(one)}" for one in givable(entry)
    )
