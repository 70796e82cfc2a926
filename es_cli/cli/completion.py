"""What the shell offers when Tab is pressed. Each function is a Typer `autocompletion`, for any command's parameter.

Nothing here imports torch: an answer takes as long as `es --help`. Where a function offers nothing, the shell completes file names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

Offers = list[tuple[str, str]]  # (word, meaning) each
CHECKPOINT, RUNS, STATE = "*.safetensors", "runs", "state"
LONGEST = 60  # characters of a meaning beside a word


def prepare() -> None:
    """Typer wraps meanings at the width of the terminal, and fish then takes each line for a word; to be called before Typer completes."""
    if "_ES_COMPLETE" in os.environ:
        os.environ["TERMINAL_WIDTH"] = "10000"


def complete_kinds_and_components() -> Offers:
    """What `es list` takes first: a kind, or the name of anything."""
    from es_cli.catalog import KINDS

    return [*((kind, f"all of kind {kind}") for kind in KINDS), *_components(None)]


def complete_components_of_kind(ctx: typer.Context) -> Offers:
    """Components of the kind that stands before the word, in the parameter `kind`."""
    from es_cli.catalog import KINDS

    kind = ctx.params.get("kind")
    return _components(kind) if kind in KINDS else []


def components_of(kind: str) -> Callable[[], Offers]:
    """A completion with the components of one kind, for an option that takes these."""

    def complete() -> Offers:
        return _components(kind)

    return complete


def _components(kind: str | None) -> Offers:
    """Of packages only the names: they are not imported to complete a word, so that their kind is not known."""
    from es_cli.catalog import entries
    from es_cli.catalog.plugins import package, registered

    own = [(entry.name, _short(entry.meaning)) for entry in entries(None if kind is None else (kind,)) if entry.refused is None]
    return [*own, *((name, _short(f"of {package(points[0])}")) for name, points in registered().items())]


def complete_checkpoints(incomplete: str) -> list[str]:
    """Checkpoints of the runs in runs/, and .safetensors files in the folder typed so far and one below it."""
    found = [*Path(RUNS).glob("*/model.safetensors"), *(path for at in ("", "*/") for path in _typed(incomplete).glob(f"{at}{CHECKPOINT}"))]
    return _with_files(found, incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Folders of runs with a saved state: those in runs/, and those in the folder typed so far."""
    found = [path.parent for path in (*Path(RUNS).glob(f"*/{STATE}"), *_typed(incomplete).glob(f"*/{STATE}"))]
    return _with_files(found, incomplete)


def _typed(incomplete: str) -> Path:
    """The folder that is typed so far."""
    return Path(incomplete) if incomplete.endswith(("/", os.sep)) else Path(incomplete).parent


def _with_files(found: list[Path], incomplete: str) -> list[str]:
    """Paths without repetition; none in a home folder, which the shell's own completion of files knows by its ~."""
    return [] if incomplete.startswith("~") else sorted({str(path) for path in found})


def complete_templates() -> Offers:
    """The starter specs of `es init`."""
    from es_cli.spec.starters import starters

    return [(name, _short(line)) for name, line in starters().items()]


def complete_devices() -> Offers:
    """Names of devices."""
    return [("auto", "a GPU where there is one"), ("cpu", "the processor"), ("cuda", "the first GPU")]


def complete_precisions() -> list[str]:
    """What a network can compute in."""
    from es_cli.spec.schema import PRECISIONS

    return list(PRECISIONS)


def complete_test_rules() -> list[str]:
    """The named rules, and the one whose keys are typed most."""
    from es_cli.spec.rule import NAMED

    return [*NAMED, "splits=complementary"]


def complete_overrides(ctx: typer.Context, incomplete: str) -> Offers:
    """`a.b=` for every key of a spec and for the parameters of the components that the spec on the line names; after the = its words."""
    key, equals, _ = incomplete.partition("=")
    if equals:
        return [(f"{key}={word}", "") for word in _words(key, ctx)]
    # bash takes = for a word of its own
    before = [*(ctx.params.get("overrides") or ()), ""]
    if before[-2:-1] == ["="]:
        return [(word, "") for word in _words(before[-3], ctx)]
    if not incomplete and before[0] and "=" not in before[-2]:
        return [(word, "") for word in _words(before[-2], ctx)]
    found = {path: meaning for path, meaning, _ in _keys(ctx) if path.startswith(incomplete)}
    offers = [(f"{path}=", _short(meaning)) for path, meaning in found.items()]
    # a shell ends a word that is alone with a blank, which no value could follow
    return offers if len(found) > 1 else [*offers, *((f"{path}={word}", "") for path in found for word in _words(path, ctx))]


def _words(path: str, ctx: typer.Context) -> list[str]:
    """What may stand at a key: the few words that it knows, the components of its kind, or else its default."""
    from es_cli.catalog.loading import SLOTS
    from es_cli.spec.keys import keys_of

    kind = dict(SLOTS).get(path.removesuffix(".name"))
    if kind is not None:
        return [name for name, _ in _components(kind)]
    words = next((list(key.words) for key in keys_of() if key.path == path), [])
    default = next((default for at, _, default in _keys(ctx) if at == path), "")
    return words or ([default] if re.fullmatch(r"[\w.+-]+", default) and default != "required" else [])


def _keys(ctx: typer.Context) -> Iterator[tuple[str, str, str]]:
    """Path, meaning and default of all that can be changed: keys of the schema, and parameters of the components in the spec on the line."""
    from es_cli.errors import EsError
    from es_cli.spec.keys import keys_of
    from es_cli.spec.yaml_reader import read_yaml

    yield from ((key.path, key.meaning, key.default) for key in keys_of())
    spec = ctx.params.get("spec")
    try:
        tree = None if spec is None else read_yaml(Path(spec).read_text(encoding="utf-8"), str(spec)).value
    except (OSError, UnicodeDecodeError, EsError):
        return  # what is wrong with it is said when the command runs
    yield from _parameters_in(tree, "")


def _parameters_in(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    from es_cli.catalog import find
    from es_cli.catalog.listing import default, givable

    if isinstance(node, dict):
        entry = find(node["name"]) if path and isinstance(node.get("name"), str) else None
        yield from ((f"{path}.{one.name}", one.meaning, default(one)) for one in (givable(entry) if entry is not None else ()))
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from _parameters_in(inner, f"{path}.{key}" if path else str(key))


def _short(meaning: str) -> str:
    """A meaning beside a word, without what a shell or rich would read as more than text."""
    text = " ".join(re.sub(r"[^\w\s.,;()/=%+-]", " ", meaning).split())
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."
