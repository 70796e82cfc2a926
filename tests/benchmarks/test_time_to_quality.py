from __future__ import annotations

import argparse

import pytest
from reaching import compared, psnr_at, time_to
from time_to_quality import Results, missing, plan, steps_within

CURVE = [(10.0, 20.0), (30.0, 24.0), (50.0, 25.0)]


def es(steps: int, wall: float, psnr: float) -> dict:
    return {"who": "es", "steps": steps, "changes": [], "wall": wall, "psnr": psnr, "adjoint": 18.0}


def peer(steps: int, wall: float, psnr: float, lr: float = 5e-4) -> dict:
    return {"who": "peer", "steps": steps, "epochs": steps // 10, "lr": lr, "wall": wall, "validation": wall / 2, "psnr": psnr}


def test_psnr_between_two_points_lies_on_their_line_and_stays_after_the_last():
    assert psnr_at(CURVE, 20.0) == 22.0
    assert psnr_at(CURVE, 30.0) == 24.0
    assert psnr_at(CURVE, 500.0) == 25.0
    assert psnr_at(CURVE, 9.0) is None


def test_the_time_to_a_psnr_is_read_off_between_points_and_never_beyond_them():
    assert time_to(CURVE, 22.0) == {"seconds": 20.0, "known": "between points"}
    assert time_to(CURVE, 19.0) == {"seconds": 10.0, "known": "at most"}
    assert time_to(CURVE, 25.1) is None
    assert time_to([], 1.0) is None


def test_a_curve_that_falls_reaches_a_psnr_the_first_time():
    assert time_to([(0.0, 10.0), (10.0, 30.0), (20.0, 10.0), (30.0, 30.0)], 20.0) == {"seconds": 5.0, "known": "between points"}


def test_each_run_of_the_peer_is_compared_at_its_psnr_and_at_its_wall_time():
    runs = [es(10, 10.0, 20.0), es(30, 30.0, 24.0), peer(100, 80.0, 22.0), peer(100, 20.0, 26.0, lr=1e-3)]
    slow, good = compared(runs)["against"]
    assert (slow["es_seconds"], slow["ratio"], slow["ratio_without_its_validation"]) == (20.0, 0.25, 0.5)
    assert (slow["es_psnr"], slow["gain_dB"]) == (24.0, 2.0)
    assert "ratio" not in good  # es was never so good
    assert good["gain_dB"] == -4.0


def test_three_decibels_above_the_adjoint_the_peer_is_taken_at_its_fastest_learning_rate():
    runs = [es(10, 5.0, 20.0), es(20, 15.0, 22.0), *(peer(n, 10.0 * n, 17.0 + n, lr=5e-4) for n in (2, 4)), *(peer(n, 10.0 * n, 15.0 + 3 * n, lr=1e-3) for n in (1, 3))]
    early = compared(runs)["to_adjoint_and_3_dB"]
    assert early["psnr"] == 21.0
    assert early["es"]["seconds"] == 10.0
    assert (early["lr"], early["peer"]["seconds"], early["ratio"]) == (1e-3, 20.0, 0.5)


def test_a_peer_that_is_never_so_good_took_more_than_its_longest_run():
    early = compared([es(10, 5.0, 20.0), es(20, 15.0, 22.0), peer(10, 50.0, 17.0), peer(20, 100.0, 18.0)])["to_adjoint_and_3_dB"]
    assert early["peer"] == {"seconds": 100.0, "known": "not by then"}
    assert early["ratio"] == 0.1


def test_no_ratio_is_made_where_the_peer_was_above_already_when_first_seen():
    early = compared([es(10, 5.0, 20.0), es(20, 15.0, 22.0), peer(10, 50.0, 23.0)])["to_adjoint_and_3_dB"]
    assert early["peer"]["known"] == "at most"
    assert "ratio" not in early


def test_nothing_follows_from_one_side_alone():
    assert compared([es(10, 10.0, 20.0)]) == {}


def test_the_run_at_the_peers_wall_time_ends_just_before_it():
    runs = [es(100, 20.0, 20.0), es(300, 40.0, 22.0)]  # 10 s and a tenth of a second for each step
    assert steps_within(runs, 100.0) == 880
    assert missing(runs, 100.0) == 880
    assert missing([*runs, es(880, 98.0, 23.0)], 100.0) is None
    assert missing(runs[:1], 100.0) is None


def test_lengths_of_es_and_of_the_peer_take_turns():
    args = argparse.Namespace(steps=[5, 10, 20], set=[], peer_epochs=[1], peer_lr=[5e-4, 1e-3])
    assert [run["who"] for run in plan("mri64", args)] == ["es", "peer", "es", "peer", "es"]


def test_results_grow_and_say_what_is_there(tmp_path):
    Results(tmp_path / "r.json").add("mri64", es(10, 10.0, 20.0))
    again = Results(tmp_path / "r.json")
    again.add("mri64", peer(100, 80.0, 19.0))
    assert again.has("mri64", {"who": "es", "steps": 10, "changes": []})
    assert not again.has("mri64", {"who": "es", "steps": 20, "changes": []})
    assert not again.has("inpainting64", {"who": "es", "steps": 10, "changes": []})
    assert again.held["tasks"]["mri64"]["compared"]["against"][0]["gain_dB"] == 1.0


def test_one_file_holds_one_spec(tmp_path):
    results = Results(tmp_path / "r.json")
    results.add("mri64", es(10, 10.0, 20.0))
    results.check("mri64", [])
    with pytest.raises(SystemExit, match="another --out"):
        results.check("mri64", ["training.ema=0.9"])
