"""No step waits for the device; what it computed is read when it has come, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.experiment import build_experiment
from es_cli.networks.running import Running
from es_cli.training import readback as module
from es_cli.training.events import Resting, Step, Validated
from es_cli.training.loop import fit, new_state
from es_cli.training.readback import Readback
from es_cli.training.run import resume
from es_cli.training.stepping import Made

CPU = torch.device("cpu")
# ways from a tensor to a number; each makes a GPU catch up
ASKING = ("item", "tolist", "__float__", "__int__", "__bool__", "__index__", "numpy", "cpu")


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Losses are asked for seldom, as on a GPU."""
    monkeypatch.setitem(module.STEPS_AT_ONCE, "cpu", 10)


@pytest.mark.parametrize("physics", ["inpainting", "mri"])
@pytest.mark.parametrize("consistency", [{}, {"name": "R2RLoss", "alpha": 0.2}, {"name": "SureGaussianLoss", "unsure": True}], ids=["none", "r2r", "unsure"])
def test_steps_between_validations_ask_the_device_for_nothing(physics, consistency, request, like_a_gpu, monkeypatch):
    """Integers are draws that never leave the host; the optimizer is SGD, since AdamW's own count of steps lies on the host."""
    spec = request.getfixturevalue(physics)
    changes = ["training.optimizer={name: SGD, lr: 0.01}", "training.scheduler={name: OneCycleLR, max_lr: 0.01}", "training.gradient_clip=1.0"]
    if consistency:
        changes += ["physics.noise_model={name: GaussianNoise, sigma: 0.1}", f"losses.0={{name: EquivariantSplittingLoss, consistency_loss: {json.dumps(consistency)}}}"]
    experiment = build_experiment(load_spec(spec, [*changes, "data.scale=per-sample"]), CPU)
    state = new_state(experiment, None, 6)
    good = state.snapshot()
    asked: list[str] = []
    for name in ASKING:
        original = getattr(torch.Tensor, name)

        def watched(self, *args, _name=name, _original=original, **kwargs):
            if self.is_floating_point() or self.dtype == torch.bool:
                asked.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, watched)
    before_validation: list[int] = []
    events = fit(experiment, state, 6, 3, CPU, good=good)
    seen = []
    for event in events:
        if isinstance(event, Step) and event.step in (1, 4):
            # the losses of the three steps before a validation come together, just before it
            before_validation.append(len(asked))
        if isinstance(event, Resting):
            asked.clear()
        seen.append(event)
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]
    assert before_validation == [1, 1]  # the one look at all of them


def test_a_step_that_asked_would_be_seen(inpainting, like_a_gpu, monkeypatch):
    """The test above is no decoration."""
    from es_cli.training import stepping

    descend = stepping._descend
    monkeypatch.setattr(stepping, "_descend", lambda state, loss, *rest: (float(loss.detach()), descend(state, loss, *rest))[1])

    class Inpainting:
        def getfixturevalue(self, name):
            return inpainting

    with pytest.raises(AssertionError):
        test_steps_between_validations_ask_the_device_for_nothing("inpainting", {}, Inpainting(), like_a_gpu, monkeypatch)


def test_losses_that_come_late_are_the_same(inpainting, monkeypatch):
    runs = []
    for at_once in (1, 4, 10):
        monkeypatch.setitem(module.STEPS_AT_ONCE, "cpu", at_once)
        experiment = build_experiment(load_spec(inpainting), CPU)
        events = fit(experiment, new_state(experiment, None, 6), 6, 5, CPU)
        runs.append([(e.step, e.loss, e.lr, e.terms) if isinstance(e, Step) else (e.step, e.loss) for e in events if isinstance(e, (Step, Validated))])
    assert runs[0] == runs[1] == runs[2] and [one[0] for one in runs[0]] == [1, 2, 3, 4, 5, 5, 6, 6]


class Event:
    """Of a GPU that has not caught up until it is told."""

    done = False

    def query(self):
        return self.done

    def synchronize(self):
        self.done = True


def test_steps_are_read_when_they_have_come_and_in_order(monkeypatch):
    monkeypatch.setitem(module.STEPS_AT_ONCE, "cpu", 2)
    made, events = Readback(CPU), [Event(), Event(), Event()]
    sends = iter(events)
    monkeypatch.setattr(made, "_send", lambda send=made._send: (send(), made._sent.append(module._OnTheWay(*_parts(made._sent.pop()), next(sends))))[0])
    for step in range(1, 6):
        made.add(step, Made(torch.tensor(float(step)), {"es": torch.tensor(2.0 * step)}, torch.tensor(True)), 0.1, 0.0)
    assert list(made.read()) == []
    events[1].done = True
    assert list(made.read()) == []  # the first comes first
    events[0].done = True
    assert [(one.step, one.loss, one.terms) for one in made.read()] == [(step, float(step), {"es": 2.0 * step}) for step in (1, 2, 3, 4)]
    assert [one.step for one in made.read(wait=True)] == [5] and events[2].done


def _parts(sent):
    return sent.made, sent.values


def test_a_step_that_was_left_out_is_reported_as_such():
    made = Readback(CPU)
    made.add(7, Made(torch.tensor(float("nan")), {}, torch.tensor(False)), 0.1, 0.0)
    (step,) = made.read()
    assert step.step == 7 and step.skipped and step.loss != step.loss


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_run_whose_losses_come_late_is_resumed_without_losing_a_validation(inpainting, like_a_gpu, stop_at):
    """The steps before a validation are told about when all of them are made: the validation must still be there."""
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting))

    def stop(event):
        if isinstance(event, Step) and event.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(BaseException, match="signal 2"):
        train_in(inpainting.parent / "cut", load_spec(inpainting), on_event=stop)
    resumed = resume(inpainting.parent / "cut", device="cpu")
    assert resumed.read_bytes() == whole.read_bytes()
    assert [json.loads(line)["step"] for line in (resumed.parent / "metrics.jsonl").read_text().splitlines()] == [3, 6]


@pytest.mark.cuda
@pytest.mark.parametrize("problem", ["inpainting", "mri"])
@pytest.mark.parametrize("share", [0.25, 0.0], ids=["kept", "read ahead"])
def test_no_step_waits_for_the_gpu(problem, share, request, monkeypatch):
    """torch itself raises where something waits; the first steps may, while algorithms are tried out."""
    from es_cli.training import feeding, loop

    monkeypatch.setattr(feeding, "SHARE", share)
    device = torch.device("cuda")
    spec = load_spec(request.getfixturevalue(problem), ["training.gradient_clip=1.0"])
    experiment = build_experiment(spec, device)
    state = new_state(experiment, None, 60, Running(device))
    step = loop.make_step

    def strict(experiment, state, number, *rest, **options):
        torch.cuda.set_sync_debug_mode("error" if number > 20 else "default")
        try:
            return step(experiment, state, number, *rest, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "make_step", strict)
    events = list(fit(experiment, state, 60, 30, device))
    assert [event.step for event in events if isinstance(event, Step)] == list(range(1, 61))


def test_once_a_run_is_to_stop_every_loss_is_read_first(inpainting, like_a_gpu):
    """On a GPU losses come ten steps late: a state must not be saved over the last good one before they are known to be finite."""
    made = build_experiment(load_spec(inpainting), torch.device("cpu"))
    for stopping, first in ((False, 10), (True, 1)):
        state = new_state(made, None, 20)
        next(fit(made, state, 20, 20, torch.device("cpu"), lambda stopping=stopping: stopping))
        assert state.progress.step == first
