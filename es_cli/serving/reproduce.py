"""An output made again from what is written beside it, and compared. Usable from Python without the command line."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.checkpoint import installed_versions
from es_cli.data.readers import open_array
from es_cli.errors import CheckpointError, DataError, UsageError
from es_cli.serving.beside import Beside
from es_cli.serving.events import Listener
from es_cli.serving.inputs import STREAM, Input
from es_cli.serving.job import Request, reconstruct_all
from es_cli.serving.limits import Limits
from es_cli.serving.measured import sha256_of
from es_cli.serving.outputs import Job
from es_cli.serving.provenance import read_record, record_path
from es_cli.spec.rule import read_rule
from es_cli.spec.schema import FROM_DATA, ArrayFile

ROWS = 1 << 22  # values that are compared at once
SEARCHED = 10_000  # folders in which a file is looked for


@dataclass(frozen=True)
class Comparison:
    """How an output that was made again differs from the one that is there.

    `same_bytes`: not at all. `largest` is the greatest difference of two values, `range` the greatest size of a value; `changed` whether the output
    is another file than the one that was written then, and `versions` what was installed then and now, where it differs.
    """

    same_bytes: bool
    largest: float
    range: float
    changed: bool
    versions: dict[str, tuple[str, str]]

    @property
    def relative(self) -> float:
        """The greatest difference in units of the greatest value."""
        return self.largest / self.range if self.range > 0 else self.largest


def reproduce(
    output: Path, *, ckpt: Path | None = None, source: Path | None = None, params: Mapping[str, ArrayFile | str] | None = None, device: str | None = None,
    keep: Path | None = None, tell: Listener = lambda event: None,
) -> Comparison:  # fmt: skip
    """Make `output` again and compare.

    `ckpt`, `source` and `params` say where files lie now, None: where the record says; `device` is another one than then. `keep` is where the new
    output goes, None: nowhere. Raises DataError and CheckpointError where a file is missing or is another one than then, UsageError for a parameter
    that was none.
    """
    record = read_record(output)
    beside, options = output.parent, record["options"]
    checkpoint = _file(record["checkpoint"], ckpt, beside, "--ckpt", CheckpointError)
    if source is None and record["input"]["file"] == STREAM:
        raise DataError("it was made from a pipe, which is gone", where=str(record_path(output)), hint="give what went into it: --input FILE")
    measured = _file(record["input"], source, beside, "--input", DataError)
    unknown = set(params or {}) - set(record["parameters"])
    if unknown:
        raise UsageError(f"{', '.join(sorted(unknown))} was no parameter of it", hint=f"it had {', '.join(record['parameters']) or 'none'}")
    given = {name: _parameter(name, one, (params or {}).get(name), beside) for name, one in record["parameters"].items()}
    try:
        plan, axis = record["made"].get("tiles"), options.get("axis")
        limits = Limits(axis, None, None if plan is None else (int(plan["side"]), int(plan["margin"]), int(plan["reach"]), int(plan["at_once"])))
        test = None if options["test"] is None else read_rule(str(options["test"]), "options.test")
        request = Request(
            checkpoint, record["input"].get("key"), given, device or str(options["device"]), str(options["precision"]), test,
            limits=limits, floats=bool(options["floats"]), records=keep is not None, beside=Beside(consistent=bool(options.get("consistent"))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"this is no record of es: {error!r:.100}", where=str(record_path(output)), hint="it is damaged") from error
    with tempfile.TemporaryDirectory() as scratch:
        target = keep or Path(scratch) / output.name
        reconstruct_all(request, [Job(Input(str(measured), Path(measured.name)), target)], tell=tell)
        return _compare(output, target, record)


def _file(facts: dict[str, Any], given: Path | None, beside: Path, option: str, error: type[DataError | CheckpointError]) -> Path:
    """A file of the record, where it lies now, and the same one as then; looked for below the working directory where the record does not say."""
    path, digest = given or beside / facts["file"], facts.get("sha256")
    if path.exists() and (digest is None or sha256_of(path) == digest):
        return path
    found = None if given is not None or digest is None else _found_below(Path.cwd(), path.name, digest)
    if found is not None:
        return found
    if not path.exists():
        raise error("this file is not there", where=str(path), hint=f"say where it lies: {option} FILE")
    raise error("this is another file than the one that the output was made from: its SHA-256 differs", where=str(path), hint=f"give the right one: {option} FILE")


def _found_below(folder: Path, name: str, digest: str) -> Path | None:
    """A file or a folder called `name` with this SHA-256, in one of the first folders below `folder`."""
    for at, folders, files in itertools.islice(os.walk(folder), SEARCHED):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        if name in (*folders, *files) and sha256_of(Path(at, name)) == digest:
            return Path(at, name)
    return None


def _parameter(name: str, facts: Any, given: ArrayFile | str | None, beside: Path) -> ArrayFile | str:
    if not isinstance(facts, dict):
        return FROM_DATA
    path = _file(facts, Path(given.file) if isinstance(given, ArrayFile) else None, beside, f"--param {name}=", DataError)
    return ArrayFile(file=str(path), key=facts.get("key"))


def _compare(old: Path, new: Path, record: dict[str, Any]) -> Comparison:
    now, then = installed_versions(), record.get("versions") or {}
    versions = {name: (str(then[name]), now[name]) for name in now if name in then and then[name] != now[name]}
    digest = sha256_of(old)
    changed = digest != record["output"].get("sha256")
    if digest == sha256_of(new):
        return Comparison(True, 0.0, 1.0, changed, versions)
    a, b = open_array(old), open_array(new)
    if a.shape != b.shape:
        raise DataError(f"the output is of shape {a.shape}, and made again of shape {b.shape}", where=str(old), hint="it was written by something else")
    largest = size = 0.0
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.size, ROWS):
        one, other = (np.asarray(flat[start : start + ROWS]).astype(np.complex128 if flat.dtype.kind == "c" else np.float64) for flat in (flat_a, flat_b))
        largest, size = max(largest, float(np.abs(one - other).max())), max(size, float(np.abs(one).max()))
    return Comparison(False, largest, size, changed, versions)
