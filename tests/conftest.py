from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from problems import inpainting, mri  # noqa: F401 (fixtures)

import es_cli

ROOT = Path(es_cli.__file__).parents[1]


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch):
    """No colours, no terminal width and no thread count of whoever runs the tests."""
    for name in ("FORCE_COLOR", "COLUMNS", "TERM", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def environment():
    """For subprocesses: the very package that is tested here, from any folder, on one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


@pytest.fixture
def python(environment, tmp_path):
    """Run Python code in a process of its own, in an empty folder."""

    def run(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=600, **options)

    return run


def pytest_collection_modifyitems(items):
    if not any(item.get_closest_marker("cuda") for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
