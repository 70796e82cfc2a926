"""Noise-aware equivariant splitting from the spec: which sides can stand, and that each trains, resumes and reconstructs."""

from __future__ import annotations

import numpy as np
import pytest
from problems import smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.errors import DataError, SpecError
from es_cli.reconstruct import Reconstructor
from es_cli.training.events import Step
from es_cli.training.folder import claim
from es_cli.training.run import resume, train

NOISE = {
    "gaussian": {"name": "GaussianNoise", "sigma": 0.1},
    "poisson": {"name": "PoissonNoise", "gain": 0.05},
    "both": {"name": "PoissonGaussianNoise", "gain": 0.05, "sigma": 0.1},
    "gamma": {"name": "GammaNoise", "l": 20.0},
}


def noisy_spec(folder, side, noise="gaussian", **changes):
    """A spec that simulates noisy measurements of half the pixels and trains with `side` as its consistency loss."""
    np.save(folder / "x.npy", 0.1 + smooth(10, 16)[:, None])
    physics = {"name": "Denoising"} if noise == "gamma" else {"name": "Inpainting", "mask": 0.5}
    physics |= ({} if noise is None else {"noise_model": NOISE[noise]})
    losses = [{"name": "EquivariantSplittingLoss", "consistency_loss": side}]
    return write_spec(folder / "spec.yaml", **{"physics": physics, "data": {"train": {"images": "x.npy"}}, "losses": losses, **changes})


def faults(path):
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("side", "noise"),
    [
        ({"name": "R2RLoss", "alpha": 0.2}, "gaussian"),
        ({"name": "R2RLoss"}, "poisson"),
        ("R2RLoss", "gamma"),
        ("SureGaussianLoss", "gaussian"),
        ({"name": "SureGaussianLoss", "sigma": 0.1}, None),
        ("SurePoissonLoss", "poisson"),
        ({"name": "SurePGLoss", "second_derivative": True}, "both"),
        ({"name": "SureGaussianLoss", "sigma": 0.05, "unsure": True}, "gaussian"),
        ({"name": "SurePGLoss", "unsure": True}, "both"),
        ({"name": "MCLoss", "weight": 0.5}, "gaussian"),
        (None, "gaussian"),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", ["none", "per-sample"])
def test_every_side_trains_and_reconstructs_one_as_in_a_batch(tmp_path, side, noise, scale):
    spec = load_spec(noisy_spec(tmp_path, side, noise), [f"data.scale={scale}", "training.steps=2", "training.validate_every=2"])
    losses = []
    model = train(spec, claim(spec, tmp_path / "run"), device="cpu", on_event=lambda e: losses.append(e.loss) if isinstance(e, Step) else None)
    assert np.isfinite(losses).all()
    made = Reconstructor.load(model, "cpu")
    y = np.load(tmp_path / "x.npy")[:3]
    assert np.allclose(made.reconstruct(y)[1], made.reconstruct(y[1]), atol=1e-5)
    assert made.network_calls == 8


def test_noise_that_the_images_cannot_have_is_answered(tmp_path):
    spec = load_spec(noisy_spec(tmp_path, None, physics={"name": "Inpainting", "mask": 0.5, "noise_model": NOISE["gamma"]}))
    with pytest.raises(DataError, match="Inpainting with GammaNoise cannot measure these images"):
        train(spec, claim(spec, tmp_path / "run"), device="cpu")


def test_unsure_learns_a_level_that_the_checkpoint_keeps_and_resuming_continues(tmp_path):
    side = {"name": "SureGaussianLoss", "sigma": 0.05, "unsure": True, "step_size": 0.1}
    path = noisy_spec(tmp_path, side)
    spec = load_spec(path)
    whole = load_checkpoint(train(spec, claim(spec, tmp_path / "whole"), device="cpu"))
    variance = whole.part("objective")["0.consistency.variance"]
    assert variance > 0 and not np.isclose(float(variance), 0.05**2)

    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            raise Stop

    with pytest.raises(Stop):
        train(spec, claim(spec, tmp_path / "stopped"), device="cpu", on_event=stop)
    resumed = resume(tmp_path / "stopped", device="cpu")
    assert resumed.read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_recorruption_is_repeated_at_test_as_often_as_the_spec_says(tmp_path):
    spec = load_spec(noisy_spec(tmp_path, {"name": "R2RLoss", "eval_n_samples": 3}), ["training.steps=1", "test.group=trivial"])
    assert Reconstructor.load(train(spec, claim(spec, tmp_path / "run"), device="cpu")).network_calls == 3


@pytest.mark.parametrize(
    ("side", "noise", "message"),
    [
        ("Neighbor2Neighbor", "gaussian", "Neighbor2Neighbor cannot judge the part of a measurement that a split gives to the network"),
        ("R2RLoss", None, "R2RLoss needs to know the noise; add noise_model: {name: GaussianNoise, …} to physics"),
        ("R2RLoss", "both", "R2RLoss does not know PoissonGaussianNoise; it knows GaussianNoise and PoissonNoise and GammaNoise"),
        ("SureGaussianLoss", "poisson", "SureGaussianLoss does not know PoissonNoise; it knows GaussianNoise"),
        ({"name": "SureGaussianLoss", "B": "A_dagger"}, "gaussian", "a metric of the image cannot be masked by a split"),
        ({"name": "MCLoss", "weight": -1}, "gaussian", "wanted a weight of 0 or more, got -1"),
        ({"name": "R2RLoss", "alhpa": 0.2}, "gaussian", "R2RLoss has no parameter alhpa; did you mean alpha?"),
    ],
    ids=str,
)
def test_what_cannot_stand_is_refused_with_a_reason_before_anything_is_loaded(tmp_path, side, noise, message):
    found = faults(noisy_spec(tmp_path, side, noise))
    assert len(found) == 1 and message in found[0] and "losses.0.consistency_loss" in found[0]


def test_prediction_is_what_was_not_fed_and_needs_no_denoising_loss(tmp_path):
    losses = [{"name": "EquivariantSplittingLoss", "prediction_loss": "R2RLoss"}]
    assert "R2RLoss cannot be the prediction loss" in faults(noisy_spec(tmp_path, None, losses=losses))[0]
    losses = [{"name": "EquivariantSplittingLoss", "prediction_loss": None, "consistency_loss": None}]
    assert "both sides of the loss are switched off" in faults(noisy_spec(tmp_path, None, losses=losses))[0]


def test_weights_of_the_sides_reach_the_loss(tmp_path):
    values = {}
    for name, weights in {"both": (1, 1), "first": (1, 0), "second": (0, 1), "doubled": (2, 1)}.items():
        sides = {side: {"name": "MCLoss", "weight": w} for side, w in zip(("consistency_loss", "prediction_loss"), weights, strict=True)}
        spec = load_spec(noisy_spec(tmp_path, None, losses=[{"name": "EquivariantSplittingLoss", **sides}]), ["training.steps=1"])
        losses = []
        train(spec, claim(spec, tmp_path / name), device="cpu", on_event=lambda e: losses.append(e.loss) if isinstance(e, Step) else None)  # noqa: B023
        values[name] = losses[0]
    assert np.isclose(values["both"], values["first"] + values["second"])
    assert np.isclose(values["doubled"], 2 * values["first"] + values["second"])
