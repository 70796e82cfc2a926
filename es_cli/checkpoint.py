"""The one-file checkpoint: a safetensors file with the network, the operator and one JSON string that says what they are.

Tensors are `model.*` (the bare network), `physics.*` (all that fixes the operator) and `objective.*` (what a loss learned). The file holds
no clock, host, user or path: equal runs give equal bytes. Nothing in it is ever unpickled, and only names of the catalogue are built.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from es_cli.data.tensors import UnsoundHeader, check_header, read_json
from es_cli.data.writers import write_bytes
from es_cli.errors import CheckpointError

FORMAT = 3
METADATA_LIMIT = 4 << 20  # bytes of JSON; a spec takes a few thousand
PIXEL_LIMIT = 1 << 28  # of an image, all channels
PARTS = ("model.", "physics.", "objective.")
KINDS = {"BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64", "C64"}


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint says about itself.

    `measurement` holds the shapes of one measurement and of one image, `sizes` of images where the data have several, and whether they are
    complex; `validation` what selected the weights: the held-out loss and the step; `scale` is `data.scale`; `spec` is the resolved spec without its data.
    """

    spec: dict[str, Any]
    scale: str | float
    measurement: dict[str, Any]
    validation: dict[str, Any]
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    fingerprint: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    metadata: Metadata
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        return {key.removeprefix(prefix + "."): value for key, value in self.tensors.items() if key.startswith(prefix + ".")}


def installed_versions() -> dict[str, str]:
    """The versions that decide what a network computes."""
    return {name: version(name) for name in ("es-cli", "torch", "deepinv")}


def save_checkpoint(path: Path, metadata: Metadata, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, whole or not at all. Raises OutputError where it cannot be written."""
    held = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(tensors.items())}
    described = {**vars(metadata), "fingerprint": _fingerprint(held)}
    write_bytes(path, save(held, {"es": json.dumps(described, sort_keys=True, separators=(",", ":"))}))


def read_metadata(path: Path) -> Metadata:
    """What a checkpoint says about itself, without reading its tensors. Raises CheckpointError."""
    with _opened(path) as file:
        return _metadata(path, file.metadata())


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint with its tensors on the CPU.

    Raises CheckpointError where the file is missing, broken, not ours, changed, or from a newer format.
    """
    with _opened(path) as file:
        metadata = _metadata(path, file.metadata())
        _check_tensors(path, file)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    if _fingerprint(tensors) != metadata.fingerprint:
        raise CheckpointError("the tensors are not those that were saved", where=str(path), hint="the file was changed or damaged; copy it again")
    for prefix in ("model.", "physics."):
        if not any(key.startswith(prefix) for key in tensors):
            raise CheckpointError(f"the file holds no {prefix.rstrip('.')}", where=str(path), hint="it is not complete; train again")
    return Checkpoint(metadata, tensors)


def _opened(path: Path) -> Any:
    if not os.path.isfile(path):  # a name that no file can have is no error to it
        raise CheckpointError("there is no such file", where=str(path), hint="give the model.safetensors of a run")
    try:
        check_header(path)
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError, UnsoundHeader) as error:
        hint = "give the model.safetensors that `es train` wrote"
        raise CheckpointError(f"not a whole safetensors file: {str(error)[:120]}", where=str(path), hint=hint) from error


def _check_tensors(path: Path, file: Any) -> None:
    """CheckpointError where a tensor is none of a network, an operator or a loss, or holds what none of them does."""
    for key in file.keys():  # noqa: SIM118 (not a dict)
        kind = file.get_slice(key).get_dtype()
        if not key.startswith(PARTS) or kind not in KINDS:
            raise CheckpointError(f"the tensor '{key[:80]}' of kind {kind} is none of es", where=str(path), hint="the file is damaged or not to be trusted")


def _metadata(path: Path, raw: Mapping[str, str] | None) -> Metadata:
    text = (raw or {}).get("es")
    if text is None:
        raise CheckpointError("a safetensors file, but not one of es", where=str(path), hint="give the model.safetensors that `es train` wrote")
    if len(text) > METADATA_LIMIT:
        raise CheckpointError(f"{len(text)} bytes of metadata", where=str(path), hint="no checkpoint of es holds so much; the file is not to be trusted")
    try:
        found = read_json(text)
        number = found["format"]
        if isinstance(number, bool):
            raise TypeError("format is a truth value")
        if number > FORMAT:
            raise CheckpointError(
                f"format {number} is newer than format {FORMAT}, the newest that this es reads", where=str(path), hint="pip install --upgrade es-cli"
            )
        while found["format"] < FORMAT:
            found = MIGRATIONS[found["format"]](found)
        return _checked(Metadata(**found))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"its description cannot be read: {error!r:.120}", where=str(path), hint="the file is damaged or not one of es") from error


def _checked(metadata: Metadata) -> Metadata:
    """The same, where everything has the kind that it should have. Raises TypeError or ValueError."""
    for name in ("spec", "measurement", "validation", "versions"):
        if not isinstance(getattr(metadata, name), dict):
            raise TypeError(f"{name} is no mapping")
    scale = metadata.scale
    if scale not in ("none", "per-sample") and not (isinstance(scale, (int, float)) and 0 < scale < float("inf")):
        raise ValueError(f"scale is {scale!r}")
    shape = metadata.measurement.get("image_shape")
    if not isinstance(shape, list) or not _is_shape(shape):
        raise ValueError(f"image_shape is {shape!r}")
    sizes = metadata.measurement.get("sizes", [])
    if not isinstance(sizes, list) or not all(_is_shape(size) and len(size) == len(shape) for size in sizes):
        raise ValueError(f"sizes are {sizes!r:.80}")
    if not all(isinstance(name, str) for name in metadata.measurement.get("per_sample", [])):
        raise TypeError("per_sample is no list of names")
    return metadata


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(n, int) and n > 0 for n in value) and math.prod(value) <= PIXEL_LIMIT


def _from_format_1(found: dict[str, Any]) -> dict[str, Any]:
    """Format 1 kept the scale in the spec's data section, which format 2 leaves out with all else that names files."""
    spec = dict(found["spec"])
    data = spec.pop("data", None) or {}
    return {**found, "format": 2, "spec": spec, "scale": data.get("scale", "none")}


def _from_format_2(found: dict[str, Any]) -> dict[str, Any]:
    """Until format 3 the pseudoinverse of tomography was filtered back-projection alone, and networks were trained on that."""

    def as_it_was(part: Any) -> Any:
        if isinstance(part, list):
            return [as_it_was(one) for one in part]
        if not isinstance(part, dict):
            return part
        held = {key: as_it_was(value) for key, value in part.items()}
        return {**held, "refine_steps": 0} if held.get("name") == "Tomography" else held

    return {**found, "format": 3, "spec": {**found["spec"], "physics": as_it_was(found["spec"].get("physics"))}}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_format_1, 2: _from_format_2}


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
