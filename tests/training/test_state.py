"""What float16 needs: gradients that are scaled, steps that are left out where they overflow, and both resumed."""

from __future__ import annotations

import pytest
import torch

from es_cli.catalog import load_spec
from es_cli.experiment import build_experiment
from es_cli.networks.running import Running
from es_cli.training.events import Step
from es_cli.training.folder import claim
from es_cli.training.loop import fit, new_state
from es_cli.training.run import resume, train
from es_cli.training.state import TrainingState

CPU = torch.device("cpu")


def state_with(experiment, scale):
    """A state whose loss is scaled, as that of float16 on a GPU is; scaling works on the CPU too."""
    state = new_state(experiment, None, 6)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return state


def test_scaling_changes_nothing_but_the_scale(inpainting):
    """By a power of two and back: gradients are the same to the last bit, also where they are clipped."""
    spec = load_spec(inpainting, ["training.gradient_clip=0.1", "training.ema=null"])
    trained = []
    for scale in (None, 2.0**10):
        experiment = build_experiment(spec, CPU)
        state = state_with(experiment, scale) if scale else new_state(experiment, None, 6)
        losses = [event.loss for event in fit(experiment, state, 6, 6, CPU) if isinstance(event, Step)]
        trained.append([*losses, *(p.detach().clone() for p in experiment.network.parameters())])
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*trained, strict=True))
    assert state.scaler.get_scale() == 2.0**13  # doubled after every second step


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_is_lowered(inpainting):
    experiment = build_experiment(load_spec(inpainting, ["training.ema=null"]), CPU)
    before = [p.detach().clone() for p in experiment.network.parameters()]
    state = state_with(experiment, 2.0**126)
    list(fit(experiment, state, 1, 2, CPU))
    assert all(torch.equal(a, b) for a, b in zip(before, experiment.network.parameters(), strict=True))
    assert state.scaler.get_scale() == 2.0**125 and state.progress.step == 1


def test_the_scale_is_resumed(inpainting, tmp_path):
    experiment = build_experiment(load_spec(inpainting, ["training.ema=null"]), CPU)
    state = state_with(experiment, 2.0**10)
    list(fit(experiment, state, 3, 3, CPU))
    state.save(tmp_path / "state.safetensors")
    again = state_with(build_experiment(load_spec(inpainting, ["training.ema=null"]), CPU), 1.0)
    again.load(tmp_path / "state.safetensors")
    assert again.scaler.state_dict() == state.scaler.state_dict() and again.scaler.get_scale() == 2.0**11 and again.scaler._get_growth_tracker() == 1


def test_a_state_of_a_run_without_scaling_is_read_by_one_with_it_and_the_other_way_round(inpainting, tmp_path):
    spec = load_spec(inpainting, ["training.ema=null"])
    scaled, plain = state_with(build_experiment(spec, CPU), 4.0), new_state(build_experiment(spec, CPU), None, 6)
    for source, target in ((scaled, plain), (plain, scaled)):
        source.save(tmp_path / "state.safetensors")
        target.load(tmp_path / "state.safetensors")
    assert plain.scaler is None and scaled.scaler.get_scale() == 4.0


def test_float16_scales_its_gradients_and_nothing_else_does(inpainting):
    experiment = build_experiment(load_spec(inpainting), CPU)
    made = {precision: new_state(experiment, None, 1, Running(torch.device("cuda"), precision)).scaler for precision in ("tf32", "bfloat16")}
    assert made == {"tf32": None, "bfloat16": None}
    assert Running(torch.device("cuda"), "float16").scales_gradients


@pytest.mark.parametrize(
    ("device", "optimizer", "expected"),
    [("cpu", "AdamW", None), ("cuda", "AdamW", True), ("cuda", "{name: AdamW, fused: false}", False), ("cuda", "{name: SGD, foreach: true}", None), ("cuda", "Adagrad", None)],
)
def test_the_optimizer_is_one_kernel_on_a_gpu_unless_the_spec_says_otherwise(device, optimizer, expected, inpainting):
    experiment = build_experiment(load_spec(inpainting, [f"training.optimizer={optimizer}"]), CPU)
    assert new_state(experiment, None, 1, Running(torch.device(device))).optimizer.defaults["fused"] is expected


@pytest.mark.cuda
def test_a_run_in_float16_goes_on_with_the_scale_that_it_had(inpainting, monkeypatch):
    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Step) and event.step == 6:
            raise Cut

    saved, loaded = [], []
    snapshot, restore = TrainingState.snapshot, TrainingState.restore
    monkeypatch.setattr(TrainingState, "snapshot", lambda self: saved.append(self.scaler.get_scale()) or snapshot(self))
    monkeypatch.setattr(TrainingState, "restore", lambda self, held: restore(self, held) or loaded.append(self.scaler.get_scale()))
    spec = load_spec(inpainting, ["training.precision=float16", "training.steps=10", "training.validate_every=5"])
    with pytest.raises(Cut):
        train(spec, claim(spec, inpainting.parent / "cut"), device="cuda", on_event=cut)
    before = saved[-1]
    assert resume(inpainting.parent / "cut", device="cuda").is_file()
    assert loaded == [before]
