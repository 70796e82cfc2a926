from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from es_cli import evaluate as core
from es_cli.cli.app import app

FOUND = {
    "n": 2,
    "metrics": {"PSNR": {"mean": 24.5, "std": 1.0}, "SSIM": {"mean": 0.8, "std": 0.05}},
    "baselines": {
        "adjoint": {"PSNR": {"mean": 10.25, "std": 2.0}, "SSIM": {"mean": 0.3, "std": 0.1}},
        "pseudoinverse": {"PSNR": {"mean": 11.0, "std": 2.0}, "SSIM": {"mean": 0.4, "std": 0.1}},
    },
    "network_calls": 8,
    "seconds_per_image": 0.125,
    "conventions": {"PSNR": "dynamic range 1", "compared": "images as they are"},
}


class Found:
    def to_dict(self):
        return FOUND

    def rows(self):
        return [{"image": 0, "PSNR": 23.5, "adjoint_PSNR": 10.0}, {"image": 1, "PSNR": 25.5, "adjoint_PSNR": 10.5}]


@pytest.fixture
def es(monkeypatch, tmp_path):
    """`es evaluate …` around a core that answers FOUND; `calls` is what it was asked."""
    monkeypatch.chdir(tmp_path)

    def evaluate(ckpt, **options):
        print("chatter of a library")
        options.pop("on_progress")(1, 2)
        command.calls.append((ckpt, options))
        return Found()

    monkeypatch.setattr(core, "evaluate", evaluate)

    def command(*arguments):
        return CliRunner().invoke(app, ["evaluate", "--ckpt", "m.safetensors", *arguments])

    command.calls = []
    return command


def test_the_table_has_the_reconstruction_the_baselines_and_the_gain(es):
    result = es()
    lines = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert result.exit_code == 0
    assert "PSNR (dB)" in result.stdout.splitlines()[0]
    assert "24.500 ± 1.000" in lines["reconstruction"]
    assert "10.250 ± 2.000" in lines["adjoint"]
    assert "0.400 ± 0.100" in lines["pseudo-inverse"]
    assert "+14.250" in lines["gain over adjoint"]
    assert "+13.500" in lines["gain over pseudo-inverse"]
    assert "2 images" in result.stdout and "8 network calls and 0.12 s an image" in result.stdout and "PSNR: dynamic range 1" in result.stdout
    assert "\x1b" not in result.stdout and "chatter" not in result.stdout


def test_json_is_exactly_one_object(es):
    assert json.loads(es("--json").stdout) == FOUND


def test_csv_has_a_row_for_each_image(es):
    assert es("--csv", "images.csv", "--json").exit_code == 0
    with Path("images.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in Found().rows()]


def test_options_reach_the_core(es):
    es("--measurements", "y.npy", "--images", "x.npy", "--metric", "LPIPS", "--metric", "NMSE", "--device", "cpu", "--precision", "bfloat16")
    given = {"measurements": Path("y.npy"), "images": Path("x.npy"), "params": {}, "metrics": ("LPIPS", "NMSE"), "device": "cpu"}
    expected = {**given, "precision": "bfloat16", "test": None}
    assert es.calls == [(Path("m.safetensors"), expected)]


def test_a_test_rule_reaches_the_core_as_a_section_of_a_spec_and_a_wrong_one_does_not(es):
    assert es("--test-rule", "splits=3,group=random,samples=2").exit_code == 0
    rule = es.calls[0][1]["test"]
    assert (rule.splits, rule.group, rule.samples) == (3, "random", 2)
    result = es("--test-rule", "splits=3;group=random")
    assert result.exit_code == 2 and "--test-rule: test.splits: wanted none" in result.stderr and len(es.calls) == 1


def test_psnr_and_ssim_are_the_default(es):
    es()
    assert es.calls[0][1]["metrics"] == ("PSNR", "SSIM")


@pytest.mark.parametrize("option", ["--measurements", "--images"])
def test_half_of_a_pair_is_refused(es, option):
    assert es(option, "a.npy").exit_code == 2 and not es.calls
