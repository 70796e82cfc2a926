"""Weights from a local file into a network, however they were saved, and without unpickling anything.

deepinv's own `pretrained` and `ckpt_path` leave it to torch how far a file is trusted; here every file goes through this door.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from es_cli.data.tensors import UnsoundHeader, check_header
from es_cli.errors import DataError, said

# where training scripts put the state dict among other things
WRAPPINGS = ("state_dict", "model_state_dict", "params_ema", "params", "model")
SHOWN = 3


def load_weights(network: nn.Module, file: Path) -> None:
    """Replace all weights and buffers of `network` by those in `file`: safetensors, or what `torch.save` wrote of tensors alone.

    The file may hold the network inside a larger one (a checkpoint of es, a `module.` before each name), or the only part of the network
    that has any weights. Raises DataError where the file is missing, broken, holds more than tensors, or is of another network.
    """
    found, own = read_state_dict(file), network.state_dict()
    held = _fit(found, own, file)
    shapes = (_both_shapes(key, held[key], own[key]) for key in held.keys() & own.keys() if held[key].shape != own[key].shape)
    faults = [
        *_named("lacks", own.keys() - held.keys()),
        *_named("has besides", held.keys() - own.keys()),
        *_named("has other shapes:", shapes),
    ]
    if faults:
        what = f"the weights are of another network than this {type(network).__name__}: the file {', and '.join(faults)}"
        raise DataError(what, where=str(file), hint="give the parameters that the network was made with")
    network.load_state_dict(held)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights by name, on the CPU. Raises DataError where it is missing, broken or holds more than tensors."""
    if not file.is_file():
        raise DataError("there is no such file of weights", where=str(file), hint="give the path of a .safetensors or .pth file")
    try:
        if file.suffix.lower() == ".safetensors":
            check_header(file)
            with safe_open(str(file), framework="pt", device="cpu") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, UnsoundHeader) as error:
        raise DataError(f"the weights cannot be read: {said(error, 120)}", where=str(file), hint="the file is not whole; copy it again") from error
    except Exception as error:  # torch raises whatever its reader stumbles over
        hint = "save the weights alone, torch.save(network.state_dict(), FILE), or as .safetensors"
        raise DataError(f"not a whole file of weights alone, and nothing else is unpickled: {said(error, 120)}", where=str(file), hint=hint) from error
    return _unwrapped(raw, file)


def _unwrapped(raw: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved."""
    while isinstance(raw, dict) and raw:
        if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in raw.items()):
            return dict(raw)
        raw = next((raw[key] for key in WRAPPINGS if isinstance(raw.get(key), dict)), None)
    raise DataError("the file holds no weights by name", where=str(file), hint="save them with torch.save(network.state_dict(), FILE)")


def _fit(found: dict[str, Tensor], own: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of the file under the network's names, where one prefix makes the difference; else as they are."""
    if not own or found.keys() == own.keys():
        return found
    first, head = next(iter(own)), next(iter(found), "")
    prefixes = {key[: -len(first)] for key in found if key.endswith("." + first)}
    parts = [{key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)} for prefix in sorted(prefixes)]
    whole = [part for part in parts if part.keys() == own.keys()]
    if any(not torch.equal(value, other[key]) for other in whole[1:] for key, value in whole[0].items()):
        raise DataError(f"the file holds {len(whole)} networks like this one", where=str(file), hint="give a file of one of them")
    if whole:
        return whole[0]
    outer = [key[: -len(head)] for key in own if head and key.endswith("." + head)]
    under = [{prefix + key: value for key, value in found.items()} for prefix in outer]
    return next((one for one in under if one.keys() == own.keys()), found)


def _named(fault: str, keys: Iterable[str]) -> list[str]:
    names = sorted(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{fault} {', '.join(names[:SHOWN])}{more}"] if names else []


def _both_shapes(key: str, held: Tensor, own: Tensor) -> str:
    return f"{key} ({tuple(held.shape)} for {tuple(own.shape)})"
