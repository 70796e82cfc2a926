"""Parts of a spec → live objects, by catalogue name and nothing else.

Whatever fixes an object beside its spec, an array from a file or a drawn mask, is collected under the part's path, so that the
object can be built again from the spec and these arrays alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_cli import catalog
from es_cli.data import readers
from es_cli.errors import EsError, Fault, SpecError, said
from es_cli.networks.weights import load_weights
from es_cli.spec.schema import ArrayFile, Component, TensorRef
from es_cli.streams import generator, reseed, stream_seed

# which kinds a nested part may be, by the kind of the part that holds it
NESTED = {
    "physics": ("physics", "noise", "generator"),
    "generator": ("generator", "noise"),
    "noise": ("noise", "generator"),
    "transform": ("transform",),
    "loss": ("loss", "metric", "noise", "physics", "transform", "generator", "model"),
    "metric": ("metric",),
    "model": ("model", "physics", "transform", "noise"),
    "optimizer": ("optimizer",),
    "scheduler": ("scheduler",),
}


# networks whose img_size is (H, W), where that of an operator is (C, H, W)
WITHOUT_CHANNELS = ("SwinIR",)


@dataclass
class Builder:
    """Builds parts; `context` fills parameters that the spec leaves out, `arrays` are those of a checkpoint, `resolved` what was collected."""

    seed: int = 0
    device: torch.device | str = "cpu"
    context: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    resolved: dict[str, Tensor] = field(default_factory=dict)

    def build(self, part: Component, path: str, kind: str) -> tuple[Any, Component]:
        """The object that `part` names, and the part with arrays replaced by references and filled-in parameters written out.

        Raises SpecError where the class refuses its parameters.
        """
        entry = catalog.find(part.name, (kind,))
        if entry is None:
            raise SpecError([Fault(f"no {kind} is called {part.name}", path)])
        cls = catalog.load_class(entry)
        known = {parameter.name for parameter in entry.parameters}
        files = catalog.weight_files(part) if kind == "model" else {}
        values: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        for name in known & set(self.context) - set(part.parameters):
            kept[name] = values[name] = self.context[name]
        if part.name in WITHOUT_CHANNELS and "img_size" in values:
            kept["img_size"] = values["img_size"] = values["img_size"][-2:]
        for name, value in catalog.with_fresh_weights(part, files).parameters.items():
            values[name], kept[name] = self._value(value, f"{path}.{name}", kind, name)
        for parameter in entry.parameters:
            # whoever wrote the spec, and whatever it says: nothing is downloaded
            if parameter.downloads and not parameter.required and (kind == "model" or parameter.name not in values):
                kept[parameter.name] = values[parameter.name] = parameter.default
        if kind != "model" and "rng" in known:
            values["rng"] = generator(stream_seed(self.seed, path), self.device)
        if kind == "generator" and "device" in known:
            values["device"] = self.device
        with _refusals(part.name, path), _quiet():
            built = cls(**values)
        for file in files.values():
            # es reads it, not the class: deepinv leaves it to torch how far a file is trusted
            load_weights(built, Path(file))
        written = {name: value for name, value in {**kept, **files}.items() if _writable(value)}
        return built, Component(name=part.name, parameters=written)

    def _value(self, value: Any, path: str, kind: str, name: str) -> tuple[Any, Any]:
        if isinstance(value, Component):
            nested = next((k for k in NESTED[kind] if catalog.find(value.name, (k,))), None)
            if nested is None:
                raise SpecError([Fault(f"{value.name} cannot stand here", path, f"wanted one of: {', '.join(NESTED[kind])}")])
            built, kept = self.build(value, path, nested)
            if kind == "physics" and nested == "generator":
                return self._collect(self._draw(built, name, path), path)
            return built, kept
        if isinstance(value, ArrayFile):
            array = as_tensor(readers.open_array(Path(value.file), value.key))
            return self._collect(array[None, None] if name == "filter" and array.ndim == 2 else array, path)
        if isinstance(value, TensorRef):
            if value.tensor not in self.arrays:
                raise SpecError([Fault(f"the array {value.tensor} is missing", path, "the checkpoint is not complete")])
            return self._collect(self.arrays[value.tensor], path)
        if isinstance(value, (list, tuple)):
            pairs = [self._value(v, f"{path}.{i}", kind, name) for i, v in enumerate(value)]
            built_list = [built for built, _ in pairs]
            return (tuple(built_list) if name == "img_size" else built_list), tuple(kept for _, kept in pairs)
        if isinstance(value, dict):
            return dict(value), value  # deepinv writes its defaults into what it is given
        return value, value

    def _draw(self, part: Any, name: str, path: str) -> Tensor:
        """One draw from a generator that stands where an array is wanted."""
        reseed(part, stream_seed(self.seed, path))
        drawn = part.step(batch_size=1)
        if name not in drawn:
            raise SpecError([Fault(f"this generator draws {', '.join(drawn)}, not {name}", path)])
        return drawn[name] if name == "filter" else drawn[name][0]  # filters of deepinv are (1, C, h, w)

    def _collect(self, array: Tensor, path: str) -> tuple[Tensor, TensorRef]:
        self.resolved[path] = array
        return array, TensorRef(tensor=path)


def as_tensor(array: np.ndarray) -> Tensor:
    """An array of an operator, float32 or complex64: boolean and integer masks crash in deepinv's `1 - mask`."""
    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    return torch.from_numpy(np.array(array, dtype=kind))


def bernoulli_mask(ratio: float, img_size: Sequence[int], pixelwise: bool, seed: int) -> Tensor:
    """The mask that `mask: RATIO` stands for, drawn once: shape img_size, float32; a pixel keeps all of its channels if `pixelwise`."""
    sites = (1, *img_size[1:]) if pixelwise else tuple(img_size)
    kept = torch.rand(sites, generator=generator(seed)) < ratio
    return kept.float().expand(tuple(img_size)).contiguous()


@contextlib.contextmanager
def _refusals(name: str, path: str) -> Iterator[None]:
    """What a class of deepinv or torch raises about its parameters is a fault of the spec."""
    try:
        yield
    except EsError:
        raise
    except ImportError as error:
        raise SpecError([Fault(f"{name} needs a package that is not installed: {error}", path)]) from error
    except Exception as error:
        raise SpecError([Fault(f"{name} refuses its parameters: {said(error, 300)}", path, "see its documentation for what it takes")]) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # deepinv warns about defaults of its own that the catalogue has already settled
        warnings.simplefilter("ignore")
        yield


def _writable(value: Any) -> bool:
    """Whether a value can stand in a resolved spec; live objects of the context (an optimizer, parameters) cannot."""
    if isinstance(value, (list, tuple)):
        return all(_writable(v) for v in value)
    if isinstance(value, dict):
        return all(_writable(v) for v in value.values())
    return value is None or isinstance(value, (bool, int, float, str, Component, TensorRef))
