from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from es_cli import checkpoint
from es_cli.card import brief
from es_cli.cli.app import app

SPEC = {
    "name": "[bold]tiny[/x]\x1b[31m",
    "physics": {"name": "Inpainting", "img_size": [3, 16, 16], "mask": {"tensor": "physics.mask"}},
    "model": {"name": "ArtifactRemoval", "backbone_net": {"name": "UNet", "scales": 2, "residual": None}},
    "losses": [{"name": "EquivariantSplittingLoss", "weight": 1.0}],
    "transforms": {"group": "D4", "train": None},
}


@pytest.fixture
def es(monkeypatch):
    metadata = checkpoint.Metadata(
        SPEC, "none", {"shape": [3, 16, 16], "image_shape": [3, 16, 16], "complex": False, "network_calls": 8}, {"loss": 0.01, "step": 40}, {"torch": "2.6"}, "abc"
    )
    monkeypatch.setattr(checkpoint, "read_metadata", lambda path: metadata)
    return lambda *arguments: CliRunner().invoke(app, ["info", "m.safetensors", *arguments])


def test_the_table_says_what_a_checkpoint_holds(es):
    facts = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in es().stdout.splitlines() if "  " in line.strip()}
    assert facts["physics"] == "Inpainting(img_size=[3, 16, 16], mask=tensor=physics.mask)"
    assert facts["model"] == "ArtifactRemoval(backbone_net=UNet(scales=2))"
    assert facts["image"] == "3 × 16 × 16"
    assert facts["held-out loss"] == "0.01 at step 40"
    assert facts["transforms"] == "group=D4"
    assert facts["network calls"] == "8 for each image"


def test_what_a_stranger_wrote_into_a_checkpoint_cannot_steer_the_terminal(es):
    result = es()
    assert result.exit_code == 0
    assert "[bold]tiny[/x]\\x1b[31m" in result.stdout and "\x1b" not in result.stdout


def test_json_has_all_of_it(es):
    found = json.loads(es("--json").stdout)
    assert found["spec"] == SPEC and found["format"] == checkpoint.FORMAT and found["fingerprint"] == "abc"


def test_a_missing_checkpoint_is_exit_4(tmp_path):
    result = CliRunner().invoke(app, ["info", str(tmp_path / "m.safetensors")])
    assert result.exit_code == 4 and "no such file" in result.stderr


@pytest.mark.parametrize(
    ("part", "text"),
    [("UNet", "UNet"), ({"name": "UNet"}, "UNet"), ({"name": "A", "b": [1, {"name": "B", "c": 2}]}, "A(b=[1, B(c=2)])"), (None, "none")],
)
def test_a_part_is_shown_as_a_call(part, text):
    assert brief(part) == text


def test_a_card_says_what_the_checkpoint_knows_and_what_it_does_not(es):
    said = es("--card").stdout
    headings = [line.removeprefix("## ") for line in said.splitlines() if line.startswith("## ")]
    assert headings == ["Model", "Intended use", "Out of scope", "Training", "Training data", "How images are made", "Evaluation", "Licence and contact"]
    assert "from measurements alone" in said and "| held-out loss | 0.01 at step 40 |" in said and "| error bars | not calibrated |" in said
    assert said.count("Not recorded in the checkpoint") == 2
    assert es("--card", "--json").exit_code == 2


def test_a_card_says_where_ground_truth_was_used(es, monkeypatch):
    monkeypatch.setitem(SPEC, "losses", [{"name": "SupLoss", "weight": 1.0}])
    assert "with ground truth, which SupLoss compares with" in es("--card").stdout


def test_what_a_stranger_wrote_into_a_checkpoint_is_no_markup_of_a_card(es, monkeypatch):
    monkeypatch.setitem(SPEC, "name", "a\n# b <script> [c](d)")
    assert es("--card").stdout.splitlines()[0] == "# a \\# b \\<script\\> \\[c\\](d)"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"factor": 2.0, "entries": 50, "coverage": [0.5, 0.9]}, "2 × the spread of the passes, which covers 50% and 90% of 50 held-out entries within one and two"),
        ({"factor": "large"}, "cannot be read"),
        ([1], "not calibrated"),
    ],
)
def test_error_bars_are_said_and_no_nonsense_stops_es_info(es, monkeypatch, kept, said):
    known = checkpoint.read_metadata("m.safetensors")
    monkeypatch.setitem(known.validation, "error_bar", kept)
    assert f"  {said}" in es().stdout
