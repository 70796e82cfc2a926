"""Images from measurements with a checkpoint and nothing else. Usable from Python without the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from es_cli import catalog
from es_cli.checkpoint import Checkpoint, Metadata, load_checkpoint
from es_cli.errors import CheckpointError, DataError, SpecError
from es_cli.experiment import Reconstruction, Scaling, build_reconstruction
from es_cli.forward_operator import rebuild_operator
from es_cli.spec.document import from_dict
from es_cli.spec.schema import Spec
from es_cli.splitting.averaging import TestRule
from es_cli.training.runtime import resolve_device


@dataclass(frozen=True)
class Reconstructor:
    """A trained network with its operator, ready for measurements in the user's units."""

    spec: Spec
    metadata: Metadata
    made: Reconstruction
    device: torch.device

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Reconstructor:
        """Load a checkpoint; `device` is auto, cpu, cuda or cuda:N.

        Raises CheckpointError where the file is broken or names what the catalogue does not hold, DeviceError.
        """
        where = resolve_device(device)
        checkpoint = load_checkpoint(path)
        try:
            spec, made = _rebuild(checkpoint, where)
        except SpecError as error:
            raise CheckpointError(f"its spec cannot be built: {error.faults[0]}", where=str(path), hint="see `es info`") from error
        except CheckpointError as error:
            raise CheckpointError(error.fault.what, where=str(path), hint=error.fault.hint) from error
        made.network.eval().requires_grad_(False)
        return cls(spec, checkpoint.metadata, made, where)

    @property
    def network_calls(self) -> int:
        """Network evaluations for one image."""
        return self.made.rule.network_calls

    def reconstruct(self, y: np.ndarray, where: str = "input") -> np.ndarray:
        """Images from one measurement or a batch, told apart by the operator's shape; complex in, complex out.

        Raises DataError, naming the shape that is wanted, where y does not fit the operator or is not finite; `where` names y in it.
        """
        samples, form = self.made.operator.measurement.arrange(y, where)
        if not np.isfinite(samples).all():
            raise DataError("the measurement holds NaN or infinity", where=where, hint="replace what was not measured by 0")
        images = self.images(samples)
        return self.made.operator.image.restore(images, form)

    def images(self, samples: np.ndarray, rule: TestRule | None = None, batch: int = 8) -> np.ndarray:
        """Images float32 (n, C, H, W) from arranged measurements (n, …); `rule` None is the checkpoint's own."""
        return self._batched(samples, lambda y: self.made(y, rule), batch)

    def baseline(self, samples: np.ndarray, name: str, batch: int = 32) -> np.ndarray:
        """What needs no network, in the same form: `adjoint` Aᵀy or `pseudoinverse` A†y."""
        physics = self.made.operator.physics
        return self._batched(samples, physics.A_adjoint if name == "adjoint" else physics.A_dagger, batch)

    def _batched(self, samples: np.ndarray, make: Any, batch: int) -> np.ndarray:
        made = []
        with torch.no_grad():
            for start in range(0, len(samples), batch):
                y = torch.from_numpy(samples[start : start + batch]).to(self.device)
                made.append(make(y).cpu().numpy())
        return np.concatenate(made)


def _rebuild(checkpoint: Checkpoint, device: torch.device) -> tuple[Spec, Reconstruction]:
    metadata = checkpoint.metadata
    try:
        spec = from_dict(metadata.spec, "checkpoint")
        spec = spec.model_copy(update={"model": catalog.without_weight_files(spec.model)})  # no checkpoint of ours names files
        image_shape = tuple(int(n) for n in metadata.measurement["image_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its description is not complete: {error!r:.100}") from error
    faults = catalog.check_spec(spec)
    if faults:
        raise SpecError(faults)
    operator = rebuild_operator(spec.physics, image_shape, {k: v for k, v in checkpoint.tensors.items() if k.startswith("physics.")})
    made, _ = build_reconstruction(spec, operator.to(device), Scaling(metadata.scale), device)
    try:
        made.network.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        raise CheckpointError(f"its tensors do not fit its network: {' '.join(str(error).split())[:160]}", hint="the file is damaged") from error
    return spec, made


