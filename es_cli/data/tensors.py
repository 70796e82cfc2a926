"""safetensors files, their header looked at before a library parses it: how long it is, and that no name in its text stands twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

HEADER_LIMIT = 16 << 20  # bytes; 10,000 tensors take 1 MiB, and a spec a few thousand


class UnsoundHeader(ValueError):
    """What is wrong with the header of a safetensors file."""


def check_header(path: Path) -> None:
    """UnsoundHeader where the header of a safetensors file is longer than that of any checkpoint, or holds a name twice.

    What else is wrong with it, safetensors says.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if HEADER_LIMIT < length <= path.stat().st_size:
            raise UnsoundHeader(f"{length} bytes of header")
        text = file.read(min(length, HEADER_LIMIT)).decode("utf-8", "replace")
    with suppress(json.JSONDecodeError, RecursionError):
        read_json(text)


def read_json(text: str) -> Any:
    """A value from JSON. Raises UnsoundHeader where a name stands twice in it, another ValueError or RecursionError where it is none."""
    return json.loads(text, object_pairs_hook=_without_doubles)


def _without_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for key, value in pairs:
        if key in held:
            raise UnsoundHeader(f"{key!r:.40} stands twice")
        held[key] = value
    return held
