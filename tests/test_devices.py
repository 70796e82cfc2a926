"""Nothing of the method leaves the device of its data: seen without a GPU by fake tensors, and with one by a whole run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval
from deepinv.physics import MRI, Denoising, GaussianNoise, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from problems import es
from torch._subclasses.fake_tensor import FakeTensorMode

from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.consistency import Measured, Recorrupted, Stein, Unsure
from es_cli.splitting.group import named_group
from es_cli.splitting.masks import LineSplittingMaskGenerator, draw_split, sampling_mask
from es_cli.splitting.objective import EquivariantSplitting, Pass
from es_cli.splitting.unrolled import DataConsistentMoDL

SIZE = 16


class AnywhereGenerator(torch.Generator):
    """A generator that says it lives where it was asked for; a real one of CUDA cannot be made without a GPU."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.where = torch.device(device)
        return made

    device = property(lambda self: self.where)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class Network(torch.nn.Module):
    """deepinv's own networks move themselves when they are made, which fake parameters do not survive."""

    def __init__(self, channels):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, sigma=None):
        return x + self.conv(x)


def problem(kind, term):
    """Physics, splitter, network and consistency term of a kind, on the fake GPU. Only here is it the default device."""
    with torch.device("cuda"):
        mask, noise = torch.ones(1, SIZE, SIZE), GaussianNoise(torch.full((1,), 0.1))
        if kind == "MRI":
            physics, splitter = MRI(mask=mask[0], noise_model=noise, device="cuda"), LineSplittingMaskGenerator((2, SIZE, SIZE), center_lines=2, device="cuda")
            return physics, splitter, DataConsistentMoDL(Network(2)), term()
        physics = Denoising(noise, device="cuda") if kind == "Denoising" else Inpainting((1, SIZE, SIZE), mask=mask, noise_model=noise, device="cuda")
        return physics, BernoulliSplittingMaskGenerator((1, SIZE, SIZE), 0.7, device="cuda"), ArtifactRemoval(Network(1)), term()


@pytest.mark.parametrize("kind", ["Inpainting", "MRI", "Denoising"])
@pytest.mark.parametrize(
    "term",
    [lambda: Measured(MCLoss()), lambda: Recorrupted(torch.nn.MSELoss()), lambda: Stein(second_derivative=True), lambda: Unsure(0.1)],
    ids=["measured", "recorrupted", "stein", "unsure"],
)
def test_a_step_and_an_average_stay_on_the_device(kind, term, monkeypatch):
    shape = (2 if kind == "MRI" else 1, SIZE, SIZE)
    group = named_group("D4", shape)
    elements = group.draw(3, 5)
    monkeypatch.setattr(torch, "Generator", AnywhereGenerator)
    with FakeTensorMode(allow_non_fake_inputs=True):
        physics, splitter, made, term = problem(kind, term)
        y = torch.zeros(3, *shape, device="cuda")
        mask = draw_split(splitter, y.shape, sampling_mask(physics), 7)
        assert mask.device.type == "cuda"
        loss = EquivariantSplitting(group, splitter, term, MCLoss())
        scale = torch.ones(3, device="cuda")
        value = loss.value(Pass(made, physics, y, None, 1, scale), mask, elements)
        # backwards through the same operations; its engine asks for a real device
        assert value.device.type == "cuda" and value.requires_grad
        for complementary in (False, True):
            rule = TestRule(2, tuple(group.elements()), complementary=complementary)
            image = average(made, y, physics, rule, group, splitter, consistency=term, noise=physics.noise_model)
            assert image.device.type == "cuda" and image.shape == y.shape


def test_a_tensor_on_the_wrong_device_would_be_seen(monkeypatch):
    """The test above is no decoration: with a mask that was left on the CPU it fails."""
    from es_cli.splitting import masks

    kept = masks.draw_split
    monkeypatch.setitem(globals(), "draw_split", lambda *args: kept(*args).new_zeros(3, 1, SIZE, SIZE, device="cpu"))
    with pytest.raises((RuntimeError, AssertionError)):
        test_a_step_and_an_average_stay_on_the_device("Inpainting", lambda: Measured(MCLoss()), monkeypatch)


@pytest.mark.cuda
@pytest.mark.parametrize("problem_fixture", ["inpainting", "mri"])
def test_train_evaluate_reconstruct_on_cuda(problem_fixture, request, tmp_path):
    spec = request.getfixturevalue(problem_fixture)
    assert es(["train", str(spec), "-o", str(tmp_path / "run"), "--device", "cuda"]) == 0
    model = str(tmp_path / "run" / "model.safetensors")
    assert es(["evaluate", "--ckpt", model, "--device", "cuda", "--json"]) == 0
    for device in ("cuda", "cpu"):
        assert es(["reconstruct", "--ckpt", model, str(spec.parent / "test_y.npy"), "-o", str(tmp_path / f"{device}.npy"), "--device", device]) == 0
    assert np.allclose(np.load(tmp_path / "cuda.npy"), np.load(tmp_path / "cpu.npy"), atol=1e-3)
