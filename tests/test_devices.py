"""Nothing of the method leaves the device of its data: seen without a GPU by fake tensors, and with one by a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval
from deepinv.physics import MRI, Denoising, GaussianNoise, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from problems import es
from torch._subclasses.fake_tensor import FakeTensorMode

from es_cli.networks.running import Running
from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.consistency import Measured, Recorrupted, Stein, Unsure
from es_cli.splitting.group import named_group
from es_cli.splitting.masks import LineSplittingMaskGenerator, draw_split, sampling_mask
from es_cli.splitting.objective import EquivariantSplitting, Pass
from es_cli.splitting.unrolled import DataConsistentMoDL
from es_cli.splitting.virtual import split_operator

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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["Inpainting", "MRI", "Denoising"])
def test_a_step_in_low_precision_keeps_the_physics_in_float32_on_the_device(kind, precision, monkeypatch):
    shape = (2 if kind == "MRI" else 1, SIZE, SIZE)
    group = named_group("D4", shape)
    elements = group.draw(3, 5)
    seen = {"network": set(), "physics": set()}
    monkeypatch.setattr(torch, "Generator", AnywhereGenerator)
    monkeypatch.setattr(Network, "forward", lambda self, x, sigma=None: self.conv(x))  # x + would make float32 of it again
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        physics, splitter, made, term = problem(kind, lambda: Recorrupted(torch.nn.MSELoss()))
        cls = type(split_operator(physics, torch.ones(1, *shape, device="cuda"), torch.zeros(1, *shape, device="cuda")))
        for name in ("A", "A_adjoint"):
            watched = getattr(cls, name)
            monkeypatch.setattr(cls, name, lambda self, x, _f=watched, **kwargs: seen["physics"].add(x.dtype) or _f(self, x, **kwargs))
        Running(torch.device("cuda"), precision).take(made, physics, shape)
        for inner in made.modules():
            if isinstance(inner, torch.nn.Conv2d):
                inner.register_forward_hook(lambda module, args, image: seen["network"].add((image.dtype, image.device.type)))
        y = torch.zeros(3, *shape, device="cuda")
        mask = draw_split(splitter, y.shape, sampling_mask(physics), 7)
        value = EquivariantSplitting(group, splitter, term, MCLoss()).value(Pass(made, physics, y, None, 1), mask, elements)
        assert value.device.type == "cuda" and value.dtype == torch.float32 and value.requires_grad
    assert seen == {"network": {(getattr(torch, precision), "cuda")}, "physics": {torch.float32}}


@pytest.mark.cuda
@pytest.mark.parametrize("problem_fixture", ["inpainting", "mri"])
@pytest.mark.parametrize("changes", [["training.precision=float16"], ["training.precision=bfloat16", "training.compile=true"]], ids=["float16", "bfloat16, compiled"])
def test_a_run_in_low_precision_on_cuda_is_close_to_float32(problem_fixture, changes, request, tmp_path):
    spec = request.getfixturevalue(problem_fixture)
    held_out = []
    for name, given in (("full", ["training.precision=float32"]), ("low", changes)):
        assert es(["train", str(spec), *given, "training.steps=40", "training.gradient_clip=1", "-o", str(tmp_path / name), "--device", "cuda"]) == 0
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        held_out.append(json.loads(rows[-1])["validation_loss"])
    assert held_out[0] != held_out[1] and np.isclose(*held_out, rtol=0.2)


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
