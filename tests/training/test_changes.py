"""A stopped run goes on with other steps, rates and batches where it is told to, and with nothing else."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.experiment import build_experiment
from es_cli.training.changes import reopen
from es_cli.training.events import Note, Started, Step
from es_cli.training.loop import fit, new_state
from es_cli.training.run import Interrupted, resume

CPU = torch.device("cpu")
COSINE = "training.scheduler=CosineAnnealingLR"


def stopped(spec, folder, at=3):
    """A run of `spec` that was stopped after step `at`."""

    def stop(event):
        if isinstance(event, Step) and event.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_in(folder, spec, on_event=stop)
    return folder


def gone_on(folder, *changes):
    """The run goes on: its learning rates by step, and what it said."""
    rates, notes, started = {}, [], []

    def look(event):
        if isinstance(event, Step):
            rates[event.step] = event.lr
        notes.extend([event.text] if isinstance(event, Note) else [])
        started.extend([event] if isinstance(event, Started) else [])

    resume(folder, changes, device="cpu", on_event=look)
    return rates, notes, started


def rates_of(spec, steps):
    experiment = build_experiment(spec, CPU)
    return {event.step: event.lr for event in fit(experiment, new_state(experiment, None, steps), steps, 100, CPU) if isinstance(event, Step)}


def test_what_may_not_change_is_named_with_both_values_all_at_once(inpainting):
    folder = stopped(load_spec(inpainting), inpainting.parent / "run")
    wishes = ["model.backbone_net.scales=3", "seed=1", "training.steps=9", "training.optimizer={name: SGD, lr: 0.1}", "data.scale=2.0", "training.ema=0.5"]
    with pytest.raises(SpecError) as refused:
        reopen(folder, wishes)
    faults = {fault.where: fault.what for fault in refused.value.faults}
    assert set(faults) == {"model.backbone_net.scales", "seed", "training.optimizer.name", "data.scale", "training.ema"}
    assert faults["seed"] == "this run was begun with 0, and 1 is asked for"
    assert faults["model.backbone_net.scales"] == "this run was begun with nothing, and 3 is asked for"
    assert "steps: 6" in (folder / "spec.yaml").read_text()


def test_a_spec_of_a_run_that_was_edited_is_held_against_the_state(inpainting):
    folder = stopped(load_spec(inpainting), inpainting.parent / "run")
    text = (folder / "spec.yaml").read_text()
    edited = text.replace("D4", "C4").replace("ratio: 0.7", "ratio: 0.6").replace("steps: 6", "steps: 7")
    (folder / "spec.yaml").write_text(edited)
    with pytest.raises(SpecError) as refused:
        resume(folder, device="cpu")
    assert {fault.where: fault.what for fault in refused.value.faults} == {
        "transforms.group": "this run was begun with D4, and C4 is asked for",
        "mask_generator.split_ratio": "this run was begun with 0.7, and 0.6 is asked for",
    }
    (folder / "spec.yaml").write_text(text.replace("steps: 6", "steps: 7"))
    assert gone_on(folder)[0].keys() == {4, 5, 6, 7}


def test_what_changes_is_said_and_stays_for_the_next_time(inpainting):
    folder = stopped(load_spec(inpainting), inpainting.parent / "run")
    changes = ["training.batch_size=2", "training.patience=50", "training.validate_every=2", "training.preview=true", "training.steps=8"]
    _, notes, (start,) = gone_on(folder, *changes)
    assert start.first_step == 3 and start.steps == 8
    (said,) = notes
    assert "from step 3 on" in said and "training.batch_size 4 → 2" in said and "training.patience nothing → 50" in said and "8 steps in all" in said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 6, 8] and rows[-1]["epoch"] == round(8 / 9, 3)
    assert load_spec(folder / "spec.yaml").training.batch_size == 2
    assert gone_on(folder)[1] == ["this run is finished (finished); nothing to do"]


def test_a_change_to_the_same_changes_nothing(inpainting):
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting))
    folder = stopped(load_spec(inpainting), inpainting.parent / "run")
    assert gone_on(folder, "training.steps=6", "seed=0")[1] == []
    assert (folder / "model.safetensors").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("scheduler", [None, COSINE, "training.scheduler={name: StepLR, step_size: 2}"])
def test_another_learning_rate_is_that_of_a_run_that_had_it_from_the_start(inpainting, scheduler):
    spec = [scheduler] if scheduler else []
    folder = stopped(load_spec(inpainting, spec), inpainting.parent / "run")
    rates, *_ = gone_on(folder, "training.optimizer.lr=0.01")
    assert rates == pytest.approx({step: rate for step, rate in rates_of(load_spec(inpainting, [*spec, "training.optimizer.lr=0.01"]), 6).items() if step > 3})


def test_the_optimizer_remembers_under_another_learning_rate(inpainting):
    folder = stopped(load_spec(inpainting), inpainting.parent / "run")
    seen = []

    def look(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        resume(folder, ["training.optimizer.lr=0.01"], device="cpu", on_event=look)
    experiment = build_experiment(load_spec(folder / "spec.yaml"), CPU)
    state = new_state(experiment, experiment.network, 6)
    state.load(folder / "state" / "state.safetensors")
    seen = {float(one["step"]) for one in state.optimizer.state.values()}
    assert seen == {4.0} and state.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("at", [3, 6])
def test_an_extension_keeps_the_end_of_the_schedule(inpainting, at):
    spec = load_spec(inpainting, ["training.scheduler={name: CosineAnnealingLR, eta_min: 0.001}"])
    folder = stopped(spec, inpainting.parent / "run") if at == 3 else train_in(inpainting.parent / "run", spec).parent
    rates, notes, _ = gone_on(folder, "training.steps=10")
    assert {step: rate for step, rate in rates.items() if step <= 6} == pytest.approx({step: rate for step, rate in rates_of(spec, 6).items() if step > at})
    assert [rates[step] for step in (7, 8, 9, 10)] == pytest.approx([0.001] * 4)
    assert "CosineAnnealingLR was made for 6 steps and ends there; from there to step 10 the learning rate stays at 0.001" in notes[1]


def test_an_extension_that_would_learn_nothing_is_refused_and_one_that_stretches_the_schedule_is_not(inpainting):
    folder = train_in(inpainting.parent / "run", load_spec(inpainting, [COSINE])).parent
    with pytest.raises(SpecError, match=r"with a learning rate of 0.*training.scheduler.T_max=10"):
        resume(folder, ["training.steps=10"], device="cpu")
    assert "steps: 6" in (folder / "spec.yaml").read_text()
    rates, *_ = gone_on(folder, "training.steps=10", "training.scheduler.T_max=10")
    assert rates == pytest.approx({step: rate for step, rate in rates_of(load_spec(inpainting, [COSINE]), 10).items() if step > 6})


def test_one_cycle_goes_on_after_its_end(inpainting):
    """torch itself raises there."""
    folder = train_in(inpainting.parent / "run", load_spec(inpainting, ["training.scheduler={name: OneCycleLR, max_lr: 0.01}"])).parent
    rates, notes, _ = gone_on(folder, "training.steps=8")
    assert list(rates) == [7, 8] and rates[7] == rates[8] > 0 and "training.scheduler.total_steps=8" in notes[1]


def test_an_extended_run_is_resumed_like_any_other(inpainting):
    spec = load_spec(inpainting, ["training.scheduler={name: OneCycleLR, max_lr: 0.01}"])
    models = []
    for name, at in (("a", None), ("b", 5), ("c", 8)):
        folder = stopped(spec, inpainting.parent / name)

        def stop(event, at=at):
            if isinstance(event, Step) and event.step == at:
                os.kill(os.getpid(), signal.SIGINT)

        if at is None:
            resume(folder, ["training.steps=10"], device="cpu")
        else:
            with pytest.raises(Interrupted):
                resume(folder, ["training.steps=10"], device="cpu", on_event=stop)
            resume(folder, device="cpu")
        models.append((folder / "model.safetensors").read_bytes())
    assert models[0] == models[1] == models[2]


def test_a_run_that_lost_its_patience_goes_on_with_more(inpainting):
    spec = load_spec(inpainting, ["training.optimizer.lr=1e-12", "training.ema=null", "training.steps=60", "training.patience=2"])
    folder = train_in(inpainting.parent / "run", spec).parent
    assert gone_on(folder)[1] == ["this run is finished (patience); nothing to do"]
    rates, *_ = gone_on(folder, "training.patience=null", "training.optimizer.lr=0.003")
    assert max(rates) == 60 and set(rates.values()) == {0.003}
