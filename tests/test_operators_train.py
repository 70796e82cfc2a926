"""Every operator, from images and from measurements alone, through `es train` and back through its checkpoint; or refused, with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from operators import IMAGE, OPERATORS, VOLUME, made, physics_part, random, save_arrays
from problems import network, train_in, write_spec

from es_cli.building.forward_operator import build_operator
from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.data.stacks import ArrayStack
from es_cli.errors import DataError, SpecError
from es_cli.evaluate import evaluate
from es_cli.experiment import build_experiment
from es_cli.reconstruct import Reconstructor
from es_cli.spec.component import as_component
from es_cli.training.runtime import resolve_device

TINY = {"steps": 2, "batch_size": 3, "optimizer": {"name": "AdamW", "lr": 0.001}, "validate_every": 2, "preview": False}


def model(shape, kind="DataConsistentMoDL"):
    net = {**network(shape[0]), "dim": len(shape) - 1}
    return {"name": kind, "num_iter": 1, "denoiser": net} if kind == "DataConsistentMoDL" else {"name": kind, "backbone_net": net}


def spec_of(tmp_path, physics, data, shape, **changes):
    changes = {"physics": physics, "data": data, "model": model(shape), "training": TINY, "mask_generator": None} | changes
    return write_spec(tmp_path / "spec.yaml", **changes)


def trained(spec, out="run"):
    return train_in(spec.parent / out, load_spec(spec))


def images(shape, count=8):
    return np.random.default_rng(5).random((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_from_images_to_a_reconstruction_by_the_checkpoint_alone(name, tmp_path):
    save_arrays(tmp_path)
    shape = OPERATORS[name][1]
    np.save(tmp_path / "x.npy", images(shape))
    data = {"train": {"images": "x.npy"}, "test": {"images": "x.npy"}}
    checkpoint = trained(spec_of(tmp_path, physics_part(name, tmp_path), data, shape))
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    y = np.load(checkpoint.parent / "data" / "test_y.npy")
    x = Reconstructor.load(checkpoint, "cpu").reconstruct(y)
    assert x.shape == (8, *shape) and np.isfinite(x).all()
    assert np.isfinite(evaluate(checkpoint, metrics=["PSNR"]).values["pseudoinverse"]["PSNR"]).all()


# operator → what else its spec says where there are measurements alone; the rest take all from the data
FROM_MEASUREMENTS = {
    "Inpainting": {}, "Demosaicing": {}, "Denoising": {}, "MRI": {}, "MRI-3D": {}, "MultiCoilMRI": {}, "MultiCoilMRI-3D": {}, "DynamicMRI": {},
    "SensingMatrix": {"img_size": [1, 16, 16]}, "SensingMatrix-channels": {"img_size": [3, 8, 8]}, "SinglePixelCamera": {}, "Tomography": {},
    "Tomography-number": {}, "Tomography-fan": {"img_width": 16}, "Blur": {}, "BlurFFT": {}, "Downsampling": {}, "Downsampling-file": {},
    "ComposedLinearPhysics": {"img_size": [1, 16, 16]}, "StackedLinearPhysics": {"img_size": [1, 16, 16]},
}  # fmt: skip


def measured(name, tmp_path):
    """Measurements (8, …) of an operator, on disk as y.npy."""
    save_arrays(tmp_path)
    operator = made(name, tmp_path)
    y = operator.physics.A(random(OPERATORS[name][1], batch=8)).numpy()
    np.save(tmp_path / "y.npy", y)
    return operator, y


@pytest.mark.parametrize("name", FROM_MEASUREMENTS)
def test_from_measurements_alone(name, tmp_path):
    operator, y = measured(name, tmp_path)
    part = physics_part(name, tmp_path) | FROM_MEASUREMENTS[name]
    if "mask" in part:
        part["mask"] = "from-data"
    spec = spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, OPERATORS[name][1])
    experiment = build_experiment(load_spec(spec), resolve_device("cpu"))
    assert experiment.operator.image.shape == OPERATORS[name][1]
    assert len(experiment.train) + len(experiment.validation) == 8
    assert np.allclose(experiment.operator.physics.A_adjoint(experiment.train.batch([0])[0]), operator.physics.A_adjoint(experiment.train.batch([0])[0]), atol=1e-5)


@pytest.mark.parametrize("name", ["MRI", "MRI-3D", "MultiCoilMRI", "MultiCoilMRI-3D", "DynamicMRI"])
def test_complex_k_space_gives_complex_images(name, tmp_path):
    _, y = measured(name, tmp_path)
    np.save(tmp_path / "y.npy", y[:, 0] + 1j * y[:, 1])
    spec = spec_of(tmp_path, physics_part(name, tmp_path), {"train": {"measurements": "y.npy"}}, OPERATORS[name][1])
    reconstructor = Reconstructor.load(trained(spec), "cpu")
    kspace = np.load(tmp_path / "y.npy")
    batch, one = reconstructor.reconstruct(kspace), reconstructor.reconstruct(kspace[0])
    assert batch.dtype == np.complex64 and batch.shape == (8, *OPERATORS[name][1][1:])
    # the solver of several coils stops where the last sample of a batch has converged
    assert np.allclose(one, batch[0], atol=1e-2 if "Coil" in name else 1e-5)
    assert np.allclose(reconstructor.reconstruct(y)[:, 0], batch.real, atol=1e-5)


@pytest.mark.parametrize("axes", [(8, 40), (8, 1, 40)])
def test_compressive_measurements_are_many_samples_and_no_image(axes, tmp_path):
    _, y = measured("SensingMatrix", tmp_path)
    np.save(tmp_path / "y.npy", y.reshape(axes))
    np.save(tmp_path / "x.npy", images((1, 16, 16)))
    part = physics_part("SensingMatrix", tmp_path) | {"img_size": [1, 16, 16]}
    data = {"train": {"measurements": "y.npy"}, "test": {"measurements": "y.npy", "images": "x.npy"}}
    checkpoint = trained(spec_of(tmp_path, part, data, IMAGE))
    reconstructor = Reconstructor.load(checkpoint, "cpu")
    assert reconstructor.reconstruct(y.reshape(axes)).shape == (8, 1, 16, 16)
    assert reconstructor.reconstruct(y[0]).shape == (1, 16, 16)
    assert evaluate(checkpoint).n == 8


REFUSED = {
    "PhaseRetrieval": ({"name": "PhaseRetrieval", "B": {"name": "CompressedSensing", "m": 60}}, "needs a linear operator, and PhaseRetrieval is not"),
    "Haze": ({"name": "Haze"}, "needs a linear operator|several arrays|does not measure images"),
    "Pansharpen": ({"name": "Pansharpen", "filter": "gaussian"}, "several arrays"),
    "StackedPhysics": ({"name": "StackedPhysics", "physics_list": [{"name": "Denoising"}, {"name": "Denoising"}]}, "several arrays.*name StackedLinearPhysics"),
    "a stack of k-space": ({"name": "StackedLinearPhysics", "physics_list": [{"name": "Denoising"}, {"name": "MRI"}]}, "k-space are measured together"),
    "a stack of what is not linear": ({"name": "StackedLinearPhysics", "physics_list": [{"name": "Haze"}]}, "Haze is not linear"),
    "noise within a stack": (
        {"name": "StackedLinearPhysics", "physics_list": [{"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}]},
        "physics_list.0.noise_model.*move noise_model up",
    ),
    "noise within a stack, nested": (
        {"name": "StackedLinearPhysics", "physics_list": [{"name": "ComposedLinearPhysics", "physics": [{"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}]}]},
        r"physics_list.0.physics.0.noise_model.*move noise_model up",
    ),
    "SequentialMRI": ({"name": "SequentialMRI", "mask": {"file": "mask3"}, "img_size": [2, 8, 8]}, "the adjoint of SequentialMRI is not"),
    "Blur without filter": ({"name": "Blur"}, "does not measure images"),
    "filter too large": ({"name": "Downsampling", "filter": "nonsense"}, "Downsampling"),
    "coil maps of no kind": ({"name": "MultiCoilMRI", "coil_maps": "guess"}, "no way to make coil maps is called 'guess'"),
    "coil maps from images": ({"name": "MultiCoilMRI", "coil_maps": "espirit"}, "estimated from measurements"),
    "matrix of another size": ({"name": "SensingMatrix", "matrix": {"file": "small"}}, r"\(20, 64\).*wanted \(m, 256\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_before_training(name, tmp_path):
    save_arrays(tmp_path)
    physics, message = REFUSED[name]
    shape = {"SequentialMRI": (2, 8, 8), "Pansharpen": (3, 16, 16)}.get(name, (2, 16, 16) if "coil" in name else (1, 16, 16))
    np.save(tmp_path / "x.npy", images(shape))
    physics = {key: {"file": str(tmp_path / f"{value['file']}.npy")} if isinstance(value, dict) and "file" in value else value for key, value in physics.items()}
    spec = spec_of(tmp_path, physics, {"train": {"images": "x.npy"}}, shape)
    with pytest.raises(SpecError, match=message):
        trained(spec)
    assert not list(tmp_path.glob("run/*.safetensors"))


UNKNOWN = {
    "SensingMatrix": ({}, r"add img_size: \[C, H, W\]"),
    "Blur-valid": ({"filter": {"file": "filter"}}, r"add img_size: \[C, H, W\]"),
    "Tomography-fan": ({}, "add img_width"),
    "ComposedLinearPhysics": ({}, r"add img_size: \[C, H, W\]"),
    "StackedLinearPhysics": ({}, r"add img_size: \[C, H, W\]"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_the_size_of_an_image_cannot_be_known_the_answer_names_the_key(name, tmp_path):
    measured(name, tmp_path)
    changes, message = UNKNOWN[name]
    part = physics_part(name, tmp_path) | {key: {"file": str(tmp_path / f"{value['file']}.npy")} for key, value in changes.items()}
    with pytest.raises(SpecError, match=message):
        trained(spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, IMAGE))


@pytest.mark.parametrize(("part", "hint"), [
    ({"name": "CompressedSensing", "m": 10}, "use SensingMatrix"),
    ({"name": "SinglePixelCamera", "m": 10, "fast": False}, "use SensingMatrix"),
    ({"name": "ComposedLinearPhysics", "physics": [{"name": "CompressedSensing", "m": 9}]}, "CompressedSensing is drawn anew"),
    ({"name": "MultiCoilMRI", "coil_maps": 4}, "4 coil maps is drawn anew"),
])  # fmt: skip
def test_operators_that_are_drawn_do_not_go_with_measurements(part, hint, tmp_path):
    with pytest.raises(SpecError, match=hint):
        load_spec(spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, IMAGE))


def test_measurements_of_another_number_of_angles_are_refused(tmp_path):
    _, y = measured("Tomography", tmp_path)
    np.save(tmp_path / "y.npy", y[..., :-1])
    with pytest.raises(DataError, match=r"\(1, 23, 12\)"):
        trained(spec_of(tmp_path, physics_part("Tomography", tmp_path), {"train": {"measurements": "y.npy"}}, IMAGE))


def smooth_maps(coils=4, size=24):
    """Coil maps that vary slowly and have unit norm at each pixel: complex64 (coils, size, size)."""
    axis = np.linspace(-1, 1, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = np.stack([np.exp(-((x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2) / 2 + 1j * (x * np.cos(a) + y)) for a in angles])
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


def test_coil_maps_are_estimated_once_from_the_first_measurement_and_kept(tmp_path):
    pytest.importorskip("sigpy")
    import torch
    from deepinv.physics import MultiCoilMRI

    maps = smooth_maps()
    mask = np.zeros((24, 24), np.float32)
    mask[:, ::2] = mask[:, 6:18] = 1
    x = np.zeros((4, 2, 24, 24), np.float32)
    x[:, 0, 3:21, 3:21] = 1 + np.random.default_rng(0).random((4, 18, 18)) / 4
    physics = MultiCoilMRI(mask=torch.from_numpy(mask), coil_maps=torch.from_numpy(maps))
    y = physics.A(torch.from_numpy(x)).numpy()
    np.save(tmp_path / "y.npy", y[:, 0] + 1j * y[:, 1])
    np.save(tmp_path / "mask.npy", mask)
    part = {"name": "MultiCoilMRI", "mask": {"file": str(tmp_path / "mask.npy")}, "coil_maps": "espirit"}
    checkpoint = trained(spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, (2, 24, 24)))
    kept = load_checkpoint(checkpoint).tensors["physics.coil_maps"][0].numpy()
    inside = np.abs((np.conj(kept) * maps).sum(0))[5:19, 5:19]  # ESPIRiT is free to choose the phase of each pixel
    assert kept.dtype == np.complex64 and (inside > 0.98).all()
    assert Reconstructor.load(checkpoint, "cpu").reconstruct(np.load(tmp_path / "y.npy")).shape == (4, 24, 24)


def test_espirit_needs_a_fully_sampled_centre_and_its_package(tmp_path, monkeypatch):
    import sys

    _, y = measured("MultiCoilMRI", tmp_path)
    part = physics_part("MultiCoilMRI", tmp_path) | {"coil_maps": "espirit"}
    with pytest.raises(SpecError, match="ESPIRiT needs 8"):
        trained(spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, (2, 16, 16)))
    for name in [name for name in sys.modules if name.split(".")[0] == "sigpy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigpy", None)
    part.pop("mask")
    with pytest.raises(SpecError, match=r"pip install 'es-cli\[mri\]'"):
        trained(spec_of(tmp_path, part, {"train": {"measurements": "y.npy"}}, (2, 16, 16)))


def test_non_cartesian_mri_splits_its_samples(tmp_path):
    pytest.importorskip("mrinufft")
    np.save(tmp_path / "x.npy", images((2, 16, 16)))
    part = {"name": "NonCartesianMRI", "num_shots": 6, "num_samples_per_shot": 16}
    checkpoint = trained(spec_of(tmp_path, part, {"train": {"images": "x.npy"}, "test": {"images": "x.npy"}}, (2, 16, 16), model=model((2,) * 3, "ArtifactRemoval")))
    y = np.load(checkpoint.parent / "data" / "test_y.npy")
    assert y.shape == (8, 2, 1, 96) and Reconstructor.load(checkpoint, "cpu").reconstruct(y).shape == (8, 2, 16, 16)


@pytest.mark.parametrize("shape", [IMAGE, VOLUME])
def test_one_sample_without_a_sample_axis_is_one_sample(shape, tmp_path):
    name = "Tomography" if shape == IMAGE else "MRI-3D"
    _, y = measured(name, tmp_path)
    np.save(tmp_path / "y.npy", y[0, 0] if shape == IMAGE else y[0, 0] + 1j * y[0, 1])
    preview = {**TINY, "preview": shape == VOLUME}
    checkpoint = trained(spec_of(tmp_path, physics_part(name, tmp_path), {"train": {"measurements": "y.npy"}}, shape, training=preview))
    assert checkpoint.is_file() and (checkpoint.parent / "previews").is_dir() == (shape == VOLUME)


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "MRI-3D", "MultiCoilMRI", "MultiCoilMRI-3D", "DynamicMRI"])
@pytest.mark.parametrize("mask", [0.5, {"name": "GaussianMaskGenerator", "acceleration": 2}], ids=["ratio", "generator"])
def test_a_mask_that_is_drawn_is_drawn_once_and_shared_by_coils_and_channels(name, mask, tmp_path):
    save_arrays(tmp_path)
    shape = OPERATORS[name][1]
    stack = ArrayStack(np.zeros((1, *shape), np.float32), ["x"])
    part = as_component(physics_part(name, tmp_path) | {"mask": mask})
    one, same, other = (build_operator(part, stack, True, seed).physics.mask for seed in (0, 0, 1))
    kept = one.float().mean()
    assert one.equal(same) and not one.equal(other) and 0.25 < kept < 0.75
    assert one.shape[-2:] == shape[-2:] and set(one.unique().tolist()) == {0, 1}


def test_the_norm_that_an_operator_is_divided_by_follows_from_the_seed(tmp_path):
    save_arrays(tmp_path)
    stack = ArrayStack(np.zeros((1, *IMAGE), np.float32), ["x"])
    part = as_component(physics_part("Tomography", tmp_path))
    one, same, other = (build_operator(part, stack, True, seed).physics.operator_norm for seed in (0, 0, 1))
    assert one.equal(same) and np.allclose(one, other, rtol=0.1)
