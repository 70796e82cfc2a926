"""The folder that a simulation writes: refused before anything heavy is imported, replaced only where nothing but a simulation lies in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from es_cli.data.writers import write_bytes
from es_cli.errors import UsageError

SPEC, MARK = "spec.yaml", "simulation.json"  # the mark says which files beside it were written by a simulation
ELSEWHERE = "give another -o"


def check_output(folder: Path, overwrite: bool) -> None:
    """UsageError where `folder` exists and may not be replaced: without `overwrite`, or where it holds anything that no simulation wrote."""
    if not folder.exists():
        return
    if not overwrite:
        raise UsageError("this output exists", where=str(folder), hint="give another -o, or --overwrite to replace it")
    written = _written(folder)
    if written is None:
        raise UsageError("this is not the folder of a simulation, and is not overwritten", where=str(folder), hint=ELSEWHERE)
    foreign = _foreign(folder, written)
    if foreign is not None:
        what = f"{foreign.relative_to(folder)} was not written by es simulate, and the folder is not overwritten"
        raise UsageError(what, where=str(folder), hint=f"move it elsewhere, or {ELSEWHERE}")


def may_replace(folder: Path) -> bool:
    """Whether all that lies in `folder` was written by a simulation."""
    written = _written(folder)
    return written is not None and _foreign(folder, written) is None


def write_mark(folder: Path) -> None:
    """Name the files and folders in `folder` as those of a simulation. Raises OutputError."""
    names = sorted(entry.name for entry in folder.iterdir())
    write_bytes(folder / MARK, (json.dumps({"made_by": "es simulate", "files": names}, indent=1) + "\n").encode())


def _written(folder: Path) -> set[str] | None:
    """The names that the mark of a simulation holds; None where there is none."""
    mark = folder / MARK
    if not mark.is_file():
        return None
    try:
        held = json.loads(mark.read_bytes())
    except ValueError:
        return None
    names = held.get("files") if isinstance(held, dict) else None
    return {MARK, *map(str, names)} if isinstance(names, list) else None


def _foreign(folder: Path, written: set[str]) -> Path | None:
    """The first entry that no simulation wrote."""
    return next((entry for entry in _entries(folder) if entry.parent == folder and entry.name not in written or not _like_ours(entry, folder)), None)


def _entries(folder: Path) -> Iterable[Path]:
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from sorted(entry.iterdir())


def _like_ours(entry: Path, folder: Path) -> bool:
    """Files, and folders of numbered samples."""
    return entry.parent == folder or re.fullmatch(r"\d+\.npy", entry.name) is not None
