"""What a network may take in memory while it is built: a file that asks for a large one has to hold a large one."""

from __future__ import annotations

import math
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from es_cli.errors import CheckpointError

ONCE, EVER = 1 << 28, 1 << 30  # bytes of one tensor, and of all tensors, that any network may take
COUNTED = {
    "empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "eye", "arange", "linspace", "logspace", "new_empty",
    "new_zeros", "new_ones", "new_full", "new_empty_strided",
}  # fmt: skip
WIDTH = 8  # bytes of a number, at most


class Allowance(TorchDispatchMode):
    """Within this block, CheckpointError comes before memory is taken that `held` bytes of a checkpoint cannot be meant to fill.

    One tensor may have `ONCE` bytes and four times `held`, all of them together `EVER` and sixteen times.
    """

    def __init__(self, held: int) -> None:
        super().__init__()
        self.once, self.ever = ONCE + 4 * held, EVER + 16 * held
        self.taken = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func._schema.name.removeprefix("aten::") in COUNTED:
            asked = WIDTH * _count(args)
            self.taken += asked
            if asked > self.once or self.taken > self.ever:
                what = "its spec asks for a network or for images far larger than the tensors in the file"
                raise CheckpointError(what, hint="the file is damaged or not to be trusted")
        return func(*args, **(kwargs or {}))


def _count(args: tuple[Any, ...]) -> int:
    """How many numbers a factory of torch is asked for, from its size or its ends; strides that repeat numbers are not seen."""
    sizes = next((arg for arg in args if isinstance(arg, (list, tuple))), None)
    if sizes is not None:
        return math.prod(int(n) for n in sizes)
    numbers = [float(arg) for arg in args if isinstance(arg, (int, float))]
    return int(max((abs(n) for n in numbers if math.isfinite(n)), default=0))
