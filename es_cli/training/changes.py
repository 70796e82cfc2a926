"""What may change when a stopped run goes on: how long and how fast it trains; not what is trained, nor on what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_cli import catalog
from es_cli.errors import CheckpointError, DataError, Fault, SpecError
from es_cli.spec.document import from_dict, to_dict
from es_cli.spec.schema import Spec
from es_cli.training.folder import SPEC, check_links
from es_cli.training.lock import FolderLock

if TYPE_CHECKING:
    from es_cli.experiment import Experiment

MAY_CHANGE = (
    "training.steps", "training.epochs", "training.batch_size", "training.optimizer", "training.scheduler", "training.gradient_clip",
    "training.patience", "training.validate_every", "training.save_every", "training.precision", "training.compile", "training.preview", "training.backoffs", "training.deterministic", "data.on_bad_sample",
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


@dataclass(frozen=True)
class Reopened:
    """A stopped run to go on with: its folder, which is locked until `release`; its spec as it was, `before`, and as it goes on; what changes."""

    path: Path
    lock: FolderLock
    before: Spec
    spec: Spec
    changes: list[Change]

    def release(self) -> None:
        """Let others in."""
        self.lock.release()


def reopen(run_dir: Path, overrides: Sequence[str] = (), spec: Path | None = None, ours: bool = True) -> Reopened:
    """The run in a folder, locked, with `a.b=value` overrides of its spec, or of the file `spec`, None: the one that the run has kept.

    `ours`: this process writes there, and locks it; else another one does that trains with it. Raises CheckpointError where the folder holds no run, UsageError where another process trains in it, OutputError where a link leads
    out of it, SpecError for all changes at once that it cannot go on with.
    """
    if not os.path.isfile(run_dir / SPEC):  # a name that no file can have is no error to it
        raise CheckpointError("this folder holds no run", where=str(run_dir), hint="give the folder that es train made, such as runs/NAME")
    check_links(run_dir)
    lock = FolderLock(run_dir)
    if ours:
        lock.take()
    try:
        before = catalog.load_spec(run_dir / SPEC)
        after = catalog.load_spec(spec or run_dir / SPEC, overrides) if overrides or spec is not None else before
        changes = list(_changes(to_dict(before), to_dict(after), ""))
        _refuse(changes)
        return Reopened(run_dir, lock, before, after, changes)
    except BaseException:
        lock.release()
        raise


def described(resolved: Spec) -> dict[str, Any]:
    """What is trained, without the data, and without weights that the spec named as a file: these are in the tensors, and its path would say where it lay."""
    losses = tuple(term.model_copy(update={"loss": catalog.without_weight_files(term.loss)}) for term in resolved.losses)
    whole = to_dict(resolved.model_copy(update={"model": catalog.without_weight_files(resolved.model), "losses": losses}))
    return {name: section for name, section in whole.items() if name != "data"}


def check_same(begun: Any, now: Mapping[str, Any]) -> None:
    """SpecError where a run is not what it was `begun` as, both as `described` has it: somebody has edited its spec. None: nobody knows.

    Raises ValueError where `begun` describes nothing that this version knows.
    """
    if begun is None:
        return
    try:
        held = to_dict(from_dict(begun, SPEC))
    except SpecError as error:
        raise ValueError(f"it speaks of a spec that is none: {error.faults[0].what}") from error
    _refuse(_changes(held, now, ""))


def count_samples(experiment: Experiment) -> str:
    """How many samples there are, in words."""
    return f"{len(experiment.train)} samples to train on and {len(experiment.validation)} held out"


def check_samples(begun: Any, experiment: Experiment) -> None:
    """DataError where there are more samples or fewer than when the run was `begun`, None: nobody knows. Draws and order are keyed by their numbers."""
    if begun is not None and begun != count_samples(experiment):
        what = f"this run was begun with {begun!s:.80}, and there are {count_samples(experiment)} now"
        raise DataError(what, where="data.train", hint="bring the files back, or train anew, with --init-from to start from its weights")


def _refuse(changes: Iterable[Change]) -> None:
    refused = [change for change in changes if not change.allowed]
    if refused:
        hint = "a run goes on with what it was begun with: train anew, with --init-from to start from its weights"
        raise SpecError([Fault(f"this run was begun with {_shown(one.old)}, and {_shown(one.new)} is asked for", one.path, hint) for one in refused])


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
