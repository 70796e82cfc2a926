"""What a training step holds in memory, counted before it is made, and how much memory is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

TRANSIENT = 1.7  # the peak of a step over what is kept for its backward pass: 0.9 to 1.7 were measured on four networks and operators
SHARE = 0.9  # of what is free may be taken
CGROUPS = (  # limit and use of a container or batch job: version 2, version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


class KeptForBackward:
    """Counts the bytes that autograd keeps of a forward pass; each storage once, and none of the weights."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        self._sizes: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Whatever is computed within counts, until its graph is let go."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def bytes_of_weights(network: nn.Module, copies: int) -> int:
    """Bytes of a network of which `copies` are held beside the weights themselves: gradients, moments of the optimizer, a running mean."""
    return (1 + copies) * sum(parameter.nbytes for parameter in network.parameters())


def batch_that_fits(free: int, of_sample: float, fixed: int = 0) -> int:
    """How many samples a step can hold where `free` bytes are left, each taking `of_sample` bytes at the peak beside `fixed` ones; 0: none."""
    return max(0, int((SHARE * free - fixed) // max(of_sample, 1.0)))


def free_memory(device: torch.device, system: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be taken on `device`: of a GPU, or of main memory within the limit of a container or batch job. None where the system does not say.

    `system` and `groups` are where Linux says it.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_available(system)] + [_left_of_limit(groups / limit, groups / used) for limit, used in CGROUPS]
    return min((one for one in found if one is not None), default=None)


def _available(file: Path) -> int | None:
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_of_limit(limit: Path, used: Path) -> int | None:
    """None where there is no limit: no such file, or the word max in it."""
    most, held = _text(limit).strip(), _text(used).strip()
    return max(0, int(most) - int(held)) if most.isdecimal() and held.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # not Linux, or another kind of container
