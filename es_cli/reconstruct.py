"""Images from measurements with a checkpoint and nothing else. Usable from Python without the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_cli import catalog
from es_cli.building.forward_operator import rebuild_operator
from es_cli.building.parameters import fit_parameters
from es_cli.building.sizes import of_any_size, sized, with_sizes
from es_cli.checkpoint import Checkpoint, Metadata, load_checkpoint
from es_cli.data.layout import Form
from es_cli.errors import LIBRARY_ERRORS, CheckpointError, DataError, Fault, SpecError, out_of_memory, said
from es_cli.experiment import Reconstruction, Scaling, build_reconstruction, check_group, with_test_rule
from es_cli.judging.calibration import Calibration
from es_cli.networks.allowance import Allowance
from es_cli.networks.running import Running
from es_cli.spec.document import from_dict
from es_cli.spec.rule import rule_in_words
from es_cli.spec.schema import ArrayFile, Component, Spec, Test
from es_cli.splitting.averaging import TestRule, images_at_once
from es_cli.training.runtime import full_float32, resolve_device

FLOAT = 4  # bytes
Make = Callable[[Tensor, dict[str, Tensor]], Tensor]  # y (B, …) and the operator's parameters of these samples → (B, …)
MOST_CALLS = 1_000_000


@dataclass(frozen=True)
class Reconstructor:
    """A trained network with its operator, ready for measurements in the user's units."""

    spec: Spec
    metadata: Metadata
    made: Reconstruction
    device: torch.device

    @classmethod
    def load(cls, path: Path, device: str = "auto", precision: str = "float32", test: Test | None = None) -> Reconstructor:
        """Load a checkpoint; `device` is auto, cpu, cuda or cuda:N, `precision` that of the network, as in a spec, whatever it was trained in.

        `test` says how images are made in place of the checkpoint's rule, None: by that.
        Raises CheckpointError where the file is broken or names what the catalogue does not hold, DeviceError, UsageError, and SpecError for a
        rule that these measurements cannot be averaged by.
        """
        where = resolve_device(device)
        running = Running(where, precision, where="--precision")
        checkpoint = load_checkpoint(path)
        try:
            spec, made = _rebuild(checkpoint, where)
        except SpecError as error:
            raise CheckpointError(f"its spec cannot be built: {error.faults[0]}", where=str(path), hint="see `es info`") from error
        except CheckpointError as error:
            raise CheckpointError(error.fault.what, where=str(path), hint=error.fault.hint) from error
        if test is not None:
            spec = catalog.resolve(spec.model_copy(update={"test": test}))
            made = _with_rule(made, spec, where)
        running.take(made.network, made.operator.physics, made.operator.image.shape)
        made.network.eval().requires_grad_(False)
        return cls(spec, checkpoint.metadata, made, where)

    @property
    def network_calls(self) -> int:
        """Network evaluations for one image."""
        return self.made.rule.network_calls

    @property
    def calibration(self) -> Calibration | None:
        """How large error bars have to be, as training found it for the rule that images are made by; None where it did not, or for another rule."""
        kept = self.metadata.validation.get("error_bar")
        if not isinstance(kept, dict) or kept.get("rule") != rule_in_words(self.spec.test):
            return None
        try:
            return Calibration.from_dict(kept)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"its error bars cannot be read: {error!r:.100}", hint="the file is damaged or not to be trusted") from error

    @property
    def per_sample(self) -> tuple[str, ...]:
        """The operator's parameters of which each training sample had its own: those of the checkpoint are no more than a stand-in."""
        return tuple(str(name) for name in self.metadata.measurement.get("per_sample", ()))

    def takes(self, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        """Whether measurements of this shape and type are one or a batch of those of the operator."""
        try:
            self.made.operator.measurement.form(shape, dtype, "")
        except DataError:
            return False
        return True

    def reconstruct(self, y: np.ndarray, where: str = "input", params: Mapping[str, np.ndarray | str] | None = None) -> np.ndarray:
        """Images from one measurement or a batch, told apart by the operator's shape; complex in, complex out.

        Where the network was trained on several sizes, y may have any that the network and its group take. `params` are parameters of the
        operator in place of the checkpoint's, by name: an array for all samples or one for each, or from-data for a mask. Raises DataError,
        naming the shape that is wanted, where y or a parameter does not fit the operator or is not finite, `where` naming y in it; UsageError
        for a parameter that the operator does not take.
        """
        samples, form = self.samples(y, where)
        images = self.images(samples, params=self.fit(params or {}, samples))
        return self.made.operator.image.restore(images, form)

    def samples(self, y: np.ndarray, where: str) -> tuple[np.ndarray, Form]:
        """One measurement or a batch as the operator takes them, (n, …), and their form. Raises DataError, `where` naming y in it."""
        samples, form = self.made.operator.measurement.arrange(y, where)
        if not np.isfinite(samples).all():
            raise DataError("the measurement holds NaN or infinity", where=where, hint="replace what was not measured by 0")
        return samples, form

    def fit(self, params: Mapping[str, np.ndarray | list[np.ndarray] | str], samples: np.ndarray) -> dict[str, np.ndarray]:
        """Users' parameters as the operator takes them beside arranged measurements (n, …): (n or 1, …).

        Raises DataError, also where the measurements have another size than the checkpoint's operator and the parameter that each has of its
        own is not given; UsageError.
        """
        operator = self.made.operator
        if samples.shape[1:] != operator.measurement.shape:
            for name in set(self.per_sample) & set(operator.part.parameters) - set(params):
                what = f"the {name} of the checkpoint is that of another size than {samples.shape[1:]}"
                raise DataError(what, hint=f"give these measurements their own: --param {name}=FILE")
        return fit_parameters(params, operator, samples)

    def images(
        self, samples: np.ndarray, rule: TestRule | None = None, batch: int = 8, params: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Images float32 (n, C, H, W) from arranged measurements (n, …); `rule` None is the checkpoint's own; `params` are what `fit` gives.

        At most `batch` measurements at once, fewer where images are large.
        Raises DataError where the network or its group does not take images of another size than those that it was trained on.
        """
        return self._checked(samples, params or {}, lambda y, own: self.made(y, rule, params=own), batch)

    def with_spread(self, samples: np.ndarray, params: Mapping[str, np.ndarray] | None = None, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """What `images` gives, and the standard deviation of the passes around it, (n, C, H, W) each, from the same network calls."""
        deviations = []

        def make(y: Tensor, own: dict[str, Tensor]) -> Tensor:
            found = self.made.moments(y, params=own)
            deviations.append(found.variance.sqrt().cpu().numpy())
            return found.mean

        return self._checked(samples, params or {}, make, batch), np.concatenate(deviations)

    def _checked(self, samples: np.ndarray, params: Mapping[str, np.ndarray], make: Make, batch: int) -> np.ndarray:
        wanted = self.made.operator.image.fitted(samples.shape[1:]).shape
        try:
            operator = sized(self.made.operator, samples.shape[1:])
            if self.made.operator.sizes and wanted not in self.made.operator.sizes:
                check_group(self.spec, operator)
            made = self.each_batch(samples, params, make, images_at_once(wanted, batch))
        except (*LIBRARY_ERRORS, SpecError) as error:
            if not self.made.operator.sizes or out_of_memory(error):
                raise
            raise DataError(f"images of shape {wanted} cannot be made: {said(error)}", hint=f"it was trained on {self._sizes}") from error
        if made.shape[1:] != wanted:
            raise DataError(f"the network makes images of shape {made.shape[1:]}, not {wanted}", hint=f"it was trained on {self._sizes}")
        return made

    @property
    def _sizes(self) -> str:
        told = self.made.operator.sizes[:5]
        return ", ".join(str(size) for size in told) + (" …" if len(self.made.operator.sizes) > len(told) else "")

    def baseline(self, samples: np.ndarray, name: str, batch: int = 32, params: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """What needs no network, in the same form: `adjoint` Aᵀy or `pseudoinverse` A†y."""

        def make(y: Tensor, own: dict[str, Tensor]) -> Tensor:
            physics = self.made.physics_of(y, own)
            return physics.A_adjoint(y) if name == "adjoint" else physics.A_dagger(y)

        shape = self.made.operator.image.fitted(samples.shape[1:]).shape
        return self.each_batch(samples, params or {}, make, images_at_once(shape, batch))

    def each_batch(self, samples: np.ndarray, params: Mapping[str, np.ndarray], make: Make, batch: int) -> np.ndarray:
        """What `make` gives for each `batch` of measurements (n, …) and the parameters that `fit` gave, (n, …), put together."""
        made = []
        with torch.no_grad(), full_float32(self.device):
            for start in range(0, len(samples), batch):
                rows = slice(start, start + batch)
                own = {name: value if len(value) == 1 else value[rows] for name, value in params.items()}
                y = torch.from_numpy(samples[rows]).to(self.device)
                made.append(make(y, {name: torch.from_numpy(value).to(self.device) for name, value in own.items()}).cpu().numpy())
        return np.concatenate(made)


def _with_rule(made: Reconstruction, spec: Spec, device: torch.device) -> Reconstruction:
    try:
        return with_test_rule(made, spec, device)
    except SpecError as error:
        raise SpecError([Fault(fault.what, f"--test-rule: {fault.where}", fault.hint) for fault in error.faults]) from error


def _names_file(value: Any) -> bool:
    if isinstance(value, Component):
        return any(_names_file(inner) for inner in value.parameters.values())
    return isinstance(value, ArrayFile) or (isinstance(value, (tuple, list)) and any(_names_file(inner) for inner in value))


def _rebuild(checkpoint: Checkpoint, device: torch.device) -> tuple[Spec, Reconstruction]:
    metadata = checkpoint.metadata
    try:
        spec = from_dict(metadata.spec, "checkpoint")
        spec = spec.model_copy(update={"model": catalog.without_weight_files(spec.model)})  # no checkpoint of ours names files
        image_shape = tuple(int(n) for n in metadata.measurement["image_shape"])
        sizes = [tuple(int(n) for n in size) for size in metadata.measurement.get("sizes", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"its description is not complete: {error!r:.100}") from error
    faults = catalog.check_spec(spec)
    if faults:
        raise SpecError(faults)
    named = [path for path, _, part in catalog.parts_of(spec) if _names_file(part)]
    if named:
        raise CheckpointError(f"it names a file, at {named[0]}", hint="checkpoints of es need no file; this one is not to be trusted")
    operator = rebuild_operator(spec.physics, image_shape, {k: v for k, v in checkpoint.tensors.items() if k.startswith("physics.")})
    if sizes:
        operator = with_sizes(of_any_size(operator), sizes)
    held = sum(value.nbytes for value in checkpoint.tensors.values()) + FLOAT * math.prod(image_shape)
    with Allowance(held):
        made, _ = build_reconstruction(spec, operator.to(device), Scaling(metadata.scale), device)
    if made.rule.network_calls > MOST_CALLS:
        raise CheckpointError(f"its test rule asks for {made.rule.network_calls} network calls for each image", hint="it is not to be trusted")
    wrong = [key for key, value in made.network.state_dict().items() if key in (own := checkpoint.part("model")) and own[key].dtype != value.dtype]
    if wrong:
        raise CheckpointError(f"{wrong[0]} is of another type than its network has", hint="the file is damaged or not to be trusted")
    try:
        made.network.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        raise CheckpointError(f"its tensors do not fit its network: {said(error, 160)}", hint="the file is damaged") from error
    return spec, made


