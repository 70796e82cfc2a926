"""How numbers without ground truth are ranked, and what was measured of error bars, from results as the scripts write them."""

from __future__ import annotations

import json

import pytest
import ranking
import uncertainty
from scipy.stats import spearmanr

from es_cli import without_truth

RUNS = [
    {"task": "cs28", "seed": seed, "PSNR": psnr, "held_out_nrmse": 1 / psnr, "consistency": (psnr * 7) % 5, "residual_mean": 0.5}
    for seed, psnr in enumerate((20.0, 23.0, 21.0, 25.0, 24.0))
]
ROW = {
    "task": "cs28", "rule": "own", "PSNR": 21.0, "factor": 2.5, "held out": [0.7, 0.96], "pixels": [0.6, 0.9], "mostly invented pixels": [0.5, 0.8],
    "error over bar": 1.1, "rank correlation": 0.4,
}  # fmt: skip


def test_the_rank_correlation_is_spearmans():
    found = ranking.correlations(RUNS)
    psnr = [row["PSNR"] for row in RUNS]
    assert found["held_out_nrmse"] == {"cs28": -1.0}
    assert found["consistency"]["cs28"] == pytest.approx(spearmanr(psnr, [row["consistency"] for row in RUNS]).statistic, abs=0.006)
    assert "BlurStrength" not in found and "residual_mean" not in found, "neither what is not there nor what does not vary ranks anything"
    assert not ranking.correlations(RUNS[:2])
    assert ranking._ranks([3.0, 1.0, 3.0]).tolist() == [2.5, 1.0, 2.5]


def test_the_most_telling_number_comes_first():
    lines = ranking.table({"runs": RUNS, "correlation": {"consistency": {"cs28": 0.2}, "held_out_nrmse": {"cs28": -1.0}}})
    assert lines[0] == "| number | cs28: 5 networks of 20.0 to 25.0 dB |"
    assert lines[2] == "| held-out prediction error, relative | -1.00 |" and lines[3] == "| residual, relative | +0.20 |"


def test_a_number_is_trusted_only_where_it_ranked_every_task_in_the_same_and_the_right_order(monkeypatch):
    measured = {
        "held_out_nrmse": {"a": -0.9, "b": -0.85},
        "held_out_mse": {"a": 0.9},
        "residual_std": {"a": -0.9, "b": 0.9},
        "consistency": {"a": -0.9, "b": -0.8},
        "residual_mean": {"a": -0.9, "b": -0.7},
    }
    monkeypatch.setattr(without_truth, "ranking", lambda: measured)
    assert without_truth.trust("held_out_nrmse") == "ranks networks (-0.90 on a, -0.85 on b)"
    assert without_truth.trust("consistency").startswith("ranks networks")
    for name in ("held_out_mse", "residual_std", "residual_mean"):
        assert without_truth.trust(name).startswith("does not rank networks")


def test_what_es_evaluate_says_is_what_was_measured():
    results = json.loads(ranking.OUT.read_text())
    assert json.loads(ranking.SAID.read_text())["correlation"] == results["correlation"] == ranking.correlations(results["runs"])


def test_a_row_says_what_error_bars_cover():
    assert uncertainty.table({"runs": [ROW]})[2] == "| cs28, own | 21.00 dB | 2.50 | 70%, 96% | 60%, 90% | 50%, 80% | 1.10 | 0.40 |"
