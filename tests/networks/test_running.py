"""Backbones in lower precision or compiled; the physics, the weights and the checkpoint stay as they are."""

from __future__ import annotations

import copy
import os
import signal

import numpy as np
import pytest
import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval, MoDL, Reconstructor, SRResNet, UNet, VarNet
from deepinv.physics import MRI, Inpainting, LinearPhysics, Tomography
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from problems import es, train_in, write_spec

from es_cli import reconstruct
from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.errors import DeviceError, SpecError, UsageError
from es_cli.networks import running as module
from es_cli.networks.running import Running, backbones, tensor_float_32
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import named_group
from es_cli.splitting.objective import EquivariantSplitting, Objective
from es_cli.splitting.unrolled import DataConsistentMoDL, Unrolled
from es_cli.training.events import Note, Step, Validated
from es_cli.training.run import resume

CPU = torch.device("cpu")
SIZE = 16
BFLOAT16 = "training.precision=bfloat16"


def unet(channels):
    """Without a residual connection, which would make float32 again of what is computed."""
    return UNet(channels, channels, residual=False, batch_norm=False, channels_per_scale=[4, 8])


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    """torch keeps what it has compiled of a class, and stops trying after so many ways."""
    torch._dynamo.reset()


class Plain(torch.nn.Module):
    """A network that is no class of deepinv's."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, sigma=None):
        return self.conv(x)


def inpainting_operator():
    return Inpainting((1, SIZE, SIZE), mask=torch.ones(1, SIZE, SIZE)), (1, SIZE, SIZE)


def mri_operator():
    mask = torch.zeros(SIZE, SIZE)
    mask[:, ::2] = 1
    return MRI(mask=mask), (2, SIZE, SIZE)


def tomography_operator():
    return Tomography(6, img_width=SIZE, normalize=True), (1, SIZE, SIZE)


KINDS = {
    "artifact removal": (lambda: ArtifactRemoval(unet(1)), inpainting_operator, ["backbone_net"]),
    "any network": (lambda: ArtifactRemoval(Plain(), mode="pinv"), tomography_operator, ["backbone_net"]),
    "MoDL, its own denoiser": (MoDL, mri_operator, ["prior.0.denoiser"]),
    "MoDL": (lambda: DataConsistentMoDL(unet(2), num_iter=2), mri_operator, ["prior.0.denoiser"]),
    "each its own": (lambda: Unrolled(unet(2), "ADMM", num_iter=2, shared=False), mri_operator, [f"algorithm.prior.{i}.denoiser" for i in range(2)]),
    "tomography": (lambda: Unrolled(unet(1), "PGD", num_iter=2), tomography_operator, ["algorithm.prior.0.denoiser"]),
    "VarNet": (lambda: VarNet(unet(2), num_cascades=2), mri_operator, ["backbone_net.0.denoiser"]),
    "end-to-end VarNet": (lambda: VarNet(unet(2), num_cascades=2, mode="e2e-varnet"), mri_operator, ["backbone_net.0.denoiser"]),
    "told of the operator": (
        lambda: SRResNet(num_blocks=1, im_c=1, feats=4, upscale=1, pretrained=None),
        inpainting_operator,
        ["fe", "blocks", "block", "final_conv"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_backbones_are_the_outermost_parts_that_know_no_operator(kind):
    make, operator, expected = KINDS[kind]
    network, (physics, shape) = make(), operator()
    names = {inner: name for name, inner in network.named_modules()}
    found = backbones(network, physics.A(torch.zeros(1, *shape)), physics)
    assert [names[one] for one in found] == expected
    assert not any(inner._forward_hooks or inner._forward_pre_hooks for inner in network.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_in_bfloat16_and_the_physics_in_float32(kind, monkeypatch):
    make, operator, _ = KINDS[kind]
    (physics, shape), network = operator(), make()
    names = list(network.state_dict())
    seen = {"physics": set(), "network": set()}
    for method in ("A", "A_adjoint", "A_dagger", "prox_l2"):
        original = getattr(type(physics), method)

        def watched(self, *args, _original=original, **kwargs):
            seen["physics"].update(a.dtype for a in args if isinstance(a, torch.Tensor))
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(type(physics), method, watched)
    Running(CPU, "bfloat16").take(network, physics, shape)
    for inner in network.modules():
        if isinstance(inner, torch.nn.Conv2d):
            inner.register_forward_hook(lambda module, args, made: seen["network"].add(made.dtype))
    image = network(physics.A(torch.rand(2, *shape)), physics)
    image.square().mean().backward()
    assert seen["physics"] == {torch.float32} and seen["network"] == {torch.bfloat16}
    assert image.dtype == torch.float32 and list(network.state_dict()) == names
    assert {p.dtype for p in network.parameters()} == {torch.float32} and {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


def test_a_physics_that_got_bfloat16_would_be_seen():
    """The tests above are no decoration: these operators refuse what a network in bfloat16 would give them (trap 26)."""
    for physics, shape in (mri_operator(), tomography_operator()):
        with pytest.raises(RuntimeError):
            physics.A(torch.rand(1, *shape, dtype=torch.bfloat16)).sum().item()


def test_a_copy_of_a_network_runs_with_its_own_weights():
    physics, shape = inpainting_operator()
    network = Running(CPU, "bfloat16").take(ArtifactRemoval(unet(1)), physics, shape)
    twin = copy.deepcopy(network)
    y = torch.rand(1, *shape)
    before = network(y, physics)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(twin(y, physics), before) and not torch.equal(network(y, physics), before)


def test_what_cannot_run_apart_from_the_operator_is_refused():
    class Whole(Reconstructor):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, y, physics):
            return self.weight * physics.A_adjoint(y)

    class Picky(Plain):
        def forward(self, x, sigma=None):
            return torch.complex(self.conv(x), self.conv(x)).abs()

    physics, shape = inpainting_operator()
    for network, said in ((Whole(), "no part that runs apart"), (ArtifactRemoval(Picky()), "does not run in bfloat16")):
        with pytest.raises(SpecError, match=said):
            Running(CPU, "bfloat16").take(network, physics, shape)


def test_precisions_that_cannot_be_are_refused(inpainting, capfd):
    with pytest.raises(UsageError, match="half"):
        Running(CPU, "half")
    with pytest.raises(DeviceError, match="bfloat16"):
        Running(CPU, "float16")
    assert es(["train", str(inpainting), "training.precision=float16", "--device", "cpu", "-o", str(inpainting.parent / "run")]) == 5
    assert es(["train", str(inpainting), "training.precision=half"]) == 2
    said = capfd.readouterr().err
    assert "use bfloat16 or float32 on a CPU" in said and "training.precision" in said and not (inpainting.parent / "run").exists()


def losses(folder, spec, *changes):
    seen = []
    model = train_in(folder, load_spec(spec, changes), on_event=lambda event: seen.append(event.loss) if isinstance(event, (Step, Validated)) else None)
    return seen, model


@pytest.mark.parametrize("problem", ["inpainting", "mri"])
def test_training_in_bfloat16_is_close_to_float32_and_no_more(problem, request):
    spec = request.getfixturevalue(problem)
    (full, model), (low, other) = losses(spec.parent / "a", spec), losses(spec.parent / "b", spec, BFLOAT16)
    assert low != full and np.allclose(low, full, rtol=0.05)
    kept, also = load_checkpoint(model).tensors, load_checkpoint(other).tensors
    assert {key: (value.dtype, value.shape) for key, value in kept.items()} == {key: (value.dtype, value.shape) for key, value in also.items()}


def test_a_resumed_run_in_bfloat16_equals_an_uninterrupted_one(inpainting):
    _, whole = losses(inpainting.parent / "whole", inpainting, BFLOAT16)

    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(BaseException, match="signal 2"):
        train_in(inpainting.parent / "cut", load_spec(inpainting, [BFLOAT16]), on_event=stop)
    assert resume(inpainting.parent / "cut", device="cpu").read_bytes() == whole.read_bytes()


def test_images_are_made_in_float32_unless_asked_otherwise(inpainting, tmp_path, capfd):
    _, model = losses(inpainting.parent / "run", inpainting, BFLOAT16)
    y = np.load(inpainting.parent / "test_y.npy")
    full, low = (reconstruct.Reconstructor.load(model, "cpu", precision).reconstruct(y) for precision in ("float32", "bfloat16"))
    assert full.dtype == low.dtype == np.float32 and not np.array_equal(full, low) and np.allclose(full, low, atol=0.05)
    command = ["reconstruct", "--ckpt", str(model), str(inpainting.parent / "test_y.npy")]
    assert es([*command, "-o", str(tmp_path / "full.npy")]) == 0 and np.array_equal(np.load(tmp_path / "full.npy"), full)
    assert es([*command, "-o", str(tmp_path / "low.npy"), "--precision", "bfloat16"]) == 0 and np.array_equal(np.load(tmp_path / "low.npy"), low)
    assert es([*command, "-o", str(tmp_path / "none.npy"), "--precision", "single"]) == 2
    assert es(["evaluate", "--ckpt", str(model), "--device", "cpu", "--precision", "float16"]) == 5
    assert "--precision: float16 needs a GPU" in capfd.readouterr().err


class Watching(Plain):
    """Says under which settings its convolution ran, forwards and backwards."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.conv.register_full_backward_hook(lambda *args: seen.append(("backwards", torch.backends.cudnn.allow_tf32)))

    def forward(self, x, sigma=None):
        self.seen.append(("network", torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32))
        return super().forward(x, sigma)


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_tf32_is_for_the_network_and_not_for_the_physics(precision):
    """The settings are those of the process, so that they are seen without a GPU too."""
    seen: list = []

    class Watched(LinearPhysics):
        def A(self, x, **kwargs):
            seen.append(("physics", torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32))
            return x

        A_adjoint = A

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    running, physics, network = Running(torch.device("cuda"), precision), Watched(), ArtifactRemoval(Watching(seen))
    network.backbone_net.__dict__["forward"] = module._Forward(network.backbone_net.forward, running)
    with tensor_float_32(False):
        image = network(torch.rand(1, 1, 8, 8, requires_grad=True), physics)
        loss = (physics.A(image) ** 2).sum()
        with running.backwards():
            loss.backward()
    wanted = precision == "tf32"
    assert seen == [("physics", False), ("network", wanted), ("physics", False), ("backwards", wanted)]
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def objective():
    physics, shape = mri_operator()
    splitter = BernoulliSplittingMaskGenerator(shape, 0.7)
    network = DataConsistentMoDL(unet(2), num_iter=2)
    return Objective(network, [("es", 1.0, EquivariantSplitting(named_group("D4", shape), splitter, Measured(MCLoss()), MCLoss()))]), physics, shape


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_backbone_gives_the_loss_and_the_gradients_of_one_that_is_not(backend, monkeypatch):
    monkeypatch.setattr(module, "BACKEND", backend)
    said: list[str] = []
    made, physics, shape = objective()
    y, names = physics.A(torch.rand(2, *shape)), list(made.network.state_dict())

    def result():
        made.zero_grad()
        value = made(y, physics, 3)[0]
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in made.network.parameters() if p.grad is not None)]

    plain = result()
    running = Running(CPU, compiled=True, tell=said.append)
    running.take(made.network, physics, shape)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(result(), plain, strict=True))
    (backbone,) = backbones(made.network, y, physics)
    assert backbone.forward.compiled is not None and said == [] and running.compiled and list(made.network.state_dict()) == names


def refuses(graph, example_inputs):
    raise OSError("no compiler was found")


def fails_backwards(graph, example_inputs):
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda fx, inputs: fx, bw_compiler=refuses)(graph, example_inputs)


@pytest.mark.parametrize("backend", [refuses, fails_backwards])
def test_where_nothing_compiles_training_goes_on_with_one_word_and_the_same_bytes(backend, inpainting, monkeypatch):
    """Also where batch normalisation has statistics that an attempt would move."""
    normalised = {"name": "UNet", "in_channels": 1, "out_channels": 1, "channels_per_scale": [4, 8], "batch_norm": True}
    spec = write_spec(inpainting, model={"name": "ArtifactRemoval", "backbone_net": normalised})
    plain = train_in(inpainting.parent / "plain", load_spec(spec))
    monkeypatch.setattr(module, "BACKEND", backend)
    notes: list[str] = []
    compiled = load_spec(spec, ["training.compile=true"])
    model = train_in(inpainting.parent / "compiled", compiled, on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    assert len(notes) == 1 and notes[0].startswith("training.compile:") and "no compiler was found" in notes[0]
    first, second = load_checkpoint(plain), load_checkpoint(model)
    assert first.metadata.fingerprint == second.metadata.fingerprint and list(first.tensors) == list(second.tensors)


def test_what_is_wrong_with_the_network_is_not_blamed_on_the_compiler():
    class Broken(Plain):
        def forward(self, x, sigma=None):
            if len(x) > 1:
                raise ValueError("one sample at a time")
            return super().forward(x)

    said: list[str] = []
    physics, shape = inpainting_operator()
    network = Running(CPU, compiled=True, tell=said.append).take(ArtifactRemoval(Broken()), physics, shape)
    with pytest.raises(ValueError, match="one sample at a time"):
        network(torch.rand(2, *shape), physics)
    assert said == []


def test_a_compiled_run_can_be_resumed(inpainting, monkeypatch):
    monkeypatch.setattr(module, "BACKEND", "eager")
    changes = ["training.compile=true"]
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting, changes))

    def stop(event):
        if isinstance(event, Step) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(BaseException, match="signal 2"):
        train_in(inpainting.parent / "cut", load_spec(inpainting, changes), on_event=stop)
    assert resume(inpainting.parent / "cut", device="cpu").read_bytes() == whole.read_bytes()
