"""Operators whose masks, coil maps and noise levels differ from sample to sample of a batch.

The operator that they are made from is never changed: deepinv shares the noise model by reference, and masks that were set for one batch
would stay for the next one (deepinv 0.5.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepinv.physics import DynamicMRI, MultiCoilMRI
from torch import Tensor, nn

from es_cli.catalog import LEVELS, OF_PHYSICS
from es_cli.splitting.masks import sampling_mask
from es_cli.splitting.noise import with_buffers
from es_cli.splitting.virtual import with_mask, with_noise


def with_parameters(physics: Any, parameters: Mapping[str, Tensor]) -> Any:
    """`physics` with other parameters, one for each sample of a batch (B, …) or one for all (1, …); everything else is shared.

    Shapes: mask (B or 1, C, …), coil_maps (B or 1, N, …) complex, sigma and gain (B,) or (1,). Raises ValueError for any other name.
    """
    unknown = set(parameters) - {*OF_PHYSICS, *LEVELS}
    if unknown:
        raise ValueError(f"no parameters of samples: {', '.join(sorted(unknown))}")
    noise = {name: _number(parameters[name]) for name in LEVELS if name in parameters}
    own = {name: parameters[name] for name in OF_PHYSICS if name in parameters}
    if noise:
        physics = with_noise(physics, with_buffers(physics.noise_model, noise))
    if not own:
        return physics
    if isinstance(physics, (MultiCoilMRI, DynamicMRI)):
        return with_buffers(physics, own)
    return with_mask(physics, own["mask"])


def sample_parameters(physics: Any) -> dict[str, Tensor]:
    """The parameters of which each sample of a batch has its own."""
    mask = physics.mask if isinstance(physics, MultiCoilMRI) else sampling_mask(physics)
    held = {} if mask is None else {"mask": mask}
    held |= {"coil_maps": physics.coil_maps} if isinstance(physics, MultiCoilMRI) else {}
    held |= {name: getattr(physics.noise_model, name) for name in LEVELS if _is_tensor(physics.noise_model, name)}
    return {name: value for name, value in held.items() if value.ndim > 0 and len(value) > 1}


def of_one_sample(physics: Any, number: int) -> Any:
    """The operator of one sample of a batch."""
    return with_parameters(physics, {name: value[number : number + 1] for name, value in sample_parameters(physics).items()})


def for_copies(physics: Any, copies: int) -> Any:
    """The operator of a batch that is repeated `copies` times, its parameters with it."""
    own = sample_parameters(physics)
    return with_parameters(physics, {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in own.items()})


def _number(value: Tensor) -> Tensor:
    """(B,), which deepinv's noise models take for one each; a single one as the number that it is."""
    return value.reshape(()) if value.numel() == 1 else value.flatten()


def _is_tensor(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), Tensor)
