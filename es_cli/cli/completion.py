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
CHECKPOINT = "*.safetensors"
LONGEST = 60  # characters of a meaning beside a word


def prepare() -> None:
    """Typer wraps meanings at the width of the terminal, and fish then takes each line for a word; to be called before Typer completes."""
    if "_ES_COMPLETE" in os.environ:
        os.environ["TERMINAL_WIDTH"] = "10000"


def complete_kinds() -> Offers:
    """The kinds of components."""
    from es_cli.catalog import KINDS

    return [(kind, f"all of kind {kind}") for kind in KINDS]


def complete_components() -> Offers:
    """Everything that a spec can name."""
    return _components(None)


def _components(kind: str | None) -> Offers:
    """Of packages only the names: they are not imported to complete a word, so that their kind is not known."""
    from es_cli.catalog import entries
    from es_cli.catalog.plugins import package, registered

    own = [(entry.name, _short(entry.meaning)) for entry in entries(None if kind is None else (kind,)) if entry.refused is None]
    return [*own, *((name, _short(f"of {package(points[0])}")) for name, points in registered().items())]


def complete_kinds_and_components() -> Offers:
    return [*complete_kinds(), *complete_components()]


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


def complete_checkpoints(incomplete: str) -> list[str]:
    """Checkpoints of the runs in runs/, and .safetensors files in the folder typed so far and one below it."""
    typed = Path(incomplete).expanduser().parent if not incomplete.endswith(("/", os.sep)) else Path(incomplete).expanduser()
    found = {str(path) for path in Path("runs").glob("*/model.safetensors")}
    if incomplete.startswith("~"):
        return []  # the shell's own completion of files knows home folders
    for path in (*typed.glob(CHECKPOINT), *typed.glob(f"*/{CHECKPOINT}")):
        found.add(str(path))
    return sorted(found)


def complete_templates() -> Offers:
    """The starter specs of `es init`, with the first comment of each."""
    from importlib import resources

    folder = resources.files("es_cli.spec").joinpath("templates")
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")] if folder.is_dir() else []
    return sorted((file.name.removesuffix(".yaml"), _short(file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "))) for file in files)


def complete_devices() -> Offers:
    return [("auto", "a GPU where there is one"), ("cpu", "the processor"), ("cuda", "the first GPU")]


def complete_precisions() -> list[str]:
    from es_cli.spec.schema import PRECISIONS

    return list(PRECISIONS)


def complete_test_rules() -> list[str]:
    from es_cli.spec.rule import NAMED

    return [*NAMED, "splits=complementary"]


def complete_spec_overrides(ctx: typer.Context, incomplete: str) -> Offers:
    """`a.b=` for every setting of a spec, and for the parameters of the components that the spec on the line names."""
    found = dict(_settings())
    spec = ctx.params.get("spec")
    if spec is not None:
        found |= dict(_parameters(Path(spec)))
    return [(f"{path}=", _short(meaning)) for path, meaning in found.items()]


def _settings() -> Iterator[tuple[str, str]]:
    from es_cli.spec.schema import Data, LossTerm, Pair, Source, Spec, Test, Training, Transforms

    below: dict[str, Any] = {"data": Data, "transforms": Transforms, "test": Test, "training": Training}
    below |= dict.fromkeys(("data.train", "data.validation", "data.test"), Pair)
    below |= {f"{pair}.{one}": Source for pair in list(below) if pair.startswith("data.") for one in ("measurements", "images")}

    def walk(section: Any, path: str) -> Iterator[tuple[str, str]]:
        for name, setting in section.model_fields.items():
            at = f"{path}.{name}" if path else name
            yield at, setting.description or ""
            if at in below:
                yield from walk(below[at], at)

    yield from walk(Spec, "")
    yield from ((f"losses.0.{name}", setting.description or "") for name, setting in LossTerm.model_fields.items() if name != "loss")


def _parameters(spec: Path) -> Iterator[tuple[str, str]]:
    """Paths of what the components in a spec take; nothing where it cannot be read, which is said when the command runs."""
    from es_cli.errors import EsError
    from es_cli.spec.yaml_reader import read_yaml

    try:
        tree = read_yaml(spec.read_text(encoding="utf-8"), str(spec)).value
    except (OSError, UnicodeDecodeError, EsError):
        return
    yield from _parameters_in(tree, "")


def _parameters_in(node: Any, path: str) -> Iterator[tuple[str, str]]:
    from es_cli.catalog import find
    from es_cli.catalog.listing import givable

    if isinstance(node, dict):
        entry = find(node["name"]) if path and isinstance(node.get("name"), str) else None
        yield from ((f"{path}.{one.name}", one.meaning) for one in (givable(entry) if entry is not None else ()))
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from _parameters_in(inner, f"{path}.{key}" if path else str(key))


def _short(meaning: str) -> str:
    """A meaning beside a word, without what a shell or rich would read as more than text."""
    text = " ".join(re.sub(r"[^\w\s.,;()/=%+-]", " ", meaning).split())
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."
