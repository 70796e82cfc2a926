"""What is written beside every output, in OUTPUT.json: what it was made from, with which network, and how, so that `es reproduce` makes it again.

It names no host, no user and no clock: equal runs give equal bytes. Files are named by their name alone, since folders may be called after people,
and by how many folders up they lie where that is all it takes to find them; in full where the user asks for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.checkpoint import installed_versions
from es_cli.data.tensors import read_json
from es_cli.data.writers import write_bytes
from es_cli.errors import DataError, OutputError
from es_cli.serving.measured import sha256_of
from es_cli.spec.document import to_dict
from es_cli.spec.rule import rule_in_words
from es_cli.spec.schema import ArrayFile

if TYPE_CHECKING:
    from es_cli.reconstruct import Reconstructor
    from es_cli.spec.schema import Test

FORMAT = 1
KIND = "es reconstruction"
LONGEST = 16 << 20  # bytes; a spec takes a few thousand
HINT = "es reconstruct writes it beside each output; --no-provenance leaves it out"


@dataclass(frozen=True)
class Recipe:
    """What is the same for all outputs of a command: how images are made, and from which checkpoint and parameters."""

    checkpoint: Path
    checkpoint_sha256: str
    fingerprint: str
    spec: dict[str, Any]
    seed: int
    parameters: dict[str, tuple[ArrayFile | str, str | None]]
    options: dict[str, Any]
    full_paths: bool

    @classmethod
    def of(cls, model: Reconstructor, checkpoint: Path, sources: Mapping[str, ArrayFile | str], test: Test | None, options: dict[str, Any], full_paths: bool) -> Recipe:
        """Raises DataError where a file of parameters cannot be read."""
        spec = to_dict(model.spec)
        spec.pop("data", None)
        hashes = {name: (one, _hash(one)) for name, one in sources.items()}
        given = {"device": model.device.type, "test": None if test is None else rule_in_words(test), **options}
        return cls(checkpoint, sha256_of(checkpoint), model.metadata.fingerprint, spec, model.spec.seed, hashes, given, full_paths)

    def name(self, path: Path, output: Path) -> str:
        """How a file is named beside `output`."""
        if self.full_paths:
            return str(path.absolute())
        here = Path.cwd()
        if path.absolute().is_relative_to(here) and output.absolute().is_relative_to(here):
            relative = Path(os.path.relpath(path, output.parent))
            return relative.as_posix() if all(part == ".." for part in relative.parts[:-1]) else path.name
        return path.name


def record_path(output: Path) -> Path:
    """Where the record of an output lies."""
    return output.with_name(f"{output.name}.json")


def write_record(recipe: Recipe, output: Path, image: np.ndarray, source: dict[str, Any], made: dict[str, Any], within: Path | None) -> str:
    """Write the record of `output`, which holds `image`; the SHA-256 of the output. `source` says what the input was, `made` what happened to it.

    Raises OutputError where another file lies there that is no record.
    """
    where, digest = record_path(output), sha256_of(output)
    if where.exists() and not _is_record(where):
        raise OutputError("this file is none of es, and is left as it is", where=str(where), hint="move it away, or give another -o or --no-provenance")
    path = source.pop("path")
    parameters = {
        name: one if isinstance(one, str) else {"file": recipe.name(Path(one.file), output), "key": one.key, "sha256": hashed}
        for name, (one, hashed) in recipe.parameters.items()
    }
    held = {
        "kind": KIND,
        "format": FORMAT,
        "output": {"file": output.name, "sha256": digest, "shape": list(image.shape), "dtype": image.dtype.name},
        "input": {"file": "-" if path is None else recipe.name(path, output), **source},
        "checkpoint": {"file": recipe.name(recipe.checkpoint, output), "sha256": recipe.checkpoint_sha256, "fingerprint": recipe.fingerprint},
        "parameters": parameters,
        "options": recipe.options,
        "made": made,
        "seed": recipe.seed,
        "versions": {**installed_versions(), "numpy": np.__version__},
        "spec": recipe.spec,
    }
    held["command"] = _command(held)
    write_bytes(where, (json.dumps(held, indent=1) + "\n").encode(), within)
    return digest


def read_record(output: Path) -> dict[str, Any]:
    """What lies beside an output. Raises DataError where it is not there, or none."""
    where = record_path(output)
    if not where.is_file():
        raise DataError("nothing is written beside this output about how it was made", where=str(where), hint=HINT)
    try:
        found = _read(where)
        if not isinstance(found["options"], dict) or not isinstance(found["parameters"], dict) or not isinstance(found["made"], dict):
            raise ValueError("a part of it is no mapping")
        for part in ("input", "checkpoint", "output"):
            if not isinstance(found[part]["file"], str):
                raise ValueError(f"{part} has no name")
        return found
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise DataError(f"this is no record of es: {error!r:.100}", where=str(where), hint=HINT) from error


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST:
        raise ValueError("too long")
    found = read_json(path.read_text())
    if found["kind"] != KIND or found["format"] != FORMAT:
        raise ValueError("of another kind or format")
    return dict(found)


def _is_record(path: Path) -> bool:
    try:
        _read(path)
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return False
    return True


def _command(held: dict[str, Any]) -> list[str]:
    """The command that makes this output and no other, seen from its folder."""
    options = held["options"]
    parameters = [f"{name}={_in_words(one)}" for name, one in held["parameters"].items()]
    words = {"--key": held["input"].get("key"), "--test-rule": options["test"], **{f"--{name}": options.get(name) for name in ("precision", "axis", "memory")}}
    said = [word for name, value in words.items() if value is not None for word in (name, str(value))]
    flags = [flag for flag, name in (("--float", "floats"), ("--consistent", "consistent")) if options.get(name)]
    return ["es", "reconstruct", "--ckpt", held["checkpoint"]["file"], held["input"]["file"], "-o", held["output"]["file"], *said, *flags, *(word for one in parameters for word in ("--param", one))]


def _in_words(source: str | dict[str, Any]) -> str:
    if isinstance(source, str):
        return source
    key = "" if source["key"] is None else f"[{source['key']}]"
    return f"{source['file']}{key}"


def _hash(source: ArrayFile | str) -> str | None:
    return sha256_of(Path(source.file)) if isinstance(source, ArrayFile) and Path(source.file).exists() else None
