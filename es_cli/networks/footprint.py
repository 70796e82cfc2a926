"""How much memory a computation holds at its most, counted tensor by tensor, so that a larger one can be planned."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counted(TorchDispatchMode):
    """Counts the bytes of all tensors that are made and not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.held:
                    self.held[key] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, key, None)
                    self.peak = max(self.peak, sum(self.held.values()))
        return out


def bytes_at_most(compute: Callable[[], Any]) -> int:
    """The most bytes that the tensors which `compute` makes take together; what a library sets aside within an operation is not seen."""
    with torch.no_grad(), _Counted() as counted:
        compute()
    return counted.peak
