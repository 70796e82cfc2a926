"""docs/tour.md, each command as it is written, with fewer and smaller samples and two steps of training."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import es

import es_cli

PAGE = Path(es_cli.__file__).parents[1] / "docs" / "tour.md"
SMALLER = {"crops_per_image: 300": "crops_per_image: 16", "crops_per_image: 24": "crops_per_image: 4", "crop: 64": "crop: 48", "training.steps=600": "training.steps=2"}


def smaller(text: str) -> str:
    for old, new in SMALLER.items():
        text = text.replace(old, new)
    return text


def in_a_shell(line: str, environment: dict[str, str]) -> int:
    """A line with pipes, in a real shell, `es` being the package that is tested."""
    command = Path("bin/es")
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m es_cli "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    path = f"{command.parent.absolute()}{os.pathsep}{environment['PATH']}"
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], env={**environment, "PATH": path}, timeout=600).returncode


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_tour_goes_from_kspace_to_a_page(tmp_path, monkeypatch, environment):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    assert all(old in text for old in SMALLER)
    (spec,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Path("scan.yaml").write_text(smaller(spec))
    lines = [smaller(line.strip()) for line in re.findall(r"^    (.+)$", text, re.MULTILINE) if not line.startswith(" ")]
    assert len(lines) == 12 and {line.split()[1] for line in lines if line.startswith("es ")} == {
        "simulate", "init", "check", "train", "reconstruct", "reproduce", "evaluate", "report", "compare"
    }  # fmt: skip
    for line in lines:
        code = in_a_shell(line, environment) if "|" in line else es(shlex.split(line)[1:])
        assert code == 0, line
    made = ["seen/coverage.png", "run/model.safetensors", "x.npy.json", "std.npy", "parts/parts.png", "report.html", "compared/report.html"]
    assert all(Path(name).is_file() for name in made)
    images = np.load("kspace/test_x.npy")
    assert np.load("x.npy").shape == np.load("std.npy").shape == images.shape
    np.testing.assert_allclose(np.load("piped.npy"), np.load("x.npy"), atol=1e-6)
    assert "GaussianMaskGenerator" not in Path("brain.yaml").read_text() and "kspace/mask.npy" in Path("brain.yaml").read_text()
