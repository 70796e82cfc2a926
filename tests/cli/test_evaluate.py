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
    "source": "the measurements given",
    "metrics": {"PSNR": {"mean": 24.5, "std": 1.0}, "SSIM": {"mean": 0.8, "std": 0.05}},
    "baselines": {
        "adjoint": {"PSNR": {"mean": 10.25, "std": 2.0}, "SSIM": {"mean": 0.3, "std": 0.1}},
        "pseudoinverse": {"PSNR": {"mean": 11.0, "std": 2.0}, "SSIM": {"mean": 0.4, "std": 0.1}},
    },
    "without_truth": {"held_out_nrmse": {"mean": 0.25, "low": 0.2, "high": 0.3}, "residual_mean": {"mean": 0.0, "low": float("nan"), "high": float("nan")}},
    "trust": {"held_out_nrmse": "ranks networks (-0.95 on a task)", "residual_mean": "not measured"},
    "error_bar": {"factor": 2.0, "factor_of_these": 2.5, "entries": 100, "coverage": [0.6, 0.9], "source": "the checkpoint"},
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
    assert "0.2 to 0.3" in lines["held-out prediction error, relative"] and "ranks networks (-0.95 on a task)" in lines["held-out prediction error, relative"]
    assert "nan" not in result.stdout and "cover 60% of 100 held-out entries within one and 90% within two" in result.stdout
    assert "worst images by PSNR: 0 (23.50), 1 (25.50)" in result.stdout
    assert "2 images of the measurements given" in result.stdout and "8 network calls and 0.12 s an image" in result.stdout and "PSNR: dynamic range 1" in result.stdout
    assert "\x1b" not in result.stdout and "chatter" not in result.stdout


def test_json_is_exactly_one_object(es):
    found = json.loads(es("--json").stdout)
    assert found["without_truth"]["residual_mean"] == {"mean": 0.0, "low": None, "high": None}
    assert found == json.loads(json.dumps(FOUND).replace("NaN", "null"))


def test_csv_has_a_row_for_each_image(es):
    assert es("--csv", "images.csv", "--json").exit_code == 0
    with Path("images.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in Found().rows()]


def test_options_reach_the_core(es):
    es("--measurements", "y.npy", "--images", "x.npy", "--metric", "LPIPS", "--metric", "NMSE", "--device", "cpu", "--precision", "bfloat16")
    given = {"measurements": Path("y.npy"), "images": Path("x.npy"), "params": {}, "metrics": ("LPIPS", "NMSE"), "device": "cpu"}
    expected = {**given, "precision": "bfloat16", "test": None, "judging": True, "variation": False}
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


def test_images_alone_are_refused_and_measurements_alone_are_judged(es):
    assert es("--images", "a.npy").exit_code == 2 and not es.calls
    assert es("--measurements", "a.npy").exit_code == 0 and es.calls[0][1]["judging"] is True
    assert es("--measurements", "a.npy", "--metrics-only").exit_code == 2 and es("--metrics-only", "--tv").exit_code == 2 and len(es.calls) == 1
    assert es("--metrics-only").exit_code == 0 and es.calls[1][1]["judging"] is False


def test_per_image_is_another_name_of_csv(es):
    assert es("--per-image", "images.csv").exit_code == 0 and Path("images.csv").read_text().startswith("image,PSNR")
