"""What `es check` says of an operator, against dense matrices; and what is wrong with measurements, found and named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from deepinv.physics import MRI, Blur, Denoising, GaussianNoise, Inpainting, LinearPhysics, MultiCoilMRI, PoissonNoise
from operators import OPERATORS, made, random
from problems import network, smooth, write_spec

from es_cli.catalog import load_spec
from es_cli.diagnostics.agreement import fourier_convention, image_scale, mask_mismatch, noise_share, range_residual
from es_cli.diagnostics.algebra import adjoint_error, linearity_error, probe_images, rounding, spectrum, steps_for, unseen_fraction
from es_cli.diagnostics.operator import operator_finding
from es_cli.experiment import build_experiment

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def singular_values(physics, shape):
    pixels = torch.eye(int(np.prod(shape))).view(-1, *shape)
    return torch.linalg.svdvals(physics.A(pixels).flatten(1).double())


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_measured_as_its_dense_matrix_says(name, tmp_path):
    physics, shape = made(name, tmp_path).physics, OPERATORS[name][1]
    singular = singular_values(physics, shape)
    found = spectrum(physics, shape, 30)
    assert found.norm == pytest.approx(float(singular[0]), rel=1e-3)
    held = singular[singular > 1e-3 * singular[0]]
    if found.condition is not None:
        assert found.condition == pytest.approx(float(singular[0] / held[-1]), rel=1e-2)
    smallest = singular[singular > 1e-5 * singular[0]][-1]
    assert found.condition_at_least <= 1.01 * float(singular[0] / smallest)
    pixels = int(np.prod(shape))
    visible = 1 - int((singular > 0.1 * singular[0]).sum()) / pixels
    assert unseen_fraction(physics, shape, found.norm, 40) <= visible + 0.02
    assert adjoint_error(physics, shape) < rounding(pixels) and linearity_error(physics, shape) < rounding(pixels)


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "DynamicMRI", "CompressedSensing", "SensingMatrix", "SinglePixelCamera", "BlurFFT", "Demosaicing"])
def test_condition_and_null_space_are_exact_where_they_are_cheap(name, tmp_path):
    physics, shape = made(name, tmp_path).physics, OPERATORS[name][1]
    singular = singular_values(physics, shape)
    held = singular[singular > 1e-3 * singular[0]]
    found = spectrum(physics, shape, 30)
    assert found.condition == pytest.approx(float(singular[0] / held[-1]), rel=1e-2)
    if name != "BlurFFT":
        assert unseen_fraction(physics, shape, found.norm, 40) == pytest.approx(1 - len(held) / int(np.prod(shape)), abs=1e-3)


def test_what_a_blur_hides_is_found_without_its_matrix():
    physics, shape = Blur(gaussian(1.0), padding="circular"), (1, 12, 12)
    singular = singular_values(physics, shape)
    hidden = 1 - int((singular > 1e-3**0.5 * singular[0]).sum()) / 144
    assert hidden > 0.3
    assert unseen_fraction(physics, shape, float(singular[0]), 40) == pytest.approx(hidden, abs=0.15)


def test_coils_that_see_the_same_do_not_count_twice():
    mask = (torch.arange(16) % 4 == 0).float().expand(16, 16)
    physics = MultiCoilMRI(mask=mask, coil_maps=torch.ones(1, 5, 16, 16, dtype=torch.complex64) / 5**0.5, img_size=(2, 16, 16))
    assert unseen_fraction(physics, (2, 16, 16), 1.0, 12) == pytest.approx(0.75, abs=0.08)


def gaussian(sigma):
    axis = torch.arange(-3, 4).float()
    line = torch.exp(-(axis**2) / (2 * sigma**2))
    return (line[:, None] * line / line.sum() ** 2)[None, None]


class Adjointless(Blur):
    def A_adjoint(self, y, **kwargs):
        return super().A_adjoint(y) * 1.01


class WrongShape(Denoising):
    def A_adjoint(self, y, **kwargs):
        return y[..., :-1]


class Affine(LinearPhysics):
    def A(self, x, **kwargs):
        return x + 0.01


def test_a_broken_adjoint_and_an_offset_are_found():
    assert adjoint_error(Adjointless(gaussian(1.0), padding="circular"), (1, 16, 16)) == pytest.approx(0.01, rel=0.01)
    assert adjoint_error(WrongShape(), (1, 8, 8)) == float("inf")
    assert linearity_error(Affine(), (1, 8, 8)) > 0.005


def test_a_mask_of_each_sample_is_that_of_its_operator():
    masks = torch.stack([(torch.arange(64).view(1, 8, 8) % n > 0).float() for n in (2, 3, 4)])
    physics = Inpainting((1, 8, 8), mask=masks)
    y = physics.A(random((1, 8, 8), batch=3))
    found = mask_mismatch(physics, y)
    assert found.beyond == 0 and found.silent == 0
    assert adjoint_error(physics, (1, 8, 8)) < rounding(64)
    assert mask_mismatch(physics, y.flip(0)).beyond > 0.1
    assert mask_mismatch(Denoising(), y) is None


MASK = (torch.rand(16, 16, generator=torch.Generator().manual_seed(4)) < 0.4).float()


@pytest.mark.parametrize(("measured", "cause"), [
    (1 - MASK, "swapped"), (torch.fft.fftshift(MASK), "fftshift"), (MASK.flip(0), "upside down"), (MASK.flip(1), "mirrored"), (MASK.T, "transposed"), (torch.ones(16, 16), "never been masked"),
])  # fmt: skip
def test_what_was_done_to_a_mask_is_named(measured, cause):
    y = random((1, 16, 16)) * measured
    found = mask_mismatch(Inpainting((1, 16, 16), mask=MASK[None]), y)
    assert found.beyond > 0.1 and cause in found.likely
    assert mask_mismatch(Inpainting((1, 16, 16), mask=measured[None]), y).likely == ""


def test_sites_of_a_mask_where_nothing_was_measured_are_counted():
    y = random((1, 16, 16)) * MASK * (torch.arange(16) < 8)
    found = mask_mismatch(Inpainting((1, 16, 16), mask=MASK[None]), y)
    assert found.beyond == 0 and found.silent == pytest.approx(float(MASK[:, 8:].sum() / MASK.sum()))


def test_what_no_image_explains_lies_out_of_range(tmp_path):
    physics = made("Downsampling-file", tmp_path).physics
    assert float(range_residual(physics, physics.A(random((1, 16, 16))), 30).max()) < 1e-3
    tall = made("StackedLinearPhysics", tmp_path).physics
    y = tall.A(random((1, 16, 16)))
    matrix = tall.A(torch.eye(256).view(-1, 1, 16, 16)).T.double()
    wrong = y + random(y.shape[1:], seed=5)
    expected = (wrong.T.double() - matrix @ torch.linalg.pinv(matrix) @ wrong.T.double()).norm(dim=0) / wrong.norm(dim=1)
    assert torch.allclose(range_residual(tall, wrong, 60).double(), expected, atol=5e-3)
    assert float(expected.min()) > 10 * float(range_residual(tall, y, 60).max())


def test_noise_explains_what_it_adds():
    x = random((1, 32, 32)).abs() + 1
    for noise in (GaussianNoise(0.3), PoissonNoise(0.2)):
        physics = Denoising(noise_model=noise)
        torch.manual_seed(0)
        y = physics(x)
        assert noise_share(physics, y).mean() == pytest.approx(float(((y - x).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()), rel=0.1)


def measured_kspace(how):
    """k-space (n, 16, 16) of pictures whose edges are dark, by transforms of all conventions."""
    window = np.hanning(18)[1:-1]
    images = smooth(6, 16) * window[:, None] * window
    images = images if how == "no ifftshift" else np.fft.ifftshift(images, axes=(-2, -1))
    kspace = np.fft.fft2(4 * images) if how == "not ortho" else np.fft.fft2(images, norm="ortho")
    return (kspace if how == "centre in the corner" else np.fft.fftshift(kspace, axes=(-2, -1))).astype(np.complex64)


def mri_experiment(tmp_path, kspace, mask=None, **changes):
    np.save(tmp_path / "y.npy", kspace)
    physics = {"name": "MRI", "mask": "from-data"}
    if mask is not None:
        np.save(tmp_path / "mask.npy", mask)
        physics["mask"] = {"file": "mask.npy"}
    changes = {"physics": physics, "data": {"train": {"measurements": "y.npy"}}, "mask_generator": None} | changes
    changes.setdefault("model", {"name": "ArtifactRemoval", "backbone_net": network(2)})
    return build_experiment(load_spec(write_spec(tmp_path / "spec.yaml", **changes)), CPU)


COLUMNS = np.isin(np.arange(16), [0, 2, 5, 7, 8, 9, 13])[None].repeat(16, 0).astype(np.float32)


@pytest.mark.parametrize(("how", "verdict", "said"), [
    ("right", "good", "lie in its range"), ("centre in the corner", "no", "an fftshift is missing"), ("no ifftshift", "doubtful", "an ifftshift was left out"),
    ("not ortho", "doubtful", 'an FFT without norm="ortho"'),
])  # fmt: skip
def test_the_convention_of_the_fourier_transform_is_told(how, verdict, said, tmp_path):
    mask = np.fft.ifftshift(COLUMNS) if how == "centre in the corner" else COLUMNS
    found = operator_finding(mri_experiment(tmp_path, measured_kspace(how) * mask), quick=True)
    assert (found.verdict, said in found.reason) == (verdict, True), found
    assert bool(found.advice) == (verdict != "good")


def test_a_mask_of_other_columns_contradicts_the_data(tmp_path):
    found = operator_finding(mri_experiment(tmp_path, measured_kspace("right") * COLUMNS, COLUMNS[:, ::-1].copy()), quick=True)
    assert found.verdict == "no" and "contradict the mask" in found.reason and "mirrored" in found.reason
    assert operator_finding(mri_experiment(tmp_path, measured_kspace("right") * COLUMNS, COLUMNS), quick=False).verdict == "good"


def test_columns_that_nobody_acquired_are_doubtful(tmp_path):
    found = operator_finding(mri_experiment(tmp_path, measured_kspace("right") * COLUMNS, np.maximum(COLUMNS, COLUMNS[:, ::-1])), quick=True)
    assert found.verdict == "doubtful" and "acquired k-space is never exactly 0" in found.reason


def test_noise_on_what_was_not_measured_is_doubtful_and_no_contradiction(tmp_path):
    real, imaginary = 0.01 * np.random.default_rng(0).normal(size=(2, 6, 16, 16))
    noisy = measured_kspace("right") * COLUMNS + real + 1j * imaginary
    physics = {"name": "MRI", "mask": {"file": "mask.npy"}, "noise_model": {"name": "GaussianNoise", "sigma": 0.01}}
    found = operator_finding(mri_experiment(tmp_path, noisy.astype(np.complex64), COLUMNS, physics=physics), quick=True)
    assert found.verdict == "doubtful" and "no more than the noise" in found.reason


def test_energy_of_white_noise_lies_everywhere():
    found = fourier_convention(MRI(img_size=(2, 64, 64)), random((2, 64, 64)))
    assert np.allclose([*found.kspace, *found.image], 0.5, atol=0.05)
    assert fourier_convention(Denoising(), random((1, 8, 8))) is None


def test_images_have_the_size_they_had(tmp_path):
    x = torch.from_numpy(smooth(2, 16))[:, None]
    for name in ("Denoising", "Tomography-number", "Blur", "CompressedSensing"):
        size = image_scale(made(name, tmp_path).physics, made(name, tmp_path).physics.A(50 * x))
        assert 10 < size.image < 100


@pytest.mark.parametrize(("factor", "scale", "verdict"), [(1, "none", "good"), (255, "none", "doubtful"), (255, "per-sample", "good"), (255, 255, "good")])
def test_a_scale_that_networks_do_not_expect_is_told_unless_data_scale_mends_it(factor, scale, verdict, inpainting):
    folder = inpainting.parent
    np.save(folder / "train_y.npy", factor * np.load(folder / "train_y.npy"))
    spec = write_spec(inpainting, data={"train": {"measurements": "train_y.npy"}, "scale": scale})
    found = operator_finding(build_experiment(load_spec(spec), CPU), quick=True)
    assert found.verdict == verdict
    if verdict == "doubtful":
        assert "pixel values from 0 to 255" in found.reason and found.advice == "add scale: per-sample to data"


def test_a_scale_of_the_adjoint_that_is_not_the_images_is_replaced_by_a_number(tmp_path):
    np.save(tmp_path / "x.npy", smooth(6, 16)[:, None])
    physics = {"name": "Tomography", "angles": 12, "normalize": False}
    changes = {"physics": physics, "data": {"train": {"images": "x.npy"}, "scale": "per-sample"}, "mask_generator": {"name": "AngleSplittingMaskGenerator"}}
    found = operator_finding(build_experiment(load_spec(write_spec(tmp_path / "spec.yaml", **changes)), CPU), quick=True)
    assert found.verdict == "doubtful" and found.reason.startswith("images have a size") and found.advice.startswith("set scale to ")
    changes["data"]["scale"] = float(found.advice.split()[3])
    found = operator_finding(build_experiment(load_spec(write_spec(tmp_path / "spec.yaml", **changes)), CPU), quick=True)
    assert 0.1 < found.numbers["image_size"] < 10 and "images have a size" not in found.reason


def test_an_image_that_no_angle_explains_contradicts_tomography(tmp_path):
    y = made("Tomography", tmp_path).physics.A(torch.from_numpy(smooth(6, 16))[:, None]).numpy()
    physics = {"name": "Tomography", "angles": {"file": str(tmp_path / "angles.npy")}, "normalize": True}
    wrong = np.random.default_rng(0).normal(size=y.shape).astype(np.float32) * y.std()
    verdicts = {}
    for name, values in {"right": y, "noise": wrong}.items():
        np.save(tmp_path / "y.npy", values)
        spec = write_spec(tmp_path / "spec.yaml", physics=physics, data={"train": {"measurements": "y.npy"}}, mask_generator=None)
        verdicts[name] = operator_finding(build_experiment(load_spec(spec), CPU), quick=False)
    assert verdicts["right"].verdict == "good", verdicts["right"]
    assert verdicts["noise"].verdict != "good" and "no image explains" in verdicts["noise"].reason


@pytest.mark.parametrize("quick", [True, False])
def test_the_numbers_are_plain_and_the_same_each_time(quick, inpainting):
    experiment = build_experiment(load_spec(inpainting), CPU)
    found = operator_finding(experiment, quick=quick)
    assert json.loads(json.dumps(found.numbers, allow_nan=False)) == found.numbers
    assert found == operator_finding(experiment, quick=quick)
    assert found.numbers["norm"] == 1 and found.numbers["stored_as"] == "float32"


def test_samples_that_are_empty_are_counted(inpainting):
    y = np.load(inpainting.parent / "train_y.npy")
    y[:] *= np.arange(len(y))[:, None, None, None] % 2
    np.save(inpainting.parent / "train_y.npy", y)
    found = operator_finding(build_experiment(load_spec(inpainting), CPU), quick=False)
    assert found.verdict == "doubtful" and "0 everywhere" in found.reason


def test_samples_of_several_sizes_are_looked_at(tmp_path):
    for i, size in enumerate((16, 16, 24, 24, 24)):
        np.save(tmp_path / f"x{i}.npy", smooth(1, size, seed=i))
    spec = write_spec(
        tmp_path / "spec.yaml", physics={"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}},
        data={"train": {"images": str(tmp_path / "x*.npy")}}, mask_generator=None,
    )  # fmt: skip
    found = operator_finding(build_experiment(load_spec(spec), CPU), quick=False)
    assert found.verdict == "good" and found.numbers["measurement_shape"][-2:] == [24, 24]


def test_probe_images_fall_off_like_natural_ones():
    power = torch.fft.fft2(probe_images(20, (1, 64, 64), 0)).abs().square().mean((0, 1))
    assert 12 < float(power[0, 4] / power[0, 16]) < 20
    assert steps_for((1, 320, 320), False) < steps_for((1, 64, 64), False)
