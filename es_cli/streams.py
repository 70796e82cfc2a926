"""Random streams keyed by seed, purpose and index, so that a draw depends on what it is for and on nothing that was drawn before.

A resumed run, a run on two processes and a run with half the batch draw the same numbers by construction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, *index: int) -> int:
    """The 63-bit seed of the stream for `purpose` at `index` (a step, a sample), derived from the run's `seed`."""
    key = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator on `device`, seeded with `seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed)


def reseed(part: Any, seed: int) -> None:
    """Seed every torch.Generator that a deepinv object holds, however deep: they ignore `torch.manual_seed` (deepinv 0.5.0)."""
    for position, rng in enumerate(_generators(part, set())):
        rng.manual_seed(stream_seed(seed, "rng", position))


def _generators(part: Any, seen: set[int]) -> Iterator[torch.Generator]:
    import torch

    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, torch.Generator):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from _generators(value, seen)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _generators(value, seen)
    elif isinstance(part, torch.nn.Module):
        yield from _generators(vars(part), seen)
