"""The consistency term of a spec as a live object: what the network is fed, in training and at test, and how it is compared with that."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import GaussianNoise, PoissonGaussianNoise, PoissonNoise

from es_cli.building.parts import Builder
from es_cli.catalog import EQUIVARIANT_SPLITTING, side_of
from es_cli.errors import Fault, SpecError
from es_cli.spec.schema import Component, Spec
from es_cli.splitting.consistency import Consistency, Measured, Recorrupted, Stein, Unsure
from es_cli.splitting.noise import RECORRUPTIBLE

RECORRUPTED = "R2RLoss"


def build_consistency(spec: Spec, physics: Any, device: torch.device) -> tuple[Consistency | None, int]:
    """The consistency term of the spec's equivariant splitting, and how often each image is taken at test; None where it has none.

    A spec with R2RLoss alone has its recorruption, which also feeds the network at test. Raises SpecError where the noise is not known.
    """
    for i, term in enumerate(spec.losses):
        part, path = term.loss, f"losses.{i}"
        if part.name == EQUIVARIANT_SPLITTING:
            given, _ = side_of(part, "consistency_loss")
            path = f"{path}.consistency_loss"
        elif part.name == RECORRUPTED:
            given = part
        else:
            continue
        if given is None:
            return None, 1
        made = _made(given, path, physics, spec.seed)
        # deepinv takes five recorruptions of each; here the elements of the group have a draw each, and more only if the spec says so
        repeats = int(given.parameters.get("eval_n_samples", 1)) if given.name == RECORRUPTED else 1
        if repeats < 1:
            raise SpecError([Fault(f"eval_n_samples is {repeats}", f"{path}.eval_n_samples", "give 1 or more")])
        return made.to(device), repeats
    return None, 1


def _made(part: Component, path: str, physics: Any, seed: int) -> Consistency:
    """The term that stands for a loss of deepinv, whose class checks the parameters."""
    noise = physics.noise_model
    levels = {name: value for name in ("sigma", "gain") if (value := part.parameters.get(name)) is not None}
    # required by the classes; where the spec leaves them out the noise model of each batch is asked
    context = {"sigma": 1.0, "gain": 1.0} if part.name != RECORRUPTED else {}
    loss, _ = Builder(seed=seed, context=context).build(part, path, "loss")
    if part.name == RECORRUPTED:
        _check(loss.noise_model or noise, RECORRUPTIBLE, part.name, path)
        if not 0 < loss.alpha < 1:
            raise SpecError([Fault(f"alpha is {loss.alpha}", f"{path}.alpha", "give a number between 0 and 1, such as 0.15")])
        return Recorrupted(loss.metric, loss.alpha, loss.noise_model)
    for name in ("tau", "tau1", "tau2"):
        if not getattr(loss, name, 1.0) > 0:
            raise SpecError([Fault(f"{name} is {getattr(loss, name)}", f"{path}.{name}", "give a number above 0, such as 0.01")])
    if part.name == "SureGaussianLoss":
        own = GaussianNoise(sigma=float(levels["sigma"])) if levels else None
        known = _check(own or noise, (GaussianNoise,), part.name, path)
        if loss.unsure:
            return Unsure(_number(known.sigma), tau=loss.tau, step_sizes=(loss.step_size, 0.0), momenta=(loss.momentum, 0.0))
        return Stein(loss.tau, own_noise=own)
    if part.name == "SurePoissonLoss":
        own = PoissonNoise(gain=float(levels["gain"])) if levels else None
        _check(own or noise, (PoissonNoise,), part.name, path)
        return Stein(loss.tau, own_noise=own)
    if part.name == "SurePGLoss":
        own = PoissonGaussianNoise(gain=float(levels["gain"]), sigma=float(levels["sigma"])) if len(levels) == 2 else None
        known = _check(own or noise, (PoissonGaussianNoise,), part.name, path)
        if loss.unsure:
            return Unsure(_number(known.sigma), _number(known.gain), loss.tau1, tuple(loss.step_size), tuple(loss.momentum))
        return Stein(loss.tau1, loss.tau2, loss.second_derivative, own)
    return Measured(loss)


def _check(noise: Any, known: tuple[type, ...], name: str, path: str) -> Any:
    if not isinstance(noise, known):
        what = f"{name} does not know {type(noise).__name__}"
        raise SpecError([Fault(what, path, f"it knows {', '.join(one.__name__ for one in known)}")])
    return noise


def _number(level: torch.Tensor) -> float:
    """The level at which UNSURE starts: one for all samples."""
    return float(level.float().mean())
