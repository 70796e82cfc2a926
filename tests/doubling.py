"""`es reconstruct` around a core that doubles what it is given: for tests of files, pipes and exit codes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import es_cli.reconstruct as core
from es_cli.cli.app import app
from es_cli.errors import DataError
from es_cli.spec.document import PLACEHOLDERS, from_dict

DOUBLING = """
import sys, types
from es_cli.spec.document import PLACEHOLDERS, from_dict
module = types.ModuleType("es_cli.reconstruct")
class Reconstructor:
    per_sample, network_calls = (), 8
    spec, metadata, device = from_dict(PLACEHOLDERS, "test"), types.SimpleNamespace(fingerprint=""), types.SimpleNamespace(type="cpu")
    @classmethod
    def load(cls, path, device="auto", precision="float32", test=None):
        print("chatter of a library")
        return cls()
    def takes(self, shape, dtype):
        return True
    def reconstruct(self, y, where="input", params=None):
        return 2 * y
module.Reconstructor = Reconstructor
sys.modules["es_cli.reconstruct"] = module
from es_cli.cli.app import main
sys.argv[0] = "es"
main()
"""


class Doubling:
    loaded: list = []
    per_sample: tuple = ()
    network_calls = 8
    spec, metadata, device = from_dict(PLACEHOLDERS, "test"), SimpleNamespace(fingerprint=""), SimpleNamespace(type="cpu")

    @classmethod
    def load(cls, path, device="auto", precision="float32", test=None):
        cls.loaded.append((path, device, precision))
        return cls()

    def takes(self, shape, dtype):
        return True

    def reconstruct(self, y, where="input", params=None):
        if y.shape[-1] == 3:
            raise DataError(f"array of shape {y.shape} does not fit", where=where, hint="wanted (4, 4)")
        return 2 * y


@pytest.fixture
def es(monkeypatch, tmp_path):
    """`es reconstruct …` in a folder with y.npy, b.npy (4, 4), wrong.npy (3, 3) and a checkpoint m."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(core, "Reconstructor", Doubling)
    Doubling.loaded = []
    Path("m").write_bytes(b"weights")
    np.save("y.npy", np.arange(16, dtype=np.float32).reshape(4, 4) / 40)
    np.save("b.npy", np.full((4, 4), 1 + 2j, np.complex64))
    np.save("wrong.npy", np.zeros((3, 3), np.float32))
    return lambda *arguments, **options: CliRunner().invoke(app, ["reconstruct", "--ckpt", "m", *arguments], **options)


@pytest.fixture
def piped(environment, tmp_path):
    """The same through real pipes, in a process of its own."""
    (tmp_path / "m").write_bytes(b"weights")

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", DOUBLING, "reconstruct", "--ckpt", "m", *arguments]
        return subprocess.run(command, input=stdin, cwd=tmp_path, env=environment, capture_output=True, timeout=600)

    return run


def npy(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()
