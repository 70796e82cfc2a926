"""Losses and gradients that are not finite: a step is left out, training goes back under a lower learning rate, and gives up at last."""

from __future__ import annotations

import json

import pytest
import torch
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.errors import Diverged
from es_cli.experiment import build_experiment
from es_cli.splitting.objective import Objective
from es_cli.streams import stream_seed
from es_cli.training import readback
from es_cli.training.events import Note, Step, Validated
from es_cli.training.loop import BACK_OFF, TOO_MANY, fit, new_state
from es_cli.training.run import resume

CPU = torch.device("cpu")
WILD = ["training.optimizer={name: SGD, lr: 100.0}", "training.steps=18", "training.validate_every=9", "training.backoffs=20", "training.save_every=1e-9"]


@pytest.fixture
def spoil(monkeypatch):
    """Steps whose loss, or whose gradient alone, is not finite."""
    kinds: dict[int, str] = {}
    forward = Objective.forward

    def spoiled(self, y, physics, seed, *rest):
        total, terms = forward(self, y, physics, seed, *rest)
        kind = next((kind for step, kind in kinds.items() if stream_seed(0, "step", step) == seed), None)
        if kind == "gradient":
            total = total + (next(self.network.parameters()) * 0).abs().sum().sqrt() * 0
        return (total * float("nan") if kind == "loss" else total), terms

    monkeypatch.setattr(Objective, "forward", spoiled)
    return kinds


def values(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("like_a_gpu", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("optimizer", ["{name: AdamW, lr: 0.01}", "{name: AdamW, lr: 0.01, fused: true}", "{name: SGD, lr: 0.01, momentum: 0.9}"])
def test_a_step_that_is_not_finite_is_left_out(inpainting, spoil, kind, like_a_gpu, optimizer, monkeypatch):
    """On the host, and by one kernel, as if it had not been; other optimizers on a GPU get a gradient of zero."""
    monkeypatch.setitem(readback.STEPS_AT_ONCE, "cpu", 10 if like_a_gpu else 1)
    experiment = build_experiment(load_spec(inpainting, [f"training.optimizer={optimizer}", "training.ema=null"]), CPU)
    state = new_state(experiment, None, 6)
    list(fit(experiment, state, 2, 2, CPU))
    spoil[3] = kind
    before, moments = values(experiment.network), json.dumps(state.snapshot().described["optimizer"])
    (seen,) = [event for event in fit(experiment, state, 3, 9, CPU) if isinstance(event, Step)]
    assert seen.skipped and state.progress.skipped == 1
    same = all(torch.equal(a, b) for a, b in zip(before, experiment.network.parameters(), strict=True))
    exact = not like_a_gpu or "fused" in optimizer
    assert same == exact and json.dumps(state.snapshot().described["optimizer"]) == moments
    assert all(parameter.isfinite().all() for parameter in experiment.network.parameters())
    if exact:
        assert {float(one["step"]) for one in state.optimizer.state.values() if "step" in one} <= {2.0}


@pytest.mark.parametrize("like_a_gpu", [False, True], ids=["host", "device"])
def test_statistics_of_layers_are_not_spoiled(inpainting, like_a_gpu, monkeypatch):
    monkeypatch.setitem(readback.STEPS_AT_ONCE, "cpu", 10 if like_a_gpu else 1)
    experiment = build_experiment(load_spec(inpainting, ["model.backbone_net.batch_norm=true", "training.ema=null"]), CPU)
    state = new_state(experiment, None, 6)
    list(fit(experiment, state, 1, 1, CPU))
    before = {name: buffer.clone() for name, buffer in experiment.network.named_buffers() if buffer.is_floating_point()}
    batch = experiment.train.batch
    monkeypatch.setattr(type(experiment.train), "batch", lambda self, *args: (batch(*args)[0] * float("nan"), *batch(*args)[1:]))
    next(event for event in fit(experiment, state, 2, 9, CPU) if isinstance(event, Step) and event.skipped)
    assert before and all(torch.equal(value, dict(experiment.network.named_buffers())[name]) for name, value in before.items())


@pytest.mark.parametrize("like_a_gpu", [False, True], ids=["host", "device"])
def test_what_a_loss_learns_is_not_spoiled(inpainting, like_a_gpu, monkeypatch):
    monkeypatch.setitem(readback.STEPS_AT_ONCE, "cpu", 10 if like_a_gpu else 1)
    unsure = ["physics.noise_model={name: GaussianNoise, sigma: 0.1}", "training.ema=null"]
    loss = "losses=[{name: EquivariantSplittingLoss, consistency_loss: {name: SureGaussianLoss, unsure: true, sigma: 0.1}}]"
    experiment = build_experiment(load_spec(inpainting, [*unsure, loss]), CPU)
    state = new_state(experiment, None, 6)
    list(fit(experiment, state, 1, 1, CPU))
    before = {name: buffer.clone() for name, buffer in experiment.objective.learned().items()}
    batch = experiment.train.batch
    monkeypatch.setattr(type(experiment.train), "batch", lambda self, *args: (batch(*args)[0] * float("nan"), *batch(*args)[1:]))
    next(event for event in fit(experiment, state, 2, 9, CPU) if isinstance(event, Step) and event.skipped)
    assert before and all(torch.equal(value, experiment.objective.learned()[name]) for name, value in before.items())


def test_a_step_that_is_left_out_is_counted_in_the_metrics(inpainting, spoil):
    spoil.update({2: "loss", 5: "gradient"})
    notes = []
    model = train_in(inpainting.parent / "run", load_spec(inpainting), on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["skipped_steps"], row["backoffs"]) for row in rows] == [(3, 1, 0), (6, 2, 0)]
    assert all(row["loss"] == row["loss"] for row in rows)  # not NaN
    assert len(notes) == 1 and notes[0].startswith("step 2 is left out")


def test_training_goes_back_to_the_last_validation_with_half_the_rate(inpainting, spoil):
    spec = load_spec(inpainting, ["training.steps=12", "training.scheduler=CosineAnnealingLR"])
    experiment = build_experiment(spec, CPU)
    state = new_state(experiment, None, 12)
    spoil.update(dict.fromkeys(range(5, 5 + TOO_MANY), "loss"))
    seen, plain = [], {}
    for event in fit(experiment, state, 12, 4, CPU):  # the validation at step 8 comes after steps that were left out
        if isinstance(event, Step):
            plain.setdefault(event.step, event.lr)
        if isinstance(event, Note) and "goes back" in event.text:
            assert state.progress.step == 4 and state.progress.backoffs == 1
            spoil.clear()
        seen.append(event)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert "training goes back to step 4 with 0.5 times the learning rate" in notes[1] and "(1 of 3 times)" in notes[1]
    again = [event for event in seen[seen.index(next(e for e in seen if isinstance(e, Note) and e.text == notes[1])) :] if isinstance(event, Step)]
    assert [event.step for event in again] == list(range(5, 13)) and not any(event.skipped for event in again)
    assert [event.lr for event in again[:TOO_MANY]] == pytest.approx([BACK_OFF * plain[event.step] for event in again[:TOO_MANY]])
    assert [event.step for event in seen if isinstance(event, Validated)] == [4, 8, 8, 12]  # that after steps left out was none to go back to


@pytest.mark.parametrize("scheduler", ["{name: OneCycleLR, max_lr: 0.01}", "{name: CosineAnnealingLR, eta_min: 0.001}", "{name: StepLR, step_size: 1}", "{name: CyclicLR, base_lr: 0.001, max_lr: 0.01, cycle_momentum: false}"])
def test_the_shape_of_every_schedule_stays(inpainting, scheduler):
    from es_cli.training.schedule import multiply_rate

    rates = []
    for factor in (1.0, 0.25):
        state = new_state(build_experiment(load_spec(inpainting, [f"training.scheduler={scheduler}"]), CPU), None, 6)
        state.optimizer.step()
        state.step_schedule(1)
        multiply_rate(state.optimizer, state.scheduler, factor)
        rates.append([])
        for step in range(2, 6):
            rates[-1].append(state.optimizer.param_groups[0]["lr"])
            state.step_schedule(step)
    assert rates[1] == pytest.approx([0.25 * rate for rate in rates[0]])


class Killed(BaseException):
    pass


def test_a_run_that_goes_back_is_resumed_exactly_wherever_it_was_killed(inpainting):
    """A learning rate that is far too high, halved until it is not."""
    spec, count = load_spec(inpainting, WILD), 0

    def tally(event):
        nonlocal count
        count += isinstance(event, Step)

    whole = train_in(inpainting.parent / "whole", spec, on_event=tally)
    rows = [json.loads(line) for line in (whole.parent / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["backoffs"] > 3 and rows[-1]["skipped_steps"] >= TOO_MANY and count > 40
    for number, at in enumerate(range(3, count, count // 4)):
        seen = 0

        def kill(event, at=at):
            nonlocal seen
            seen += isinstance(event, Step)
            if seen == at:
                raise Killed

        folder = inpainting.parent / f"cut{number}"
        with pytest.raises(Killed):
            train_in(folder, spec, on_event=kill)
        assert resume(folder, device="cpu").read_bytes() == whole.read_bytes()
        again = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [(row["skipped_steps"], row["backoffs"], row["loss"]) for row in again] == [(row["skipped_steps"], row["backoffs"], row["loss"]) for row in rows]


def test_held_out_losses_that_are_not_finite_lead_back_too(inpainting, monkeypatch):
    from es_cli.training import loop

    held_out, calls = loop._held_out, []
    monkeypatch.setattr(loop, "_held_out", lambda *args: calls.append(1) or (held_out(*args)[0] * (float("nan") if len(calls) == 1 else 1), []))
    model = train_in(inpainting.parent / "run", load_spec(inpainting))
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["backoffs"]) for row in rows] == [(3, 1), (6, 1)]


@pytest.mark.parametrize("times", [0, 2])
def test_training_gives_up_after_so_many_times(inpainting, spoil, times, capfd):
    spoil.update(dict.fromkeys(range(1, 50), "loss"))
    with pytest.raises(Diverged, match=r"training diverged at step 5"):
        train_in(inpainting.parent / "run", load_spec(inpainting, [f"training.backoffs={times}", "training.validate_every=6", "training.steps=30"]))
    assert es(["train", str(inpainting), "training.steps=30", f"training.backoffs={times}", "training.validate_every=6", "-o", str(inpainting.parent / "cli")]) == 6
    err = capfd.readouterr().err
    assert "gradient_clip" in err and err.count("goes back") == times
