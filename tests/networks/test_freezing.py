"""Frozen parts: bitwise as they were, without gradient or optimizer state, and named by patterns."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import es, network, train_in, write_spec
from torch import nn

from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.experiment import build_experiment
from es_cli.networks.freezing import freeze, matches
from es_cli.training.loop import fit, new_state


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 2, 3)
        self.denoiser = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
        self.tail = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.tail(self.denoiser(self.head(x)))


@pytest.mark.parametrize(
    ("name", "pattern", "found"),
    [
        ("prior.0.denoiser.Conv1.0.weight", "denoiser.*", True),
        ("prior.0.denoiser.Conv1.0.weight", "prior.*", True),
        ("prior.0.denoiser.Conv1.0.weight", "*.weight", True),
        ("prior.0.denoiser.Conv1.0.weight", "Conv[12].*", True),
        ("prior.0.denoiser.Conv1.0.weight", "denoise", False),
        ("prior.0.denoiser.Conv1.0.weight", "oiser.*", False),
        ("prior.0.denoiser.Conv1.0.weight", "Denoiser.*", False),
    ],
)
def test_patterns_start_at_any_part_of_a_name(name, pattern, found):
    assert matches(name, [pattern]) is found


def test_frozen_parameters_are_those_that_match():
    net = Net()
    freeze(net, ["denoiser.*", "head.bias"])
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["head.weight", "tail.weight", "tail.bias"]


@pytest.mark.parametrize("wrap", [lambda net: net, copy.deepcopy], ids=["itself", "a copy"])
def test_frozen_statistics_stay_whoever_switches_to_training(wrap):
    """Trap 21: copies keep it too."""
    net = Net()
    freeze(net, ["denoiser.*"])
    net = wrap(net).train()
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 1, 9, 9) + 3)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"tail.running_mean", "tail.running_var", "tail.num_batches_tracked"}


def test_a_half_frozen_normalisation_goes_on_counting():
    net = Net()
    freeze(net, ["*.bias"])
    net.train()(torch.randn(4, 1, 9, 9))
    assert net.denoiser[1].num_batches_tracked == 1


@pytest.mark.parametrize(("pattern", "hint"), [("denoizer.*", "did you mean denoiser.*"), ("qqqq", "its parameters are head.weight, head.bias")])
def test_a_pattern_that_matches_nothing_names_what_is_near(pattern, hint):
    with pytest.raises(SpecError) as caught:
        freeze(Net(), ["head.*", pattern])
    (fault,) = caught.value.faults
    assert fault.where == "training.freeze.1" and f"'{pattern}'" in fault.what and fault.hint.startswith(hint)


@pytest.mark.parametrize("optimizer", [{"name": "AdamW", "lr": 0.01, "weight_decay": 0.1}, {"name": "SGD", "lr": 0.01, "momentum": 0.9}])
def test_training_leaves_frozen_parts_bitwise_and_without_optimizer_state(inpainting, optimizer):
    model = {"name": "ArtifactRemoval", "backbone_net": {**network(1), "batch_norm": True}}
    training = {"steps": 4, "batch_size": 4, "optimizer": optimizer, "freeze": ["Conv1.*", "Up2.*"], "preview": False}
    spec = load_spec(write_spec(inpainting, model=model, training=training))
    experiment = build_experiment(spec, torch.device("cpu"))
    state = new_state(experiment, None, 4)
    before = copy.deepcopy(experiment.network.state_dict())
    list(fit(experiment, state, 4, 2, torch.device("cpu")))
    after = experiment.network.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    left = {name for name in before if ".Conv1." in name or ".Up2." in name}
    assert left <= same and not any(name.endswith("weight") for name in same - left)
    frozen = [p for name, p in experiment.network.named_parameters() if name in left]
    assert frozen and all(p.grad is None for p in frozen)
    assert not {id(p) for p in frozen} & {id(p) for p in state.optimizer.state}


def test_moving_average_keeps_frozen_parts_too(inpainting):
    spec = load_spec(inpainting, ["training.freeze=[Conv1.*]", "training.ema=0.5"])
    assert train_in(inpainting.parent / "run", spec).is_file()


def test_faults_of_freezing_end_before_training_and_replace_no_run(inpainting, capfd):
    run = inpainting.parent / "run"
    kept = train_in(run, load_spec(inpainting)).read_bytes()
    assert es(["train", str(inpainting), "training.freeze=Konv1.*", "-o", str(run), "--overwrite"]) == 2
    assert "did you mean Conv1.*" in capfd.readouterr().err
    assert (run / "model.safetensors").read_bytes() == kept
    assert es(["train", str(inpainting), "training.freeze=['*']", "-o", str(inpainting.parent / "new")]) == 2
    assert "nothing is left to train" in capfd.readouterr().err
    assert not (inpainting.parent / "new").exists()


@pytest.mark.parametrize(("given", "kept"), [("[a.*, b]", ("a.*", "b")), ("a.*", ("a.*",)), ("null", ())])
def test_freeze_is_a_list_of_patterns_or_one(inpainting, given, kept):
    assert load_spec(inpainting, [f"training.freeze={given}"]).training.freeze == kept
