"""What is said of images without ground truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deepinv.loss.metric import MSE
from deepinv.models import ArtifactRemoval
from deepinv.physics import GaussianNoise
from operators import made, random
from problems import train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.errors import DataError
from es_cli.evaluate import evaluate
from es_cli.experiment import Reconstruction, Scaling
from es_cli.judging import total_variation
from es_cli.judging.images import NO_REFERENCE, change, equivariance, sharpness
from es_cli.judging.residual import residual
from es_cli.judging.total_variation import least_variation, weight_for
from es_cli.splitting.averaging import ONE_CALL
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.masks import Splitter
from es_cli.splitting.virtual import virtual_operator
from es_cli.without_truth import NAMES, ranking, summary, trust

ANY = SimpleNamespace(consistency=None)  # a reconstruction whose noise is that of its operator


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "MultiCoilMRI", "Tomography", "CompressedSensing"])
def test_the_residual_of_the_true_image_is_white_noise(name, tmp_path):
    operator = made(name, tmp_path)
    physics, x = operator.physics, 10 * random(operator.image.shape, batch=16)
    physics.noise_model = GaussianNoise(0.3)
    clean = physics.A(x)
    full = torch.ones_like(clean) if getattr(physics, "mask", None) is None else (physics.mask[:, :, None] if name == "MultiCoilMRI" else physics.mask)
    y = clean + 0.3 * full * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = residual(ANY, physics, x, y)
    assert found["residual_over_noise"].mean() == pytest.approx(1, abs=0.03) and found["residual_std"].mean() == pytest.approx(0.3, rel=0.05)
    assert found["residual_mean"].mean().abs() < 0.02
    assert found["consistency"].mean() < 0.2
    if name == "CompressedSensing":
        assert found["residual_correlation"].isnan().all(), "entries of a vector have no neighbours"
    else:
        assert found["residual_correlation"].mean().abs() < 0.15
    assert found["residual_lines"].isnan().all() if "MRI" not in name else found["residual_lines"].mean() == pytest.approx(1, abs=0.15)


def test_a_residual_that_is_smooth_or_lies_on_few_lines_is_not_white(tmp_path):
    physics = made("MRI", tmp_path).physics
    x = random((2, 16, 16))
    ramp = torch.linspace(1, 2, 16).view(1, 1, 1, 16)
    assert (residual(ANY, physics, x, physics.A(x) + physics.mask * ramp)["residual_correlation"] > 0.9).all()
    one_line = torch.zeros(1, 1, 1, 16)
    one_line[..., 8] = 1
    assert (residual(ANY, physics, x, physics.A(x) + physics.mask * one_line * random((2, 16, 16), seed=2))["residual_lines"] > 3).all()


class Shaded(torch.nn.Module):
    """Darker to the right: not equivariant."""

    def forward(self, x, sigma=None):
        return x * torch.linspace(1, 0, x.shape[-1])


class Unchanged(torch.nn.Module):
    """The identity, which is equivariant."""

    def forward(self, x, sigma=None):
        return x


def reconstruction(operator, network, group="D4"):
    return Reconstruction(ArtifactRemoval(network), operator, Scaling("none"), named_group(group, operator.image.shape), ONE_CALL, None, None, 0)


def test_equivariance_is_the_papers(tmp_path):
    operator = made("Inpainting", tmp_path)
    y = operator.physics.A(random((1, 16, 16)))
    shaded = reconstruction(operator, Shaded())
    found = equivariance(shaded, y, {})
    image, error = shaded.network(y, operator.physics), torch.zeros(2)
    for element in shaded.group.elements()[1:]:
        g = Batch([element])
        error += MSE(reduction="none")(image, g.act(shaded.network(y, virtual_operator(operator.physics, g, True)))) / 7
    assert torch.allclose(found["equivariance_db"], -10 * error.log10(), atol=1e-4)
    energy = image.square().flatten(1).mean(1)
    assert torch.allclose(found["equivariance_relative_db"], 10 * (energy / error).log10(), atol=1e-4)
    assert (equivariance(reconstruction(operator, Unchanged()), y, {})["equivariance_db"] > 100).all()
    assert equivariance(reconstruction(operator, Shaded(), "trivial"), y, {})["equivariance_db"].isnan().all()


def test_sharpness_is_deepinvs_and_nothing_where_it_takes_no_such_images():
    x = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    assert (sharpness(soft, False)["BlurStrength"] > sharpness(x, False)["BlurStrength"]).all()
    assert set(sharpness(x, False)) == set(NO_REFERENCE)
    pair = torch.cat([0.6 * x, 0.8 * x], 1)
    assert torch.allclose(sharpness(pair, True)["BlurStrength"], sharpness(x, False)["BlurStrength"], atol=1e-5)
    assert all(value.isnan().all() for value in sharpness(torch.rand(2, 5, 24, 24), False).values())
    assert all(value.isnan().all() for value in sharpness(torch.rand(2, 1, 4, 24, 24), False).values())
    assert torch.equal(change(x, 0 * x), torch.ones(2))


def test_least_total_variation_is_nearer_to_a_flat_image_than_the_adjoint(tmp_path, monkeypatch):
    monkeypatch.setattr(total_variation, "STEPS", 30)
    operator = made("Inpainting", tmp_path)
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, 4:12, 4:12] = torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    y = operator.physics.A(x)
    weight = weight_for(operator.physics, y, Splitter(generator(y), (2, 3)))
    found = least_variation(operator.physics, y, weight)
    assert ((found - x).flatten(1).norm(dim=1) < 0.5 * (y - x).flatten(1).norm(dim=1)).all()
    assert torch.allclose(found[1], 100 * found[0], rtol=1e-3, atol=1e-3), "in whatever units"


def generator(y):
    from deepinv.physics.generator import BernoulliSplittingMaskGenerator

    return BernoulliSplittingMaskGenerator(tuple(y.shape[1:]), split_ratio=0.8)


def test_the_interval_holds_the_mean_and_shrinks_with_more_images():
    few, many = np.random.default_rng(0).normal(3, 1, 10), np.random.default_rng(0).normal(3, 1, 1000)
    found = summary({"few": few, "many": many, "one": few[:1], "none": np.full(3, np.nan), "some": np.array([np.nan, 2.0])}, 0)
    assert found["many"]["low"] < 3 < found["many"]["high"]
    assert found["many"]["high"] - found["many"]["low"] == pytest.approx(4 / 1000**0.5, rel=0.1)
    assert found["few"]["high"] - found["few"]["low"] > 3 * (found["many"]["high"] - found["many"]["low"])
    assert np.isnan(found["one"]["low"]) and "none" not in found and found["some"]["mean"] == 2


def test_measurements_are_judged_without_ground_truth_and_with_it(inpainting, monkeypatch):
    monkeypatch.setattr(total_variation, "STEPS", 5)
    folder = inpainting.parent
    path = train_in(folder / "run", load_spec(inpainting))
    alone = evaluate(path, measurements=folder / "test_y.npy", variation=True)
    told = alone.to_dict()
    assert told["n"] == 4 and "metrics" not in told and told["source"] == "the measurements given"
    assert set(told["without_truth"]) == set(NAMES) - {"residual_over_noise", "residual_lines"}
    assert told["error_bar"]["source"] == "the checkpoint" and told["error_bar"]["entries"] > 50
    assert set(told["trust"]) == set(told["without_truth"])
    both = evaluate(path, judging=True)
    assert both.to_dict()["metrics"]["PSNR"] and both.source == "the run's test measurements"
    assert np.allclose(both.judged["held_out_nrmse"], alone.judged["held_out_nrmse"], rtol=1e-4)
    rows = both.rows()
    assert [row["PSNR"] for row in rows] == sorted(row["PSNR"] for row in rows) and {row["image"] for row in rows} == {0, 1, 2, 3}
    errors = [row["held_out_nrmse"] for row in alone.rows()]
    assert errors == sorted(errors, reverse=True)
    assert evaluate(path).to_dict().keys() == {"n", "source", "metrics", "baselines", "network_calls", "seconds_per_image", "conventions"}


def test_a_run_without_ground_truth_is_judged_on_what_it_held_out(inpainting):
    folder = inpainting.parent
    write_spec(inpainting, data={"train": {"measurements": "train_y.npy"}, "validation": 0.2})
    path = train_in(folder / "run", load_spec(inpainting))
    found = evaluate(path)
    assert found.n == 4 and found.source == "the run's validation measurements" and not found.values
    with pytest.raises(DataError, match="no ground truth"):
        evaluate(path, judging=False)
    (folder / "run" / "spec.yaml").unlink()
    with pytest.raises(DataError, match="no spec.yaml"):
        evaluate(path)


def test_what_is_trusted_was_measured():
    assert set(ranking()) <= set(NAMES)
    assert trust("no such number") == "not measured"
