"""What `es check` says of cost: steps are timed, memory is counted, and nothing that was handed in is changed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import smooth, write_spec
from torch import nn

from es_cli.catalog import load_spec
from es_cli.data.batches import steps_per_epoch
from es_cli.diagnostics import cost
from es_cli.diagnostics.cost import cost_finding, duration, judge, largest_batch, measure
from es_cli.diagnostics.memory import KeptForBackward, batch_that_fits, bytes_of_weights, free_memory
from es_cli.errors import out_of_memory
from es_cli.experiment import build_experiment
from es_cli.training.loop import PASS_PER_STEP

CPU = torch.device("cpu")
UNSURE = {"name": "EquivariantSplittingLoss", "consistency_loss": {"name": "SureGaussianLoss", "unsure": True, "sigma": 0.05}}


def experiment_of(spec, **changes):
    return build_experiment(load_spec(write_spec(spec, **changes)), CPU)


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    kept = KeptForBackward(network)
    with kept.counting():
        loss = network(torch.zeros(5, 10)).square().sum()
    # the input, what the ReLU gives, which two layers keep, and what is squared, of 4 bytes each
    assert kept.bytes == 4 * 5 * (10 + 20 + 3)
    loss.backward()
    assert bytes_of_weights(network, 3) == 4 * 4 * (10 * 20 + 20 + 20 * 3 + 3)


def test_the_batch_that_fits_leaves_room():
    assert batch_that_fits(1000, 100) == 9
    assert batch_that_fits(1000, 100, fixed=650) == 2
    assert batch_that_fits(1000, 100, fixed=2000) == 0


def test_free_memory_is_that_of_the_machine_or_of_its_container(tmp_path):
    system, groups = tmp_path / "meminfo", tmp_path / "cgroup"
    assert free_memory(CPU, system, groups) is None
    system.write_text("MemTotal: 4000 kB\nMemAvailable:    3000 kB\n")
    assert free_memory(CPU, system, groups) == 3000 * 1024
    groups.mkdir()
    (groups / "memory.current").write_text("500\n")
    (groups / "memory.max").write_text("max\n")
    assert free_memory(CPU, system, groups) == 3000 * 1024
    (groups / "memory.max").write_text("2500\n")
    assert free_memory(CPU, system, groups) == 2000


def test_a_check_of_cost_says_what_training_takes_and_changes_nothing(inpainting):
    experiment = experiment_of(inpainting, losses=[UNSURE])
    before = [p.clone() for p in experiment.network.parameters()]
    learned = {name: value.clone() for name, value in experiment.objective.learned().items()}
    found = cost_finding(experiment, quick=True)
    assert all(torch.equal(a, b) for a, b in zip(before, experiment.network.parameters(), strict=True))
    assert learned and all(torch.equal(value, experiment.objective.learned()[name]) for name, value in learned.items())
    assert found.verdict == "good" and "6 steps of" in found.reason
    assert found.numbers["parameters"] == sum(p.numel() for p in before) == found.numbers["trained"]
    assert found.numbers["network_calls_per_image"] == 8 and found.numbers["batch_that_fits"] > 100
    assert json.loads(json.dumps(found.numbers)) == found.numbers


def test_frozen_parameters_are_not_trained(inpainting):
    experiment = experiment_of(inpainting, training={"steps": 4, "batch_size": 4, "freeze": ["*.bias"]})
    found = measure(experiment, quick=True)
    frozen = sum(p.numel() for name, p in experiment.network.named_parameters() if name.endswith("bias"))
    assert frozen and found.trained == found.parameters - frozen


def test_time_to_the_end_follows_from_real_steps_and_validations(inpainting, monkeypatch):
    experiment = experiment_of(inpainting, training={"steps": 1000, "batch_size": 4, "validate_every": 10})
    made, now = [], [0.0]

    def slow_step(experiment, state, number, visit, batch, total, ask):
        made.append(len(batch[0]))
        now[0] += 0.3 if number == 1 else 0.03

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])  # not that of a busy machine
    monkeypatch.setattr(cost, "make_step", slow_step)
    found = measure(experiment, quick=False)
    assert made == [4] * (1 + cost.TIMED)
    assert found.step == pytest.approx(0.03)  # the first step warms up
    held_out = -(-len(experiment.validation) // 4)
    full = len(experiment.train) / 4 / steps_per_epoch(experiment.train, 4)  # the last batch of an epoch is smaller
    assert found.hours == pytest.approx(found.step * full * (1000 + 100 * held_out * PASS_PER_STEP) / 3600)


def test_memory_of_a_sample_grows_with_its_size(tmp_path):
    found = []
    for size in (16, 32):
        mask = np.ones((size, size), np.float32)
        mask[::2] = 0
        np.save(tmp_path / "mask.npy", mask)
        np.save(tmp_path / "train_y.npy", smooth(8, size)[:, None] * mask)
        found.append(measure(experiment_of(tmp_path / "spec.yaml", data={"train": {"measurements": "train_y.npy"}}), quick=True).of_sample)
    assert found[1] / found[0] == pytest.approx(4, rel=0.1)


def test_a_batch_that_does_not_fit_is_not_tried(inpainting, monkeypatch):
    experiment = experiment_of(inpainting)
    of_sample, fixed = (getattr(measure(experiment, quick=True), name) for name in ("of_sample", "fixed"))
    monkeypatch.setattr(cost, "make_step", lambda *arguments, **options: pytest.fail("a step was made"))
    monkeypatch.setattr(cost, "free_memory", lambda device: int((2.5 * of_sample + fixed) / 0.9))
    found = cost_finding(experiment, quick=True)
    assert found.verdict == "doubtful" and found.advice == "set training.batch_size to 2"
    assert found.numbers["seconds_per_step"] is None and found.numbers["batch_that_fits"] == 2
    monkeypatch.setattr(cost, "free_memory", lambda device: fixed)
    assert "crop" in cost_finding(experiment, quick=True).advice


def test_memory_that_ends_within_a_step_is_doubtful_and_other_faults_are_not_hidden(inpainting, monkeypatch):
    experiment = experiment_of(inpainting)

    def failing(what):
        def step(*arguments, **options):
            raise RuntimeError(what)

        monkeypatch.setattr(cost, "make_step", step)

    failing("CUDA out of memory")
    assert out_of_memory(RuntimeError("CUDA out of memory"))
    assert cost_finding(experiment, quick=True).verdict == "doubtful"
    failing("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        cost_finding(experiment, quick=True)


def test_a_training_of_days_is_doubtful(inpainting):
    found = measure(experiment_of(inpainting), quick=True)
    assert judge(found)[0] == "good"
    verdict, reason, advice = judge(replace(found, hours=48.0, steps=1000))
    assert verdict == "doubtful" and "48 h" in reason and "a day is enough for 500" in advice


def test_the_largest_batch_is_that_of_the_largest_shape(tmp_path):
    folder = tmp_path / "y"
    folder.mkdir()
    for i, size in enumerate([16, 16, 24, 16, 24, 16]):
        np.save(folder / f"{i}.npy", smooth(1, size, seed=i) + 0.1)
    changes = {"physics": {"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}, "data": {"train": {"measurements": "y"}, "validation": {"measurements": "y"}}}
    experiment = experiment_of(tmp_path / "spec.yaml", mask_generator=None, **changes)
    assert largest_batch(experiment.train, 4) == [2, 4]
    assert largest_batch(experiment.train, 1) in ([2], [4])
    assert cost_finding(experiment, quick=True).verdict == "good"


def test_times_are_said_as_people_say_them():
    assert [duration(s) for s in (0.0123, 2.5, 90, 7200)] == ["12.3 ms", "2.5 s", "1.5 min", "2 h"]
