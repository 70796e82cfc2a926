"""What the benchmarks measure is what they say: deepinv's own model, the same network at another size."""

from __future__ import annotations

import deepinv_recipe
import large_images
import numpy as np
import pytest
import synthetic
import torch
from deepinv.loss import R2RLoss
from deepinv.physics import MRI, GaussianNoise, Inpainting
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.reconstruct import Reconstructor
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.virtual import split_operator, virtual_operator


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, y, physics, **kwargs):
        self.calls += len(y)
        return physics.A_adjoint(y)


@pytest.fixture
def lines():
    return torch.zeros(8, 8).index_fill_(1, torch.tensor([1, 3, 4, 6]), 1.0)


@pytest.mark.parametrize(("consistency", "calls"), [(None, 40), (R2RLoss(alpha=0.2), 200)], ids=["plain", "R2R"])
def test_deepinvs_model_calls_the_network_once_for_each_split_and_element(consistency, calls):
    physics = Inpainting((3, 8, 8), mask=(torch.rand(1, 8, 8) < 0.5).float().expand(3, -1, -1), noise_model=GaussianNoise(0.1))
    network = Counting()
    deepinv_recipe.adapted(network, physics, consistency)(physics.A(torch.rand(1, 3, 8, 8)), physics)
    assert network.calls == calls


def test_both_proximal_steps_that_are_timed_solve_the_same_problem(lines):
    physics, g = MRI(mask=lines), Batch(named_group("D4", (8, 8)).sample(3, seed=1))
    y, z = physics.A(torch.rand(3, 2, 8, 8)), torch.rand(3, 2, 8, 8)
    mask = lines.clone().index_fill_(1, torch.tensor([3]), 0.0).expand(y.shape)
    ours = virtual_operator(split_operator(physics, mask, y), g, True).prox_l2(z, mask * y, 10.0)
    theirs = deepinv_recipe.virtual(physics, mask, y, g).prox_l2(z, mask * y, 10.0)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_made_up_measurements_are_zero_where_nothing_was_measured(task, tmp_path):
    spec = synthetic.spec_in(tmp_path, task, ["training.steps=3"])
    folder = tmp_path / "tasks" / task
    mask, y = np.load(folder / "mask.npy"), np.load(folder / "train_y.npy")
    assert spec.training.steps == 3
    assert 0 < mask.mean() < 0.5
    assert (y * (1 - mask) == 0).all()
    assert (y != 0).any()


def test_an_enlarged_checkpoint_reconstructs_images_of_its_new_size(inpainting, tmp_path):
    checkpoint = train_in(tmp_path / "run", load_spec(inpainting, ["training.steps=1"]))
    large_images.enlarge(checkpoint, tmp_path / "large.safetensors", 24)
    small, large = Reconstructor.load(checkpoint), Reconstructor.load(tmp_path / "large.safetensors")
    assert large.reconstruct(np.ones((24, 24), np.float32)).shape == (24, 24)
    assert large.network_calls == small.network_calls
    assert torch.equal(large.made.operator.physics.mask[..., :16, :16], small.made.operator.physics.mask)
