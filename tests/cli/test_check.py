"""`es check`: a verdict for each section, one over all, and exit code 6 where the answer is no."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from es_cli.cli.app import app
from es_cli.cli.check import render
from es_cli.diagnostics.finding import Finding

SPEC = """
physics: {name: Inpainting, img_size: [1, 16, 16], mask: from-data}
data:
  train: {measurements: y.npy}
losses: [EquivariantSplittingLoss]
transforms: {group: D4}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 1, out_channels: 1, scales: 2, batch_norm: false}}
training: {steps: 4, batch_size: 2}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.standard_normal((6, 1, 16, 16)), -1), -2)
    images = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    np.save(tmp_path / "y.npy", (images * (rng.random((16, 16)) < 0.4)).astype(np.float32))
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


def run(*arguments: object):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_what_can_be_learned_ends_in_0_with_a_line_for_each_section(spec):
    result = run(spec, "--quick")
    assert result.exit_code == 0, result.stderr
    assert all(f"{section}:" in result.stdout for section in ("operator", "transforms", "coverage"))
    assert result.stdout.splitlines()[-1].split()[-1] == "overall"


def test_json_says_the_same_as_the_exit_code(spec):
    found = json.loads(run(spec, "--quick", "--json").stdout)
    assert found["verdict"] in {"good", "doubtful"}
    assert [section["section"] for section in found["sections"]][:3] == ["operator", "transforms", "coverage"]
    assert all(section["seconds"] > 0 and "pictures" not in section for section in found["sections"]) and found["pictures"] == []
    reached = found["sections"][2]["numbers"]["null_space_reached"]
    assert reached["low"] <= reached["value"] <= reached["high"]


def test_pictures_are_drawn_where_asked_and_replace_only_pictures_of_es(spec, tmp_path):
    folder = tmp_path / "seen"
    for _ in range(2):
        found = json.loads(run(spec, "--quick", "--json", "--pictures", folder).stdout)
        assert found["pictures"] == [str(folder / "coverage.png")]
        assert (folder / "coverage.png").read_bytes().startswith(b"\x89PNG")
    (folder / "coverage.png").write_text("mine")
    result = run(spec, "--quick", "--pictures", folder)
    assert result.exit_code == 2 and "was not drawn by es" in result.stderr and not result.stdout
    assert (folder / "coverage.png").read_text() == "mine"
    result = run(spec, "--quick", "--pictures", folder / "coverage.png")
    assert result.exit_code == 2 and "no folder" in result.stderr


def test_where_the_time_went_is_said_if_it_was_long(spec, monkeypatch):
    assert "took" not in run(spec, "--quick").stdout
    monkeypatch.setattr("es_cli.cli.check.SLOW", 0.0)
    assert "took" in run(spec, "--quick").stdout.splitlines()[-2]


def test_losses_of_measurements_alone_are_exit_6_with_a_group_that_would_teach(spec):
    result = run(spec, "transforms.group=trivial", "losses=[MCLoss]", "--quick")
    assert result.exit_code == 6, result.stdout + result.stderr
    assert "cannot be learned" in result.stderr and "D4" in result.stderr


def test_a_group_that_teaches_nothing_is_exit_6_with_the_groups_that_would(spec):
    columns = np.broadcast_to((np.arange(16) % 2).astype(np.float32), (1, 16, 16))
    np.save(spec.parent / "mask.npy", columns)
    np.save(spec.parent / "y.npy", np.random.default_rng(0).random((6, 1, 16, 16)).astype(np.float32) * columns)
    # whole columns were measured, and flips up and down leave them where they are
    result = run(spec, "transforms={train: [{name: Reflect, dim: [-2]}]}", "physics.mask={file: mask.npy}", "--quick")
    assert result.exit_code == 6, result.stdout + result.stderr
    assert "cannot be learned" in result.stderr and "shifts" in result.stderr
    assert result.stdout.splitlines()[-1].split() == ["no", "overall"]


def test_a_file_that_is_missing_is_exit_3_and_says_nothing_on_standard_output(spec):
    result = run(spec, "data.train.measurements=gone.npy")
    assert result.exit_code == 3 and "gone.npy" in result.stderr and not result.stdout


def test_a_spec_with_a_fault_is_answered_as_by_training(spec):
    result = run(spec, "physics.name=Inpaintin")
    assert result.exit_code == 2 and "did you mean Inpainting" in result.stderr


FINDING = Finding("operator", "doubtful", "odd", "mend it", {"norm": 0.12345, "image_shape": [3, 4], "sees": None, "rank": {"value": 0.5, "low": 0.4, "high": 0.6}, "each": {"turn": {"error": 1}}})


def test_a_finding_is_rendered_with_its_advice_and_numbers_but_no_tables():
    lines = render(FINDING, io.StringIO()).splitlines()
    assert lines[0].split() == ["doubtful", "operator:", "odd"]
    assert [line.strip() for line in lines[1:]] == ["→ mend it", "norm: 0.123", "image shape: 3 × 4", "sees: not known", "rank: 0.5 (0.4 to 0.6)"]


def test_the_stream_that_is_written_to_decides_on_colour(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in render(FINDING, terminal)
    monkeypatch.setattr("sys.stdout", terminal)  # as standard error is, while answers go to a pipe
    assert "\x1b[" not in render(FINDING, io.StringIO())
