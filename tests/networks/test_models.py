"""Every network of the catalogue: it runs, forwards and backwards, on A and on A T_g, or it is refused before training and says why."""

from __future__ import annotations

import socket

import pytest
import torch
from deepinv.models import Reconstructor
from deepinv.physics import MRI, GaussianNoise, Inpainting, LinearPhysics, ZeroNoise
from problems import es, network, write_spec

from es_cli import catalog
from es_cli.building.parts import Builder
from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.networks.fitting import check_network
from es_cli.spec.component import as_component
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.virtual import virtual_operator

RGB = {"in_channels": 3, "out_channels": 3}
UNET = {"name": "UNet", **RGB, "channels_per_scale": [4, 8], "batch_norm": False}
SCORE = {**RGB, "img_resolution": 16, "model_channels": 32, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
TRANSFORMER = {**RGB, "dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 1, 1]}
# the smallest of each, for images of 3 × 16 × 16
TRAINED = {
    "ADMUNet": SCORE,
    "AnscombeDenoiser": {"denoiser": UNET},
    "ArtifactRemoval": {"backbone_net": UNET, "mode": "pinv"},
    "AutoEncoder": {"dim_input": 768, "dim_mid": 8, "dim_hid": 4},
    "CircularCNN": {**RGB, "channels": 4, "dilations": [1, 2]},
    "DRUNet": {**RGB, "nc": [4, 4, 4, 4], "nb": 1},
    "DScCP": {"depth": 2, "n_channels_per_layer": 4},
    "DataConsistentMoDL": {"denoiser": UNET},
    "DnCNN": {**RGB, "depth": 3, "nf": 4},
    "EDMPrecond": {"model": UNET},
    "EquivariantDenoiser": {"denoiser": UNET},
    "EquivariantReconstructor": {"model": {"name": "ArtifactRemoval", "backbone_net": UNET}},
    "EquivariantUNet": {**RGB, "channels_per_scale": [8, 16]},
    "FFDNet": {"nf": 8, "n_conv_layers": 3, "img_channels": 3},
    "MPRNet": {**RGB, "n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 1},
    "MinusOneOneDenoiserWrapper": {"model": UNET},
    "MoDL": {"denoiser": UNET},
    "NCSNpp": SCORE,
    "Restormer": TRANSFORMER,
    "SCUNet": {"in_nc": 3, "config": [1, 1, 1, 1, 1, 1, 1], "dim": 64},
    "SRResNet": {"upscale": 1, "num_blocks": 1, "im_c": 3, "feats": 8},
    "SwinIR": {"in_chans": 3, "embed_dim": 12, "depths": [1], "num_heads": [2], "window_size": 8},
    "UNet": {**RGB, "channels_per_scale": [4, 8]},
    "Unrolled": {"denoiser": UNET, "num_iter": 2},
}
# tens of millions of weights whatever is asked for: built and run by hand, too slow for every test
LARGE = {"DiffUNet", "RAM", "PromptIR"}
# none of their weights is trained: legal inside another network, refused at the start of a training
UNTRAINED = {"BilateralFilter", "EPLLDenoiser", "MedianFilter", "TGVDenoiser", "TVDenoiser", "TVL1Denoiser"}
# other problems than single images with a linear operator, or other packages
ELSEWHERE = {
    "BM3D": "pip install bm3d",
    "WaveletDenoiser": "pip install ptwt",
    "WaveletDictDenoiser": "pip install ptwt",
    "ComplexDenoiserWrapper": "complex images",
    "DEAL": "does not take these images",
    "PanNet": "does not take these images",
    "TimeAgnosticNet": "does not take these images",
    "TimeAveragingNet": "does not take these images",
    "WienerDeconvolution": "BlurFFT",
}
PARAMETERS = {
    "EPLLDenoiser": {"n_components": 2, "channels": 3},
    "ComplexDenoiserWrapper": {"denoiser": UNET},
    "TimeAgnosticNet": {"backbone_net": UNET},
    "TimeAveragingNet": {"backbone_net": UNET},
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("a network reached for the internet")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def problem(channels=3, noise=None):
    """Two measurements and A T_g for a quarter turn."""
    rng = torch.Generator().manual_seed(0)
    noise = noise or GaussianNoise(0.1)
    mask = (torch.rand(16, 16, generator=rng) < 0.7).float()
    physics = MRI(mask=mask, noise_model=noise) if channels == 2 else Inpainting((channels, 16, 16), mask=mask, noise_model=noise)
    y = physics.A(torch.rand(2, channels, 16, 16, generator=rng))
    turn = Batch([named_group("D4", (channels, 16, 16)).elements()[1]] * 2)
    return physics, virtual_operator(physics, turn, orthogonal=True), y


def build(name, parameters):
    raw = as_component({"name": name, **parameters})
    assert catalog.check(raw, "model", ("model",)) == []
    made, _ = Builder(context={"img_size": (3, 16, 16)}).build(catalog.checking.with_parts(raw, ("model",)), "model", "model")
    return made


def reconstructor(made):
    return made if isinstance(made, Reconstructor) else build("ArtifactRemoval", {"backbone_net": UNET}).__class__(made)


def test_every_network_of_the_catalogue_is_known_here():
    buildable = {entry.name for entry in catalog.entries(("model",)) if entry.refused is None}
    assert buildable == {*TRAINED, *LARGE, *UNTRAINED, *ELSEWHERE, "VarNet"}


@pytest.mark.parametrize("name", TRAINED)
def test_network_is_trained_on_a_and_on_the_virtual_operator(name):
    physics, virtual, y = problem()
    made = reconstructor(build(name, TRAINED[name]))
    for operator in (physics, virtual):
        check_network(made, y, operator, (3, 16, 16))
    made.train()
    made(y, virtual).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


@pytest.mark.parametrize("name", sorted(UNTRAINED | set(ELSEWHERE)))
def test_what_cannot_be_trained_here_says_why_before_training(name):
    physics, _, y = problem()
    try:
        made = reconstructor(build(name, PARAMETERS.get(name, {"ths": 0.1} if name.startswith("T") else {})))
        if name in UNTRAINED:
            assert not any(p.requires_grad for p in made.parameters())  # `new_state` refuses it: there is nothing to train
            return
        check_network(made, y, physics, (3, 16, 16))
    except SpecError as error:
        assert ELSEWHERE[name] in str(error)
        return
    raise AssertionError(f"{name} runs: move it to TRAINED")


@pytest.mark.parametrize("mode", ["varnet", "e2e-varnet"])
def test_varnet_runs_on_mri(mode):
    """Trap 15: VarNet asks its operator for a mask, and deepinv's A T_g has none."""
    physics, _, y = problem(channels=2)
    g = named_group("D4", (2, 16, 16)).elements()[3]
    made = build("VarNet", {"denoiser": {**UNET, "in_channels": 2, "out_channels": 2}, "num_cascades": 2, "mode": mode})
    for operator in (physics, virtual_operator(physics, Batch([g]), orthogonal=True)):
        check_network(made, y, operator, (2, 16, 16))


@pytest.mark.parametrize("name", ["MoDL", "VarNet"])
def test_denoisers_that_deepinv_fills_in_are_those_of_mri(name):
    physics, _, y = problem(channels=2)
    check_network(build(name, {}), y, physics, (2, 16, 16))


@pytest.mark.parametrize("mode", ["adjoint", "pinv", "direct"])
def test_modes_of_artifact_removal(mode):
    physics, _, y = problem()
    made = build("ArtifactRemoval", {"backbone_net": UNET, "mode": mode})
    start = {"adjoint": physics.A_adjoint(y), "pinv": physics.A_dagger(y), "direct": y}[mode]
    assert torch.equal(made(y, physics), made.backbone_net(start))


@pytest.mark.parametrize("name", ["DRUNet", "FFDNet", "DScCP", "MinusOneOneDenoiserWrapper"])
def test_a_network_that_is_told_the_noise_level_asks_for_one(name):
    physics, _, y = problem(noise=ZeroNoise())
    with pytest.raises(SpecError, match="it is told the noise level: add noise_model"):
        check_network(reconstructor(build(name, TRAINED[name])), y, physics, (3, 16, 16))


class Fails(Reconstructor):
    def __init__(self, image):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.image = image

    def forward(self, y, physics):
        return self.image(y, physics, self.weight)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda y, physics, w: w * y[..., ::2], r"makes images of shape \(3, 16, 8\); wanted \(3, 16, 16\)"),
        (lambda y, physics, w: [w * y], "makes a list, not real ones"),
        (lambda y, physics, w: (w * y).detach(), "without gradients"),
        (lambda y, physics, w: (-w).log() * y, "makes NaN or infinity before any training"),
        (lambda y, physics, w: physics.coil_maps * y, "no attribute 'coil_maps'.*; an image has shape"),
    ],
)
def test_networks_that_do_not_fit_are_told_apart(image, message):
    physics, _, y = problem()
    with pytest.raises(SpecError, match=message):
        check_network(Fails(image), y, physics, (3, 16, 16))


def test_a_denoiser_at_the_top_is_told_to_be_wrapped():
    with pytest.raises(SpecError, match="DRUNet does not know the operator; wrap it: {name: ArtifactRemoval"):
        check_network(build("DRUNet", TRAINED["DRUNet"]), problem()[2], problem()[0], (3, 16, 16))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(1), "UNet is not told the operator, so that transforms mean nothing to it; wrap it, {name: ArtifactRemoval"),
        ({"name": "ArtifactRemoval", "backbone_net": network(1), "mode": "direct"}, "direct hands the network the measurements without the operator"),
        ({"name": "DeepImagePrior", "generator": "ConvDecoder"}, "fitted to each image anew"),
        ({"name": "PDNet_PrimalBlock"}, "a block of a network, not a network; Unrolled"),
        ({"name": "ICNN"}, "called with an image alone"),
    ],
)
def test_what_cannot_learn_from_a_group_is_found_in_the_text(inpainting, model, message):
    with pytest.raises(SpecError, match=message):
        load_spec(write_spec(inpainting, model=model))
    if model["name"] in ("UNet", "ArtifactRemoval"):
        load_spec(write_spec(inpainting, model=model, transforms="none"))


@pytest.mark.parametrize("model", [{"name": "MedianFilter"}, {"name": "BM3D"}], ids=lambda model: model["name"])
def test_nothing_to_train_is_exit_code_2(inpainting, model, capfd):
    assert es(["train", str(write_spec(inpainting, model={"name": "ArtifactRemoval", "backbone_net": model}))]) == 2
    assert "nothing to train" in (err := capfd.readouterr().err) or "pip install bm3d" in err


def test_the_physics_that_a_network_is_checked_with_stays_as_it_was():
    physics, virtual, y = problem()
    check_network(build("Unrolled", TRAINED["Unrolled"]), y, virtual, (3, 16, 16))
    assert isinstance(virtual, LinearPhysics) and torch.equal(physics.mask, problem()[0].mask)
