"""A batch through a backbone in pieces, one after the other, so that no more than one piece's activations are held at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def normalizes_by_batch(network: nn.Module) -> bool:
    """Whether what `network` makes of a sample in training depends on the others of its batch, or piece."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def in_pieces(call: Callable[[Any, Any], Any], args: Any, kwargs: Any, pieces: int, backbone: nn.Module | None = None) -> Any:
    """What `call` makes of a batch, made of pieces of it; whatever has not one entry for each sample, each piece is given whole.

    Where a gradient is wanted a piece's activations are forgotten, and computed again on the way back; layers of `backbone` count what they see once.
    """
    size = next((len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 1), 1)
    made = []
    for rows in torch.arange(size).tensor_split(min(pieces, size)):
        part = slice(int(rows[0]), int(rows[-1]) + 1)

        def own(value: Any, part: slice = part) -> Any:
            return value[part] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == size else value

        given = tuple(map(own, args)), {name: own(value) for name, value in kwargs.items()}
        made.append(_forgetting(call, *given, backbone) if torch.is_grad_enabled() else call(*given))
    return _joined(made)


def _forgetting(call: Callable[[Any, Any], Any], args: Any, kwargs: Any, backbone: nn.Module | None) -> Any:
    return checkpoint(call, args, kwargs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_stay(backbone)))


@contextlib.contextmanager
def _statistics_stay(backbone: nn.Module | None) -> Iterator[None]:
    """Layers that normalize by the batch have counted it the first time; now they count in copies, since torch asks for the same computation."""
    modules = () if backbone is None else backbone.modules()
    counting = [(module, module._buffers) for module in modules if isinstance(module, _BatchNorm) and module.training]
    for module, held in counting:
        module._buffers = {name: None if value is None else value.clone() for name, value in held.items()}
    try:
        yield
    finally:
        for module, held in counting:
            module._buffers = held


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    return type(first)(_joined(list(several)) for several in zip(*parts, strict=True)) if isinstance(first, (tuple, list)) else first
