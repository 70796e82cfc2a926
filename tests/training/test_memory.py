"""Where the memory is too small the batch goes through the network in pieces, and training computes what it would have computed."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from deepinv.models import UNet
from problems import es, train_in, write_spec
from torch import nn

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.errors import DeviceError, out_of_memory
from es_cli.experiment import build_experiment
from es_cli.networks.running import Running, _Forward
from es_cli.training.events import Note, Step
from es_cli.training.loop import new_state
from es_cli.training.run import resume

CPU = torch.device("cpu")
SGD = "training.optimizer={name: SGD, lr: 0.01}"
CUDA, HOST = "CUDA out of memory. Tried to allocate 2.00 GiB", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


@pytest.fixture
def small_memory(monkeypatch):
    """A memory that holds so many images of a network in training at once; `seen` are the sizes that were tried."""
    seen = []
    forward = UNet.forward

    def small(at_once, text=CUDA, evaluating=100):
        def limited(self, x, *args, **kwargs):
            seen.append(len(x))
            if len(x) > (at_once if torch.is_grad_enabled() else evaluating):
                raise {CUDA: torch.OutOfMemoryError, HOST: RuntimeError}.get(text, MemoryError)(text)
            return forward(self, x, *args, **kwargs)

        monkeypatch.setattr(UNet, "forward", limited)

    small.seen = seen
    return small


def trained(spec, folder, notes=None):
    model = train_in(folder, spec, on_event=lambda event: notes.append(event.text) if isinstance(event, Note) and notes is not None else None)
    return {name: value for name, value in load_checkpoint(model).tensors.items() if name.startswith("model.")}


NOISY = ["{name: R2RLoss, alpha: 0.2}", "{name: SureGaussianLoss}", "{name: SureGaussianLoss, unsure: true}"]
CASES = [("inpainting", None, text) for text in (CUDA, HOST, "")] + [("mri", None, CUDA)]
CASES += [(problem, loss, CUDA) for problem in ("inpainting", "mri") for loss in NOISY]


@pytest.mark.parametrize(("problem", "consistency", "text"), CASES)
def test_the_effective_batch_stays(request, problem, consistency, text, small_memory):
    path = request.getfixturevalue(problem)
    loss = [f"losses.0={{name: EquivariantSplittingLoss, consistency_loss: {consistency}}}", "physics.noise_model={name: GaussianNoise, sigma: 0.1}"]
    spec = load_spec(path, ["training.batch_size=4", SGD, *(loss if consistency else [])])
    whole = trained(spec, path.parent / "whole")
    small_memory(2, text)
    notes: list[str] = []
    cut = trained(spec, path.parent / "cut", notes)
    assert all(torch.allclose(cut[name], value, rtol=1e-4, atol=1e-6) for name, value in whole.items())
    assert len(notes) == 1 and "4 samples at once: from here on 2 at a time" in notes[0]


def test_it_is_halved_again_until_it_fits_and_also_when_validating(inpainting, small_memory):
    spec = load_spec(inpainting, ["training.batch_size=8", "data.validation=0.4", SGD])
    whole = trained(spec, inpainting.parent / "whole")
    small_memory(2, evaluating=2)
    notes: list[str] = []
    cut = trained(spec, inpainting.parent / "cut", notes)
    assert all(torch.allclose(cut[name], value, rtol=1e-4, atol=1e-6) for name, value in whole.items())
    pieces = [note for note in notes if "from here on " in note]
    assert [note.split("from here on ")[1][0] for note in pieces] == ["2"]
    (last,) = [note for note in notes if note not in pieces]
    assert last.startswith("no error bars: "), "the network takes a whole group at once there, and nothing but the error bars is lost"


def test_a_run_with_averaged_weights_that_is_stopped_goes_on_and_ends_the_same(inpainting, small_memory):
    spec = load_spec(inpainting, ["training.batch_size=4", "training.ema=0.9", SGD])
    whole = trained(spec, inpainting.parent / "whole")
    small_memory(1, evaluating=2)

    def stop(event):
        if isinstance(event, Step) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(BaseException, match="signal 2"):
        train_in(inpainting.parent / "cut", spec, on_event=stop)
    cut = load_checkpoint(resume(inpainting.parent / "cut", device="cpu")).tensors
    assert all(torch.allclose(cut[name], value, rtol=1e-4, atol=1e-6) for name, value in whole.items())


def test_one_sample_is_tried_before_training_where_two_do_not_fit(inpainting, small_memory):
    small_memory(1, evaluating=1)
    notes: list[str] = []
    trained(load_spec(inpainting, ["training.batch_size=4"]), inpainting.parent / "one", notes)
    assert "1 at a time" in notes[0]
    small_memory(0)
    with pytest.raises(DeviceError, match="too small for one sample.*fewer channels"):
        build_experiment(load_spec(inpainting), CPU)


def test_layers_that_normalize_count_each_piece_once_and_that_is_said(inpainting, small_memory):
    normalized = {"name": "UNet", "in_channels": 1, "out_channels": 1, "channels_per_scale": [4, 8], "batch_norm": True}
    spec = load_spec(write_spec(inpainting, model={"name": "ArtifactRemoval", "backbone_net": normalized}), ["training.steps=1", "training.batch_size=4"])
    whole = trained(spec, inpainting.parent / "whole")
    small_memory(2)
    notes: list[str] = []
    cut = trained(spec, inpainting.parent / "cut", notes)
    counts = [name for name in whole if name.endswith("num_batches_tracked")]
    assert counts and all(int(cut[name]) == 2 * int(whole[name]) for name in counts)
    assert "normalize by the batch see as many" in notes[0] and "gradient" not in notes[0]


def test_where_not_one_sample_fits_that_is_exit_5_with_the_knobs_and_the_run_can_go_on(inpainting, small_memory, capfd, monkeypatch):
    folder = inpainting.parent / "run"
    monkeypatch.setattr("es_cli.experiment._check_parts", lambda *args: None)
    small_memory(0)
    assert es(["train", str(inpainting), "-o", str(folder), "--device", "cpu"]) == 5
    err = capfd.readouterr().err
    assert "even with one sample at a time" in err and "batch_size" in err and "fewer channels" in err and "crop" in err and "precision" in err
    assert {4, 2, 1} <= set(small_memory.seen)
    monkeypatch.undo()
    assert resume(folder, device="cpu").is_file()


def test_a_network_without_backbones_is_told_so(inpainting, small_memory, monkeypatch):
    monkeypatch.setattr(Running, "_wrap", lambda *args: (None, []))
    monkeypatch.setattr("es_cli.experiment._check_parts", lambda *args: None)
    small_memory(2)
    with pytest.raises(DeviceError, match="no part that could take it in pieces.*lower training.batch_size"):
        train_in(inpainting.parent / "run", load_spec(inpainting))


@pytest.mark.parametrize("problem", ["inpainting", "mri"])
def test_pieces_keep_less_and_give_the_same_gradient(request, problem):
    experiment = build_experiment(load_spec(request.getfixturevalue(problem)), CPU)
    running = Running(CPU)
    new_state(experiment, None, 1, running)
    y, x, physics, scale = experiment.reconstruction.batch(experiment.train, [0, 1, 2, 3], CPU)
    kept, gradients = [], []
    for pieces in (1, 2, 4, 9):
        assert running.cut(experiment.network, experiment.operator.physics, experiment.operator.image.shape, pieces)
        held: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, held=held: held.append(tensor.nbytes) or tensor, lambda tensor: tensor):
            loss, _ = experiment.objective(y, physics, 7, x, scale)
        experiment.network.zero_grad()
        loss.backward()
        kept.append(sum(held))
        gradients.append(torch.cat([p.grad.flatten() for p in experiment.network.parameters() if p.grad is not None]))
    assert kept[1] < 0.5 * kept[0]
    assert all(torch.allclose(gradients[0], one, rtol=1e-4, atol=1e-7) for one in gradients[1:])


def test_a_compiled_network_runs_as_it_is_once_it_takes_batches_in_pieces(inpainting, monkeypatch):
    def short(*args, **kwargs):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: short)
    experiment = build_experiment(load_spec(inpainting), CPU)
    network, physics, shape = experiment.network, experiment.operator.physics, experiment.operator.image.shape
    told: list[str] = []
    running = Running(CPU, compiled=True, tell=told.append)
    running.take(network, physics, shape)
    y = physics.A(torch.rand(2, *shape))
    running.warm_up(network, y, physics)
    with pytest.raises(torch.OutOfMemoryError):
        network(y, physics)
    assert running.compiled and not told  # that is no fault of the compiler
    assert running.cut(network, physics, shape, 2) and len(told) == 1 and "pieces" in told[0]
    assert network(y, physics).shape == (2, *shape)


def test_several_outputs_and_numbers_beside_tensors_go_in_pieces_too():
    class Two(nn.Module):
        def forward(self, x, sigma, level=None, number=3):
            assert number == 3 and (level is None or len(level) == len(x))
            return x * sigma, {"sum": x.flatten(1).sum(1), "count": number}

    module, running = Two(), Running(CPU, pieces=2)
    whole, cut = module(x := torch.rand(5, 1, 2, 2), torch.tensor(2.0)), _Forward(module.forward, running)(x, torch.tensor(2.0), level=torch.rand(5))
    assert isinstance(cut, tuple) and torch.equal(whole[0], cut[0]) and torch.equal(whole[1]["sum"], cut[1]["sum"]) and cut[1]["count"] == 3


def test_what_is_out_of_memory_is_told_from_other_faults():
    assert out_of_memory(torch.OutOfMemoryError(CUDA)) and out_of_memory(RuntimeError(HOST)) and out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
