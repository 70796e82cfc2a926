"""What training changes as it goes, and how it is written down without pickle: tensors in safetensors, the rest in its JSON string."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from es_cli.data.tensors import check_header, read_json
from es_cli.data.writers import write_bytes
from es_cli.errors import LIBRARY_ERRORS, CheckpointError, out_of_memory
from es_cli.networks.running import Running
from es_cli.splitting.objective import Objective
from es_cli.training.processes import Processes
from es_cli.training.schedule import take_over

# what reading a damaged file, or one of another spec, raises
UNREADABLE = (*LIBRARY_ERRORS, SafetensorError, OSError, RecursionError)
MOST_STEPS = 1 << 53  # no run makes more


@dataclass
class Tally:
    """The steps since the last validation: how many, the sum of their losses, their seconds, and the last learning rate."""

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    lr: float | None = None


@dataclass
class Progress:
    """How far a run is: steps made, the step of the last validation, the best held-out loss and its step, validations since then without a better one.

    `done` says why a run has ended, "" while it has not. `horizon` is the number of steps that it was begun with, for which its schedule is made.
    `skipped` steps were left out since their loss or gradient was not finite, `skipped_in_row` of them just now, and training went back `backoffs` times.
    `bad` are the positions of samples that cannot be read, by the part of the data.
    """

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    validations_since_best: int = 0
    done: str = ""
    validated: int = 0
    horizon: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    backoffs: int = 0
    bad: dict[str, list[int]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at one moment: tensors on the host that nothing changes any more, and the rest as JSON knows it.

    `path`: the file that it was read from, None: it is of this run.
    """

    tensors: Mapping[str, Tensor]
    described: Mapping[str, Any]
    path: Path | None = None

    @property
    def step(self) -> int:
        return int(self.described["progress"]["step"])

    @property
    def horizon(self) -> int:
        """The number of steps that the run was begun with, 0 where an older version did not write it."""
        return int(self.described["progress"].get("horizon", 0))

    @property
    def good(self) -> bool:
        """Whether it was taken at a validation, or before the first step, and the step before it was made: a run that diverges goes back to one of these."""
        progress = self.described["progress"]
        return int(progress.get("validated", 0)) == self.step and not progress.get("skipped_in_row")

    def write(self, path: Path) -> None:
        """Write it to one file, whole or not at all, with a SHA-256 over all of it. Raises OutputError."""
        text = json.dumps(self.described)
        write_bytes(path, save(dict(self.tensors), {"es-state": text, "sha256": _checksum(self.tensors, text)}))


def read_snapshot(path: Path) -> Snapshot:
    """What `Snapshot.write` wrote. Raises CheckpointError where the file is missing, broken, or not what was written."""
    if not path.is_file():
        raise CheckpointError("the run has no saved state", where=str(path), hint="it stopped before its first one; train again with --overwrite")
    try:
        check_header(path)
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata()
        text = metadata["es-state"]
        # states of older versions have no checksum
        if metadata.get("sha256", (found := _checksum(tensors, text))) != found:
            raise ValueError("its checksum is another")
        described = read_json(text)
        _progress(described["progress"])
        return Snapshot(tensors, described, path)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What to answer where a state cannot be used."""
    return CheckpointError(f"the saved state cannot be read: {error!r:.160}", where=str(path), hint="the file is damaged, or of another spec")


@dataclass
class TrainingState:
    """Network with its losses, averaged weights (None without EMA), optimizer, scheduler (None without one) and progress.

    `scaler` keeps small gradients of float16 from vanishing, None: no float16. `running` says how the network's backbones run. `parts` are
    optimizer and scheduler as the spec has them, `spec` is what is trained, `samples` says on how many, and `schedule_end` is the step after which the learning rate stays, None: it never does.
    `processes` are those that train together.
    """

    objective: Objective
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    progress: Progress
    running: Running
    scaler: torch.amp.GradScaler | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    schedule_end: int | None = None
    processes: Processes = field(default_factory=Processes)
    spec: Mapping[str, Any] | None = None
    samples: str | None = None
    untried: Path | None = None  # the file that the state was read from, until the first step from there

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.objective.network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.network if self.average is None else self.average

    def step_schedule(self, step: int) -> None:
        """Step `step` of the optimizer was made."""
        if self.scheduler is not None and (self.schedule_end is None or step <= self.schedule_end):
            self.scheduler.step()

    def snapshot(self) -> Snapshot:
        """Everything that resuming needs, copied to the host."""
        tensors: dict[str, Tensor] = {}
        _add(tensors, "network", self.network.state_dict())
        _add(tensors, "objective", self.objective.learned())
        if self.average is not None:
            _add(tensors, "average", self.average.state_dict())
        described = {
            "progress": asdict(self.progress),
            "parts": self.parts,
            "spec": self.spec,
            "samples": self.samples,
            "optimizer": _pack(self.optimizer.state_dict(), "optimizer", tensors),
            "scheduler": None if self.scheduler is None else _pack(self.scheduler.state_dict(), "scheduler", tensors),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return Snapshot(tensors, described)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, which stays as it is. Raises CheckpointError where it was read from a file and is of another spec."""
        try:
            self._take(snapshot)
        except UNREADABLE as error:
            if snapshot.path is None or out_of_memory(error):
                raise
            raise unreadable(snapshot.path, error) from error
        self.untried = snapshot.path

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """A step of the optimizer. Raises CheckpointError where it is the first one and cannot be made: an optimizer takes over anything, and looks at it then."""
        try:
            yield
        except LIBRARY_ERRORS as error:
            if self.untried is None or out_of_memory(error):
                raise
            raise unreadable(self.untried, error) from error
        self.untried = None

    def _take(self, snapshot: Snapshot) -> None:
        tensors, described = snapshot.tensors, snapshot.described
        self.network.load_state_dict(_part(tensors, "network"))
        self.objective.restore(_part(tensors, "objective"))
        if self.average is not None:
            self.average.load_state_dict(_part(tensors, "average"))
        horizon = self.progress.horizon
        self.progress = _progress(described["progress"])
        self.progress.horizon = self.progress.horizon or horizon
        optimizer = _unpack(described["optimizer"], tensors)
        if described.get("parts", self.parts) != self.parts:
            end = self.progress.step if self.schedule_end is None else self.schedule_end
            take_over(self.optimizer, self.scheduler, optimizer, min(self.progress.step, end))
        else:
            self.optimizer.load_state_dict(optimizer)
            if self.scheduler is not None:
                self.scheduler.load_state_dict(_unpack(described["scheduler"], tensors))
        if self.scaler is not None and described.get("scaler"):
            self.scaler.load_state_dict(described["scaler"])

    def save(self, path: Path) -> None:
        """Write everything that resuming needs to one file, whole or not at all. Raises OutputError."""
        self.snapshot().write(path)

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote. Raises CheckpointError where the file is missing, broken or of another run."""
        self.restore(read_snapshot(path))


def _progress(described: Mapping[str, Any]) -> Progress:
    """Raises TypeError, KeyError or ValueError where a field is of another kind."""
    # older versions wrote a state only where no validation was due
    found = {"validated": described["step"], **described}
    progress = Progress(**{**found, "tally": Tally(**found.get("tally", {}))})
    for held in (progress, progress.tally):
        for key, value in vars(held).items():
            kind = type(getattr(type(held), key, None))
            if kind is int and not (type(value) is int and 0 <= value < MOST_STEPS):
                raise ValueError(f"{key} is {value!r:.40}")
            if kind in {float, str} and not isinstance(value, (float, int) if kind is float else str):
                raise TypeError(f"{key} is {value!r:.40}")
    positions = [position for part in progress.bad.values() for position in part] if isinstance(progress.bad, dict) else [None]
    if not all(type(position) is int and position >= 0 for position in positions):
        raise ValueError(f"bad is {progress.bad!r:.40}")
    return progress


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _copied(value: Tensor) -> Tensor:
    """A copy on the host that shares nothing with `value`."""
    held = value.detach().cpu().contiguous()
    return held.clone() if held.data_ptr() == value.data_ptr() else held


def _add(tensors: dict[str, Tensor], prefix: str, state: dict[str, Tensor]) -> None:
    tensors.update({f"{prefix}.{key}": _copied(value) for key, value in state.items()})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A state dict as JSON: tensors are put aside under their path; dictionaries keep keys that are no strings."""
    if isinstance(value, Tensor):
        tensors[path] = _copied(value)
        return {"tensor": path}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} of type {type(value).__name__} cannot be saved without pickle")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_pack` packed, in tensors of its own: an optimizer keeps those that it is given, and changes them."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held].clone()
    if kind in {"list", "tuple"}:
        items = [_unpack(item, tensors) for item in held]
        return items if kind == "list" else tuple(items)
    pairs = {key: _unpack(item, tensors) for key, item in held}
    return Counter(pairs) if kind == "counter" else pairs
