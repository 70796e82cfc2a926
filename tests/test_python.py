"""es_cli from Python, as its page shows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from problems import train_in

import es_cli
from es_cli.catalog import load_spec
from es_cli.errors import DataError, SpecError

PAGE = Path(es_cli.__file__).parents[1] / "docs" / "python.md"


@pytest.fixture
def folder(inpainting, monkeypatch):
    """A folder with run/model.safetensors, y.npy and x.npy, in which the test runs."""
    monkeypatch.chdir(inpainting.parent)
    train_in(Path("run"), load_spec(inpainting))
    for name in "xy":
        Path(f"test_{name}.npy").rename(f"{name}.npy")
    return inpainting.parent


def test_every_block_of_the_page_runs(folder, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = capsys.readouterr().out
    assert len(blocks) == 7 and "# tiny" in said and "array of shape (3, 5)" in said and "held-out entries" in said
    assert names["x_hat"].shape == names["found"].error_bar.values.shape == names["y"].shape
    assert np.allclose(names["found"].parts.measured + names["found"].parts.invented, names["found"].image)
    assert np.allclose(names["mask"] * names["found"].image, names["y"], atol=1e-5)
    assert names["compared"].to_dict()["metrics"]["PSNR"]["mean"] == pytest.approx(names["compared"].values["reconstruction"]["PSNR"].mean())
    assert (folder / "parts.png").is_file() and "Inpainting" in repr(names["model"])


def test_faults_are_those_of_the_commands(folder):
    model = es_cli.load("run/model.safetensors", test_rule="one")
    assert model.spec.test.group == "trivial"
    with pytest.raises(DataError, match="none are given"):
        model.evaluate(x=np.load("x.npy"))
    with pytest.raises(DataError, match="1 images for 4 measurements"):
        model.evaluate(np.load("y.npy"), np.load("x.npy")[:1])
    with pytest.raises(SpecError, match="test_rule"):
        es_cli.load("run/model.safetensors", test_rule="splits")


def test_importing_es_cli_loads_nothing_heavy_and_has_no_other_names(python):
    done = python("import sys, es_cli; print({'torch', 'deepinv', 'numpy', 'pydantic'} & set(sys.modules), es_cli.__version__); es_cli.lod")
    assert done.stdout.startswith(b"set() ") and b"has no attribute 'lod'" in done.stderr
