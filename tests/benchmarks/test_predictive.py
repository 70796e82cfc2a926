"""The table of what `es check` foretells, from results as the script writes them; and its measure of what was recovered."""

from __future__ import annotations

import numpy as np
import predictive
import pytest
import torch
from deepinv.physics import MRI, Inpainting
from problems import smooth


def run(group, verdict, psnr, **changes):
    key = {"task": "mri64", "group": group, "steps": 100, "seed": 0, "size": 64}
    return {**key, "verdict": verdict, "reached": 0.5, "psnr": psnr, "adjoint": 20.0, "recovered": 0.25, **changes}


def test_a_gain_is_one_over_the_same_training_without_a_group():
    runs = [run("trivial", "doubtful", 22.0), run("D4", "good", 23.0), run("shifts", "no", 22.1), run("rotations", "doubtful", 22.1), run("D4", "no", 25.0, steps=200)]
    assert [row["gain"] for row in predictive.compared(runs)] == [None, 1.0, pytest.approx(0.1), pytest.approx(0.1), None]


def test_good_foretells_a_gain_and_no_none():
    def foretold(one):
        return predictive.compared([run("trivial", "doubtful", 22.0), one])[1]["foretold"]

    assert foretold(run("D4", "good", 23.0)) is True and foretold(run("D4", "good", 22.1)) is False
    assert foretold(run("D4", "no", 22.1)) is True and foretold(run("D4", "no", 23.0)) is False
    assert foretold(run("D4", "doubtful", 23.0)) is None


def test_the_table_has_a_row_for_each_run():
    lines = predictive.table([run("trivial", "doubtful", 22.0, reached=None), run("D4", "good", 23.0)])
    assert lines[2] == "| mri64 | 64² | 100 | trivial | doubtful |  | 22.00 dB | +2.00 dB |  | 25 % |  |"
    assert lines[3] == "| mri64 | 64² | 100 | D4 | good | 50 % | 23.00 dB | +3.00 dB | +1.00 dB | 25 % | yes |"


def test_what_was_recovered_is_counted_where_nothing_was_measured():
    mask = (torch.arange(256) % 3 == 0).float().view(1, 16, 16)
    physics, x = Inpainting((1, 16, 16), mask=mask), torch.from_numpy(smooth(2, 16))[:, None] + 0.1
    assert predictive.recovered(physics, physics.A_adjoint(physics.A(x)), x) == pytest.approx(0, abs=0.01)
    assert predictive.recovered(physics, x + mask, x) == pytest.approx(1, abs=0.01)
    half = mask * x + 0.5 * (1 - mask) * x
    assert predictive.recovered(physics, half, x) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("task", ["inpainting64", "blur64"])
def test_a_spec_of_each_task_is_made_from_its_arrays(task, tmp_path):
    arrays = tmp_path / "tasks" / "inpainting64"
    arrays.mkdir(parents=True)
    for part in ("train", "val", "test"):
        for what in "xy":
            np.save(arrays / f"{part}_{what}.npy", np.random.default_rng(0).random((60, 3, 64, 64), np.float32))
    np.save(arrays / "mask.npy", np.ones((1, 64, 64), np.float32))
    spec = predictive.spec_in(tmp_path, tmp_path / "tasks", task, "D4", 7, 3, 32)
    assert (spec.training.steps, spec.seed, spec.transforms.group) == (7, 3, "D4")
    assert np.load(spec.data.test.images.file).shape == (predictive.TESTED, 3, 32, 32)
    assert spec.physics.name == ("BlurFFT" if task == "blur64" else "Inpainting")


def test_smaller_k_space_is_that_of_the_smaller_image():
    x = np.random.default_rng(0).normal(size=(2, 2, 64, 64)).astype(np.float32)
    large, small = (MRI(img_size=(2, size, size)) for size in (64, 32))
    kspace = predictive.smaller(large.A(torch.from_numpy(x)).numpy(), 32, kspace=True)
    assert np.allclose(kspace, small.A(torch.from_numpy(predictive.smaller(x, 32, seen_in_kspace=True))).numpy(), atol=1e-5)


def test_the_filter_of_the_blur_is_round_and_keeps_the_light():
    found = predictive.gaussian(13, 1.5)[0, 0]
    assert found.sum() == pytest.approx(1) and np.array_equal(found, found.T) and np.array_equal(found, np.rot90(found))
