"""manifest.json of an output folder: which input and which checkpoint became which output, by their SHA-256. No clock, host or absolute path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from es_cli.data.tensors import read_json
from es_cli.data.writers import write_bytes
from es_cli.errors import UsageError
from es_cli.serving.inputs import Shard
from es_cli.serving.outputs import Job

FORMAT = 1
KEPT = 1 << 28  # bytes of a manifest that is read; a million entries take less


class Manifest:
    """The manifest of `folder`, with what earlier runs wrote into it; that of a shard is a file of its own.

    Raises UsageError where a file of that name is none of es.
    """

    def __init__(self, folder: Path, shard: Shard | None) -> None:
        name = "manifest.json" if shard is None else f"manifest-{shard.number}-of-{shard.count}.json"
        self.path, self.folder = folder / name, folder
        self.entries = {entry["output"]: entry for entry in self._read()}

    def done(self, job: Job, input_sha256: str | None, checkpoint: str, output_sha256: str) -> None:
        """Note an output that was written."""
        self._enter(job, "done", input_sha256=input_sha256, checkpoint_sha256=checkpoint, output_sha256=output_sha256)

    def failed(self, job: Job, why: str) -> None:
        """Note an input that no output came of."""
        self._enter(job, "failed", error=why)

    def skipped(self, job: Job) -> None:
        """Note an output that was there; what is known of it already is kept."""
        if self.entries.get(job.output, {}).get("status") != "done":
            self._enter(job, "skipped")

    def write(self) -> None:
        """Write it, sorted by output. Raises OutputError."""
        entries = [self.entries[output] for output in sorted(self.entries)]
        write_bytes(self.path, (json.dumps({"format": FORMAT, "files": entries}, indent=1) + "\n").encode(), self.folder)

    def _enter(self, job: Job, status: str, **facts: str | None) -> None:
        name = "-" if job.input.is_stream else job.input.name.as_posix()
        self.entries[job.output] = {"output": job.output, "input": name, "status": status, **facts}

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        try:
            if self.path.stat().st_size > KEPT:
                raise ValueError("too large")
            found = read_json(self.path.read_text())
            if found["format"] != FORMAT or not all(isinstance(entry["output"], str) for entry in found["files"]):
                raise ValueError("another format")
            return list(found["files"])
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            raise UsageError("this file is no manifest of es", where=str(self.path), hint="move it away, or give another -o") from error


