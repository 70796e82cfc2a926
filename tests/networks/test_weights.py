"""Weights from files: every way in which they are saved, and none that runs code."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import torch
from problems import es, network, train_in, write_spec
from safetensors.torch import save_file

from es_cli.building.parts import Builder
from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.errors import DataError, SpecError
from es_cli.networks.weights import load_weights, read_state_dict
from es_cli.reconstruct import Reconstructor
from es_cli.spec.component import as_component
from es_cli.training.run import resume


class Pair(torch.nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.first = torch.nn.Conv2d(1, channels, 3)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.second = torch.nn.Conv2d(channels, 1, 3)


def pair(seed=1, channels=3):
    torch.manual_seed(seed)
    return Pair(channels)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def loaded(file, into=None):
    made = into or pair(2)
    load_weights(made, file)
    return made


FORMS = {
    "state dict": lambda state: state,
    "under state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "under params": lambda state: {"params": state},
    "of deepinv's trainer": lambda state: {"epoch": 1, "state_dict": state, "loss": {"a": [1.0]}, "optimizer": {"state": {}, "param_groups": []}},
    "of a parallel network": lambda state: {"module." + key: value for key, value in state.items()},
    "inside a larger one": lambda state: {"other.bias": torch.ones(3), **{"net.1." + key: value for key, value in state.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_is_found_however_it_was_saved(tmp_path, form):
    torch.save(FORMS[form](pair().state_dict()), tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), pair())


def test_safetensors_are_read_as_they_are(tmp_path):
    save_file(pair().state_dict(), tmp_path / "w.safetensors")
    assert same(loaded(tmp_path / "w.safetensors"), pair())


def test_weights_of_the_only_part_that_has_any_fill_the_whole(tmp_path):
    torch.save(pair().state_dict(), tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth", torch.nn.ModuleDict({"backbone": pair(2)})), pair())


def test_two_networks_in_one_file_are_not_chosen_between(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({f"{i}.{key}": value for i in range(2) for key, value in pair(i).state_dict().items()}, file)
    with pytest.raises(DataError, match="holds 2 networks like this one"):
        loaded(file)
    torch.save({f"{i}.{key}": value for i in range(2) for key, value in pair(1).state_dict().items()}, file)
    assert same(loaded(file), pair())


def without(state, *names):
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "second.bias"), "the file lacks second.bias$"),
        (lambda state: without(state, *[k for k in state if k != "first.bias"]), "lacks first.weight, norm.bias, norm.num_batches_tracked and 5 more"),
        (lambda state: {**state, "third.bias": torch.ones(1)}, "the file has besides third.bias$"),
        (lambda state: pair(channels=4).state_dict(), r"has other shapes: first.bias \(\(4,\) for \(3,\)\), .* and 4 more"),
    ],
)
def test_weights_of_another_network_name_what_differs(tmp_path, change, message):
    file, made = tmp_path / "w.pth", pair(2)
    torch.save(change(pair().state_dict()), file)
    with pytest.raises(DataError) as caught:
        load_weights(made, file)
    assert caught.value.exit_code == 3 and caught.value.fault.where == str(file)
    assert re.search(message, caught.value.fault.what)
    assert same(made, pair(2))


class Runs:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrap", [lambda bad, state: bad, lambda bad, state: {"state_dict": state, "extra": bad}], ids=["bare", "beside weights"])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, wrap):
    torch.save(wrap(Runs(tmp_path / "ran"), pair().state_dict()), tmp_path / "w.pth")
    with pytest.raises(DataError, match="nothing else is unpickled"):
        loaded(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "the pickle is harmless, so that the test says nothing"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "cannot be read|not a whole file"),
        ("w.pth", b"\x80\x02garbage", "not a whole file"),
        ("w.pth", b"PK\x03\x04 cut short", "not a whole file"),
        ("w.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "cannot be read"),
        ("missing.pth", None, "no such file of weights"),
    ],
)
def test_broken_and_missing_files_are_faults_of_the_data(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("held", [[1, 2], {}, {"epoch": 1}, torch.ones(2), {"params": {"a": 1}}])
def test_files_without_weights_by_name_are_refused(tmp_path, held):
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no weights by name"):
        read_state_dict(tmp_path / "w.pth")


def build(raw):
    return Builder().build(as_component(raw), "model", "model")[0]


def test_any_part_takes_weights_and_nested_ones_too(tmp_path):
    torch.manual_seed(3)
    saved = build(network(1))
    torch.save(saved.state_dict(), tmp_path / "w.pth")
    inner = {**network(1), "weights": str(tmp_path / "w.pth")}
    assert same(build({"name": "MoDL", "denoiser": inner}).prior[0].denoiser, saved)
    whole = build({"name": "ArtifactRemoval", "backbone_net": network(1), "ckpt_path": str(tmp_path / "w.pth")})
    assert same(whole.backbone_net, saved)


def test_a_checkpoint_of_es_gives_its_network_to_a_part(inpainting):
    checkpoint = train_in(inpainting.parent / "first", load_spec(inpainting))
    made = build({"name": "DataConsistentMoDL", "denoiser": {**network(1), "weights": str(checkpoint)}})
    wanted = load_checkpoint(checkpoint).part("model.backbone_net")
    assert all(torch.equal(value, wanted[key]) for key, value in made.prior[0].denoiser.state_dict().items())


@pytest.mark.parametrize("key", ["pretrained", "weights"])
def test_deepinvs_own_parameters_go_through_the_same_door(tmp_path, key):
    small = {"name": "DnCNN", "in_channels": 1, "out_channels": 1, "depth": 3, "nf": 4, "pretrained": None}
    torch.manual_seed(4)
    saved = build(small)
    torch.save(saved.state_dict(), tmp_path / "w.ckpt")
    assert same(build({**small, key: str(tmp_path / "w.ckpt")}), saved)
    torch.save(Runs(tmp_path / "ran"), tmp_path / "w.ckpt")
    with pytest.raises(DataError):
        build({**small, key: str(tmp_path / "w.ckpt")})
    assert not (tmp_path / "ran").exists()


def test_training_starts_from_the_file_and_the_checkpoint_forgets_it(inpainting):
    torch.manual_seed(5)
    torch.save(build(network(1)).state_dict(), inpainting.parent / "w.pth")
    model = {"name": "ArtifactRemoval", "backbone_net": {**network(1), "weights": "w.pth"}}
    spec = load_spec(write_spec(inpainting, model=model), ["training.steps=2", "training.validate_every=1", "training.optimizer.lr=0.0"])
    assert spec.model.parameters["backbone_net"].parameters["weights"] == str(inpainting.parent / "w.pth")
    made = train_in(inpainting.parent / "run", spec)
    (inpainting.parent / "w.pth").rename(inpainting.parent / "elsewhere.pth")
    checkpoint = load_checkpoint(made)
    assert "w.pth" not in json.dumps(vars(checkpoint.metadata)) and "weights" not in checkpoint.metadata.spec["model"]["backbone_net"]
    saved = read_state_dict(inpainting.parent / "elsewhere.pth")
    assert all(torch.allclose(value, saved[key], atol=1e-6) for key, value in checkpoint.part("model.backbone_net").items())
    Reconstructor.load(made, "cpu").reconstruct(np.load(inpainting.parent / "test_y.npy"))
    with pytest.raises(DataError, match="no such file of weights"):
        resume(made.parent, device="cpu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "DnCNN", "pretrained": "download"}, "would be downloaded, .*fetch the file yourself and give its path"),
        ({"name": "UNet", "weights": "download"}, "wanted a file of weights, got 'download'; give a path that ends in .pt"),
        ({"name": "UNet", "weights": 3}, "wanted a file of weights, got 3"),
        ({"name": "DnCNN", "weights": "a.pth", "pretrained": "b.pth"}, "both name a file of weights; keep one"),
        ({"name": "UNet", "wieghts": "a.pth"}, "UNet has no parameter wieghts"),
    ],
)
def test_faults_of_weights_are_found_before_anything_is_loaded(inpainting, model, message):
    with pytest.raises(SpecError, match=message):
        load_spec(write_spec(inpainting, model=model))


def test_weights_null_is_fresh_weights(inpainting):
    assert "weights" not in load_spec(write_spec(inpainting, model={**network(1), "weights": None}, transforms="none")).model.parameters


def test_weights_are_of_models_alone(inpainting):
    with pytest.raises(SpecError, match="Inpainting has no parameter weights"):
        load_spec(write_spec(inpainting, physics={"name": "Inpainting", "mask": {"file": "mask.npy"}, "weights": "w.pth"}))


def test_a_missing_file_is_exit_code_3(inpainting, capfd):
    spec = write_spec(inpainting, model={"name": "ArtifactRemoval", "backbone_net": {**network(1), "weights": "w.pth"}})
    assert es(["train", str(spec)]) == 3
    assert f"{inpainting.parent / 'w.pth'}: there is no such file of weights" in capfd.readouterr().err
