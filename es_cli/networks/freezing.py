"""Parts of a network that training leaves as they are, named by patterns over its parameters' names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from es_cli.errors import Fault, SpecError

WHERE = "training.freeze"


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Let training leave alone all parameters that a pattern matches: they get no gradient.

    A pattern holds `*`, `?` and `[…]`, and may start at any part of a name: "denoiser.*" matches "prior.0.denoiser.Conv1.0.weight". A module
    whose parameters and buffers all match keeps its statistics, as those of a batch normalisation, in training too.
    Raises SpecError, with near names, where a pattern matches no parameter.
    """
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    idle = [(i, pattern) for i, pattern in enumerate(patterns) if not any(matches(name, [pattern]) for name in names)]
    if idle:
        raise SpecError([Fault(f"no parameter of the network matches '{pattern}'", f"{WHERE}.{i}", _near(pattern, names)) for i, pattern in idle])
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if matches(name, patterns):
            parameter.requires_grad_(False)
    for path, module in network.named_modules():
        buffers = [name for name, _ in module.named_buffers(path, recurse=False)]
        own = [*buffers, *(name for name, _ in module.named_parameters(path, recurse=False))]
        if buffers and all(matches(name, patterns) for name in own):
            # whoever switches the network to training, a loss of deepinv for one, does not switch this
            module.register_forward_pre_hook(_stay_in_evaluation)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the name of a parameter, from its start or from a later part on."""
    parts = name.split(".")
    tails = [".".join(parts[i:]) for i in range(len(parts))]
    return any(fnmatchcase(tail, pattern) for pattern in patterns for tail in tails)


def _stay_in_evaluation(module: nn.Module, inputs: Any) -> None:
    module.eval()


def _near(pattern: str, names: Sequence[str]) -> str:
    """Up to three patterns that do match and look alike: whole names, and modules followed by `.*`."""
    modules = {".".join(parts[i:j]) + ".*" for name in names for parts in [name.split(".")] for i in range(len(parts)) for j in range(i + 1, len(parts))}
    near = difflib.get_close_matches(pattern, sorted({*names, *modules}), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"its parameters are {', '.join(names[:3])}, …"
