"""The first section of `es check`: is the operator what it takes itself for, and are the measurements its own?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from torch import Tensor

from es_cli.data.measurements import Measurements
from es_cli.diagnostics.agreement import (
    FourierConvention,
    MaskMismatch,
    fourier_convention,
    image_scale,
    likely_units,
    mask_mismatch,
    noise_share,
    range_residual,
)
from es_cli.diagnostics.algebra import (
    adjoint_error,
    first_samples,
    linearity_error,
    probe_images,
    rounding,
    samples_of,
    spectrum,
    steps_for,
    unseen_fraction,
)
from es_cli.diagnostics.finding import ORDER, Finding, Verdict, worst
from es_cli.experiment import Experiment
from es_cli.splitting.parameters import of_one_sample
from es_cli.splitting.sparse_radon import with_sparse_radon
from es_cli.streams import stream_seed

SECTION = "operator"
ENTRIES = 2**22  # of the measurements that are looked at together
HALF_PRECISION = float(torch.finfo(torch.float16).eps)  # what a file of half precision leaves of a 0, relative to what was measured
OUTSIDE = 0.75  # of the energy outside the central half: white noise has 0.5, an image or spectrum that lies right less
GOOD_SIZE = (0.1, 10.0)  # of images: an order of magnitude on both sides of the 1 that initial weights and learning rates are made for
UNEXPLAINED = {"doubtful": 0.01, "no": 0.5}  # of the energy of y, beyond noise and solver: a tenth of its norm; most of it
Complaint = tuple[Verdict, str, str]


def operator_finding(experiment: Experiment, *, quick: bool) -> Finding:
    """Adjoint, linearity, norm and condition of the operator, and whether samples of the training data lie in its range.

    No only where the measurements contradict the operator. `quick` looks at fewer samples with fewer steps. Sees no ground truth.
    """
    numbers: dict[str, Any] = {}
    complaints: list[Complaint] = []
    with torch.no_grad():
        for i, positions in enumerate(looked_at(experiment.train, 4 if quick else 8, 2 if quick else 4)):
            y, _, physics, scale = experiment.reconstruction.batch(experiment.train, positions, torch.device(experiment.operator.device))
            shape = experiment.operator.image.fitted(tuple(y.shape[1:])).shape
            sample = _Sample(experiment, y, physics, tuple(shape), stream_seed(experiment.spec.seed, "check-operator"), quick)
            found = _data_numbers(experiment, y, scale)
            said = list(sample.measured(found))
            numbers = numbers if i else found
            complaints += [one for one in said if one not in complaints]
    verdict = worst(one[0] for one in complaints)
    complaints.sort(key=lambda one: -ORDER.index(one[0]))
    if not complaints:
        return Finding(SECTION, verdict, _praise(numbers), "", numbers)
    if complaints[1:]:
        numbers["also"] = [f"{reason}; {advice}" for _, reason, advice in complaints[1:]]
    return Finding(SECTION, verdict, complaints[0][1], complaints[0][2], numbers)


def _praise(numbers: dict[str, Any]) -> str:
    if "adjoint_error" not in numbers:
        return "the operator is not linear: it has no adjoint or range to be measured"
    return "the operator is linear, its adjoint fits, and the measurements lie in its range"


def looked_at(data: Measurements, count: int, shapes: int) -> Iterator[list[int]]:
    """Positions of samples that stand for a data set: at most `count` of the largest shape, then 2 of each of up to `shapes` − 1 others."""
    of_shape = [np.arange(len(data))] if data.shapes is None else [np.flatnonzero(data.shapes == number) for number in np.unique(data.shapes)]
    of_shape.sort(key=lambda positions: -math.prod(data.shape_at(int(positions[0]))))
    chosen = [of_shape[i] for i in dict.fromkeys(np.linspace(0, len(of_shape) - 1, shapes).round().astype(int).tolist())]
    for i, positions in enumerate(chosen):
        most = max(1, ENTRIES // math.prod(data.shape_at(int(positions[0]))))
        wanted = min(len(positions), count if i == 0 else 2, most)
        yield [int(positions[j]) for j in np.linspace(0, len(positions) - 1, wanted).round().astype(int)]


def _data_numbers(experiment: Experiment, y: Tensor, scale: Tensor | None) -> dict[str, Any]:
    return {
        "samples": len(y),
        "measurement_shape": list(y.shape[1:]),
        "stored_as": str(experiment.train.y.dtype),
        "lowest": float(y.min()),
        "highest": float(y.max()),
        "divided_by": 1.0 if scale is None else float(scale.median()),
    }


class _Sample:
    """Samples of one shape with their operator, in the units of the network: what is measured of them goes to `numbers`, what is wrong is yielded."""

    def __init__(self, experiment: Experiment, y: Tensor, physics: Any, shape: tuple[int, ...], seed: int, quick: bool) -> None:
        self.spec, self.y, self.physics, self.shape, self.seed, self.quick = experiment.spec, y, physics, shape, seed, quick
        self.fast = with_sparse_radon(physics)  # for all but the adjoint, which is that of the operator as it is
        self.name = experiment.operator.part.name

    def measured(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        empty = int((self.y == 0).flatten(1).all(1).sum())
        if empty:
            yield "doubtful", f"{empty} of the {len(self.y)} samples that were looked at are 0 everywhere", "leave them out of data.train"
        if not isinstance(self.physics, LinearPhysics):
            return
        broken = list(self._algebra(numbers))
        yield from broken
        yield from self._mask(numbers)
        yield from self._fourier(numbers)
        yield from self._scale(numbers)
        if not broken:  # least squares goes astray with an adjoint that is none
            yield from self._range(numbers)

    def _algebra(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        device, steps = self.y.device, steps_for(self.shape, self.quick)
        limit = rounding(max(math.prod(self.shape), self.y[0].numel()))
        linear = numbers["linearity_error"] = linearity_error(self.physics, self.shape, self.seed, device)
        adjoint = numbers["adjoint_error"] = adjoint_error(self.physics, self.shape, self.seed, device, max(1, (2 if self.quick else 4) // samples_of(self.physics)))
        ends = spectrum(self.fast, self.shape, steps, self.seed, device)
        numbers["norm"] = ends.norm
        numbers["condition"] = ends.condition
        numbers["condition_at_least"] = ends.condition_at_least if math.isfinite(ends.condition_at_least) else None
        if linear > limit:
            yield "doubtful", f"{self.name} is not linear: sums of images are measured with an error of {_percent(linear)}", "use a linear operator"
        if adjoint > limit:
            hint = "add adjoint_via_backprop: true to physics" if self.name == "Tomography" else "use an operator whose A_adjoint is the adjoint of its A"
            yield "doubtful", f"the adjoint of {self.name} is {_percent(adjoint)} off, and gradients and least squares rely on it", hint
        elif linear <= limit:
            numbers["unseen"] = unseen_fraction(self.fast, self.shape, max(ends.norm, torch.finfo(torch.float32).tiny), steps, self.seed, device)

    def _mask(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        found = mask_mismatch(self.physics, self.y)
        if found is None:
            return
        numbers["beyond_mask"], numbers["silent_in_mask"] = found.beyond, found.silent
        if found.likely:
            numbers["likely"] = found.likely
        yield from self._beyond(found)
        sigma = getattr(self.physics.noise_model, "sigma", None)  # Poisson noise can be 0
        noisy = isinstance(sigma, Tensor) and bool((sigma > 0).all())
        kspace = fourier_convention(self.physics, self.y) is not None
        if found.silent > 0 and (noisy or kspace) and not found.beyond and self.y.any():
            why = "noise is never exactly 0" if noisy else "acquired k-space is never exactly 0"
            what = f"{_percent(found.silent)} of the sites that the mask calls measured are 0 in every sample that was looked at, and {why}"
            yield "doubtful", what, "check that the mask is that of these data, or read it off them: mask: from-data"

    def _beyond(self, found: MaskMismatch) -> Iterator[Complaint]:
        """What to say of values where the mask says that nothing was measured."""
        if found.beyond_rms <= HALF_PRECISION * found.inside_rms:
            return
        where = f"y is not 0 at {_percent(found.beyond)} of the sites that the mask leaves out"
        noise = float(self._noise_energy().max()) ** 0.5
        if found.beyond_rms <= 2 * noise:
            yield "doubtful", f"{where}, no more than the noise is", "set y to 0 there; the operator says that nothing was measured"
            return
        cause = f": {found.likely}" if found.likely else ""
        yield "no", f"the measurements contradict the mask: {where}{cause}", "give the mask of these data, or read it off them: mask: from-data"

    def _noise_energy(self) -> Tensor:
        """The mean variance of the noise of an entry of each sample that was measured, (B,); 0 where it is not known."""
        share = noise_share(self.physics, self.y)
        if share is None:
            return torch.zeros(len(self.y))
        measured = (self.y != 0).flatten(1).sum(1).clamp(min=1)
        return (share * torch.linalg.vector_norm(self.y.flatten(1), dim=1)) ** 2 / measured

    def _fourier(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        found = fourier_convention(self.physics, self.y)
        if found is None or not self.y.any():
            return
        numbers["kspace_outside_centre"], numbers["image_outside_centre"] = list(found.kspace), list(found.image)
        yield from _convention(found)

    def _scale(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        count = 1 if self.quick else min(2, len(self.y))
        found = image_scale(first_samples(self.physics, count), self.y[:count])
        numbers["adjoint_size"], numbers["image_size"] = found.adjoint, found.image
        low, high = GOOD_SIZE
        if found.image == 0:
            return
        if not low <= found.image <= high:
            cause = likely_units(self.physics, self.shape, found.image, GOOD_SIZE)
            what = f"images have a size of about {found.image:.3g}, where networks expect 1{': ' if cause else ''}{cause}"
            yield "doubtful", what, "add scale: per-sample to data"
        elif not low <= found.adjoint <= high and _takes_adjoint(self.spec.model):
            what = f"the network is fed Aᵀy, of size {found.adjoint:.3g}, where images have {found.image:.3g}"
            yield "doubtful", what, "add normalize: true to physics" if self.name == "Tomography" else "use mode: pinv in model, or scale the operator to norm 1"

    def _range(self, numbers: dict[str, Any]) -> Iterator[Complaint]:
        steps = steps_for(self.shape, self.quick) // 2
        count = 1 if self.quick else min(2, len(self.y))
        physics, y = first_samples(self.fast, count), self.y[:count]
        residual = range_residual(physics, y, steps)
        probe = of_one_sample(physics, 0).A(probe_images(1, self.shape, stream_seed(self.seed, "range"), y.device))
        own = range_residual(of_one_sample(physics, 0), probe, steps)
        noise = noise_share(physics, y)
        numbers["out_of_range"], numbers["solver_leaves"] = float(residual.max()), float(own)
        numbers["noise_share"] = None if noise is None else float(noise.max())
        # a noise that is not known may explain anything but most of y
        explained = own**2 + (UNEXPLAINED["no"] if noise is None else noise**2)
        left = float((residual**2 - explained).max())
        if "beyond_mask" in numbers and numbers["beyond_mask"] > 0 or left <= UNEXPLAINED["doubtful"]:
            return  # the mask was spoken of
        what = f"no image explains the measurements: {_percent(math.sqrt(left))} of y is out of the operator's range and beyond its noise"
        hint = "check the parameters of the operator (angles, filter, coil maps, axes), and physics.noise_model"
        yield "no" if left > UNEXPLAINED["no"] else "doubtful", what, hint


def _convention(found: FourierConvention) -> Iterator[Complaint]:
    if max(found.kspace) > OUTSIDE:
        what = f"the centre of k-space lies in the corner: {_percent(max(found.kspace))} of its energy is outside the central half, so that an fftshift is missing"
        yield "no", what, "store numpy.fft.fftshift(kspace, axes=(-2, -1)), and the mask likewise"
    if max(found.image) > OUTSIDE:
        what = f"images have {_percent(max(found.image))} of their energy outside the central half, as where an ifftshift was left out before the FFT"
        yield "doubtful", what, "store k-space as fftshift(fft2(ifftshift(image), norm='ortho')): multiply it by (-1)^(row + column)"


def _takes_adjoint(model: Any) -> bool:
    return model.name == "ArtifactRemoval" and model.parameters.get("mode", "adjoint") == "adjoint"


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
