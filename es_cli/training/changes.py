"""What may change when a stopped run goes on: how long and how fast it trains; not what is trained, nor on what."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_cli import catalog
from es_cli.errors import CheckpointError, Fault, SpecError
from es_cli.spec.document import to_dict
from es_cli.spec.schema import Spec
from es_cli.training.folder import SPEC

MAY_CHANGE = (
    "training.steps", "training.epochs", "training.batch_size", "training.optimizer", "training.scheduler", "training.gradient_clip",
    "training.patience", "training.validate_every", "training.save_every", "training.precision", "training.compile", "training.preview", "training.backoffs",
)  # fmt: skip
MAY_NOT = ("training.optimizer.name",)  # what an optimizer remembers is of no use to another


@dataclass(frozen=True)
class Change:
    """A value of the spec that is another from here on; None: it was, or is, left out."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path} {_shown(self.old)} → {_shown(self.new)}"

    @property
    def allowed(self) -> bool:
        return any(self.path == path or self.path.startswith(path + ".") for path in MAY_CHANGE) and self.path not in MAY_NOT


def read_run(run_dir: Path, overrides: Sequence[str] = ()) -> tuple[Spec, Spec, list[Change]]:
    """The spec of a run as it was, as it goes on with `a.b=value` overrides, and what changes.

    Raises CheckpointError where the folder holds no run, SpecError for all changes at once that it cannot go on with.
    """
    file = run_dir / SPEC
    if not os.path.isfile(file):  # a name that no file can have is no error to it
        raise CheckpointError("this folder holds no run", where=str(run_dir), hint="give the folder that es train made, such as runs/NAME")
    before = catalog.load_spec(file)
    if not overrides:
        return before, before, []
    after = catalog.load_spec(file, overrides)
    changes = list(_changes(to_dict(before), to_dict(after), ""))
    refused = [change for change in changes if not change.allowed]
    if refused:
        hint = "a run goes on with what it was begun with: train anew, with --init-from to start from its weights"
        raise SpecError([Fault(f"this run was begun with {_shown(one.old)}, and {_shown(one.new)} is asked for", one.path, hint) for one in refused])
    return before, after, changes


def _changes(old: Any, new: Any, path: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _changes(one, other, f"{path}.{i}")
    elif old != new:
        yield Change(path, old, new)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:80] + " …"
