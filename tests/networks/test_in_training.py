"""Networks inside the objective: copies of it, what is kept of a validation, and a whole training of an equivariant network without a group."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from problems import network, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.evaluate import evaluate
from es_cli.experiment import build_experiment
from es_cli.reconstruct import Reconstructor
from es_cli.training.loop import fit, new_state

CPU = torch.device("cpu")
EQUIVARIANT = {"name": "ArtifactRemoval", "backbone_net": {"name": "EquivariantUNet", "channels_per_scale": [16, 16]}}


def experiment(spec, **changes):
    return build_experiment(load_spec(write_spec(spec, **changes)), CPU)


@pytest.mark.parametrize("model", [EQUIVARIANT, {"name": "Unrolled", "denoiser": network(1), "num_iter": 2}], ids=["equivariant", "unrolled"])
def test_a_copy_of_the_objective_trains_its_own_network(inpainting, model):
    """Trap 21: deepinv's losses find their model by identity, and copies raise "Unregistered model"."""
    made = experiment(inpainting, model=model)
    y, _, _ = made.train.batch([0, 1], CPU)
    physics = made.operator.physics
    twin = copy.deepcopy(made.objective)
    value = made.objective(y, physics, 7)[0]
    twin_value = twin(y, physics, 7)[0]
    assert torch.equal(value, twin_value)
    twin_value.backward()
    assert all(p.grad is None for p in made.network.parameters())
    assert any(p.grad is not None for p in twin.network.parameters())


@pytest.mark.parametrize("loss", ["EquivariantSplittingLoss", {"name": "SplittingLoss", "eval_n_samples": 1}], ids=["ours", "deepinv's"])
def test_validation_keeps_no_graph(inpainting, loss):
    """Trap 23: deepinv's SplittingModel switches gradients on by itself, whatever no_grad says around it."""
    made = experiment(inpainting, losses=[loss])
    seen = []
    made.network.register_forward_hook(lambda module, inputs, output: seen.append((torch.is_grad_enabled(), output.requires_grad)))
    state = new_state(made, None, 2)
    training = seen_validation = 0
    for event in fit(made, state, 2, 1, CPU):
        if type(event).__name__ == "Step":
            training += (True, True) in seen
        if type(event).__name__ == "Validated":
            seen_validation += (False, False) in seen and (True, True) not in seen
        seen.clear()
    assert (training, seen_validation) == (2, 2)
    assert torch.is_grad_enabled()


def test_an_equivariant_network_learns_without_a_group_and_is_averaged_over_none(inpainting):
    """`transforms: none` is a real choice: one network call for an image, and the loss is that of every g."""
    spec = load_spec(write_spec(inpainting, model=EQUIVARIANT, transforms="none"), ["training.steps=150", "training.validate_every=50"])
    model = train_in(inpainting.parent / "run", spec)
    result = evaluate(model).to_dict()
    assert result["network_calls"] == 1
    assert result["metrics"]["PSNR"]["mean"] > result["baselines"]["adjoint"]["PSNR"]["mean"] + 6
    loaded = Reconstructor.load(model, "cpu")
    y = np.load(inpainting.parent / "test_y.npy")[:2]
    averaged = load_spec(write_spec(inpainting, model=EQUIVARIANT))
    made = build_experiment(averaged, CPU)
    made.network.load_state_dict(loaded.made.network.state_dict())
    assert np.allclose(made.reconstruction(torch.from_numpy(y)).numpy(), loaded.reconstruct(y), atol=1e-5)
