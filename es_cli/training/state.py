"""What training changes as it goes, and how it is written down without pickle: tensors in safetensors, the rest in its JSON string."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from es_cli.data.writers import write_bytes
from es_cli.errors import CheckpointError
from es_cli.networks.running import Running
from es_cli.splitting.objective import Objective


@dataclass
class Progress:
    """How far a run is: steps made, the best held-out loss and its step, validations since then without a better one."""

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    validations_since_best: int = 0
    done: str = ""


@dataclass
class TrainingState:
    """Network with its losses, averaged weights (None without EMA), optimizer, scheduler (None without one) and progress.

    `scaler` keeps small gradients of float16 from vanishing, None: no float16. `running` says how the network's backbones run.
    """

    objective: Objective
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    progress: Progress
    running: Running
    scaler: torch.amp.GradScaler | None = None

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.objective.network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.network if self.average is None else self.average

    def save(self, path: Path) -> None:
        """Write everything that resuming needs to one file, whole or not at all. Raises OutputError."""
        tensors: dict[str, Tensor] = {}
        _add(tensors, "network", self.network.state_dict())
        _add(tensors, "objective", self.objective.learned())
        if self.average is not None:
            _add(tensors, "average", self.average.state_dict())
        described = {
            "progress": asdict(self.progress),
            "optimizer": _pack(self.optimizer.state_dict(), "optimizer", tensors),
            "scheduler": None if self.scheduler is None else _pack(self.scheduler.state_dict(), "scheduler", tensors),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        write_bytes(path, save(tensors, {"es-state": json.dumps(described)}))

    def load(self, path: Path) -> None:
        """Continue from what `save` wrote. Raises CheckpointError where the file is missing, broken or of another run."""
        if not path.is_file():
            raise CheckpointError("the run has no saved state", where=str(path), hint="it stopped before its first one; train again with --overwrite")
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                described = json.loads(file.metadata()["es-state"])
            self.network.load_state_dict(_part(tensors, "network"))
            self.objective.restore(_part(tensors, "objective"))
            if self.average is not None:
                self.average.load_state_dict(_part(tensors, "average"))
            self.optimizer.load_state_dict(_unpack(described["optimizer"], tensors))
            if self.scheduler is not None:
                self.scheduler.load_state_dict(_unpack(described["scheduler"], tensors))
            if self.scaler is not None and described.get("scaler"):
                self.scaler.load_state_dict(described["scaler"])
            self.progress = Progress(**described["progress"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the saved state cannot be read: {error!r:.160}", where=str(path), hint="the file is damaged, or of another spec") from error


def _add(tensors: dict[str, Tensor], prefix: str, state: dict[str, Tensor]) -> None:
    tensors.update({f"{prefix}.{key}": value.detach().cpu().contiguous().clone() for key, value in state.items()})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A state dict as JSON: tensors are put aside under their path; dictionaries keep keys that are no strings."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {kind: [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} of type {type(value).__name__} cannot be saved without pickle")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind in {"list", "tuple"}:
        items = [_unpack(item, tensors) for item in held]
        return items if kind == "list" else tuple(items)
    pairs = {key: _unpack(item, tensors) for key, item in held}
    return Counter(pairs) if kind == "counter" else pairs
