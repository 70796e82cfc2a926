"""Samples of several sizes in one data set, through the whole tool: train, resume, evaluate, reconstruct; and what is refused before training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import es, network, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import read_metadata
from es_cli.data.batches import Epochs, in_order, steps_per_epoch
from es_cli.data.stacks import find_nonfinite, open_stack
from es_cli.errors import DataError
from es_cli.evaluate import evaluate
from es_cli.experiment import SHAPES_TRIED, build_experiment
from es_cli.reconstruct import Reconstructor
from es_cli.spec.rule import read_rule
from es_cli.spec.schema import Source
from es_cli.training.events import Step
from es_cli.training.run import resume

WIDTHS = [16, 20, 16, 12, 20, 16, 16, 20, 16, 20, 12]  # of images that are 16 pixels high
TESTED = 4  # the last of them
REFLECTIONS = {"group": "reflections"}
RNG = np.random.default_rng(4)


def images() -> list[np.ndarray]:
    return [smooth(1, 20, seed)[0, :16, :width] + 0.1 for seed, width in enumerate(WIDTHS)]


def save(folder: Path, name: str, arrays: list[np.ndarray]) -> None:
    for part, some in ((name, arrays[:-TESTED]), (f"test_{name}", arrays[-TESTED:])):
        (folder / part).mkdir()
        for number, array in enumerate(some):
            np.save(folder / part / f"{number:02d}.npy", array)


def data(own: bool = True) -> dict:
    made: dict = {"train": {"measurements": "y"}, "validation": 0.3, "test": {"measurements": "test_y", "images": "test_x"}}
    if own:
        made["train"]["params"], made["test"]["params"] = {"mask": "mask"}, {"mask": "test_mask"}
    return made


def trained(spec: Path, *overrides: str, out: str = "run", **kwargs: object) -> Path:
    return train_in(spec.parent / out, load_spec(spec, overrides), **kwargs)


@pytest.fixture(params=["Inpainting", "MRI", "MultiCoilMRI", "Denoising", "Blur", "BlurFFT"])
def mixed(request, tmp_path: Path) -> Path:
    """A spec for samples of three widths, each with the mask and the coil maps that its operator has."""
    kind, x = request.param, images()
    if kind in {"Denoising", "Blur", "BlurFFT"}:
        noisy = [(image + 0.05 * RNG.normal(size=image.shape)).astype(np.float32) for image in x]
        save(tmp_path, "x", x)
        save(tmp_path, "y", noisy)
        np.save(tmp_path / "filter.npy", np.ones((1, 1, 3, 3), np.float32) / 9)
        physics = {"name": kind} if kind == "Denoising" else {"name": kind, "filter": {"file": "filter.npy"}}
        physics |= {"padding": "circular"} if kind == "Blur" else {}
        return write_spec(tmp_path / "spec.yaml", physics=physics, data=data(own=False), transforms=REFLECTIONS)
    if kind == "Inpainting":
        masks = [(RNG.random(image.shape) < 0.6).astype(np.float32) for image in x]
        y = [image * mask for image, mask in zip(x, masks, strict=True)]
        model = {"name": "ArtifactRemoval", "backbone_net": network(1)}
    else:
        x = [(image * np.exp(1j)).astype(np.complex64) for image in x]
        masks = [np.broadcast_to((np.arange(image.shape[1]) % 2 == 0) | (RNG.random(image.shape[1]) < 0.5), image.shape) for image in x]
        maps = [(RNG.normal(size=(2, *image.shape)) + 1j * RNG.normal(size=(2, *image.shape))).astype(np.complex64) for image in x]
        coils = [image * one if kind == "MultiCoilMRI" else image for image, one in zip(x, maps, strict=True)]
        kspace = [np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(one, axes=(-2, -1)), norm="ortho"), axes=(-2, -1)) for one in coils]
        y = [(one * mask).astype(np.complex64) for one, mask in zip(kspace, masks, strict=True)]
        save(tmp_path, "coil_maps", maps)
        model = {"name": "ArtifactRemoval", "backbone_net": network(2)}
    for name, arrays in (("x", x), ("y", y), ("mask", [np.asarray(mask, np.float32) for mask in masks])):
        save(tmp_path, name, arrays)
    made = data()
    if kind == "MultiCoilMRI":
        made["train"]["params"]["coil_maps"], made["test"]["params"]["coil_maps"] = "coil_maps", "test_coil_maps"
    return write_spec(tmp_path / "spec.yaml", physics={"name": kind}, data=made, transforms=REFLECTIONS, model=model)


def test_training_resuming_evaluating_and_reconstructing(mixed):
    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    previewed = "name: MRI" in mixed.read_text()  # pictures take longer than training
    folder, options = mixed.parent, ("training.epochs=2", "training.steps=null", f"training.preview={previewed}".lower(), "training.batch_size=2")
    model = trained(mixed, *options)
    with pytest.raises(BaseException, match="signal 2"):
        trained(mixed, *options, out="cut", on_event=stop)
    assert resume(folder / "cut", device="cpu").read_bytes() == model.read_bytes()
    assert previewed == bool(list((model.parent / "previews").glob("*.png")))
    metadata = read_metadata(model)
    assert sorted(size[-1] for size in metadata.measurement["sizes"]) == [12, 16, 20]
    found = evaluate(model)
    assert found.n == TESTED and all(np.isfinite(values).all() for of_who in found.values.values() for values in of_who.values())
    loaded = Reconstructor.load(model, "cpu")
    for number in range(TESTED):
        y, x = (np.load(folder / f"test_{name}" / f"{number:02d}.npy") for name in "yx")
        own = {name: np.load(folder / f"test_{name}" / f"{number:02d}.npy") for name in metadata.measurement["per_sample"]}
        made = loaded.reconstruct(y, params=own)
        assert made.shape == x.shape and made.dtype == x.dtype
        error = np.abs(np.abs(made) - np.abs(x)) if np.iscomplexobj(x) else made - x
        assert -10 * np.log10((error**2).mean()) == pytest.approx(found.values["reconstruction"]["PSNR"][number], abs=1e-2)


def test_each_sample_comes_once_an_epoch_and_only_with_samples_of_its_shape(mixed):
    train = build_experiment(load_spec(mixed), torch.device("cpu")).train
    epochs = Epochs(train, 2, seed=7)
    assert epochs.steps == steps_per_epoch(train, 2) == len(list(in_order(train, 2)))
    orders = []
    for epoch in range(2):
        batches = [epochs.positions(1 + epoch * epochs.steps + i) for i in range(epochs.steps)]
        assert sorted(i for batch in batches for i in batch) == list(range(len(train)))
        assert all(len({train.shape_at(i) for i in batch}) == 1 for batch in batches)
        assert batches == [Epochs(train, 2, seed=7).positions(1 + epoch * epochs.steps + i) for i in range(epochs.steps)]
        orders.append(batches)
    assert orders[0] != orders[1]


def test_a_sample_of_another_size_gives_what_a_network_of_its_size_gives(mixed):
    """Where all samples have one size, nothing but the size of the others differs: the operators are the same."""
    folder, spec = mixed.parent, load_spec(mixed)
    made = build_experiment(spec, torch.device("cpu"))
    position = next(i for i in range(len(made.train)) if made.train.shape_at(i)[-1] != made.operator.image.shape[-1])
    number = made.train.keys([position])[0]
    for name in {"y", *made.train.params}:
        (folder / f"one_{name}").mkdir()
        for copy in range(2):
            np.save(folder / f"one_{name}" / f"{copy}.npy", np.load(folder / name / f"{number:02d}.npy"))
    own = [f"data.train.params.{name}=one_{name}" for name in made.train.params]
    alone = build_experiment(load_spec(mixed, ["data.train.measurements=one_y", "data.test=null", *own]), torch.device("cpu"))
    assert not alone.operator.image.free
    y, _, physics, _ = made.reconstruction.batch(made.train, [position], torch.device("cpu"))
    other, _, wanted, _ = alone.reconstruction.batch(alone.train, [0], torch.device("cpu"))
    assert torch.equal(y, other)
    assert torch.allclose(physics.A_adjoint(y), wanted.A_adjoint(y)) and torch.allclose(physics.A(physics.A_adjoint(y)), wanted.A(wanted.A_adjoint(y)))


@pytest.fixture
def kspace(tmp_path: Path) -> Path:
    """A folder of k-space of two widths, with masks of columns."""
    (tmp_path / "y").mkdir()
    for number, width in enumerate([16, 20, 16, 20]):
        y = (RNG.normal(size=(16, width)) + 1j * RNG.normal(size=(16, width))) * (np.arange(width) % 2 == 0)
        np.save(tmp_path / "y" / f"{number}.npy", y.astype(np.complex64))
    return write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MRI"},
        data={"train": {"measurements": "y", "params": {"mask": "from-data"}}, "validation": 0.3},
        transforms=REFLECTIONS,
        model={"name": "DataConsistentMoDL", "num_iter": 2, "denoiser": network(2)},
        mask_generator={"name": "LineSplittingMaskGenerator", "split_ratio": 0.6, "center_lines": 2},
    )


def test_masks_are_read_off_data_of_several_sizes(kspace, capfd):
    model = trained(kspace, "training.steps=2")
    one, out = kspace.parent / "y" / "1.npy", kspace.parent / "x.npy"
    assert es(["reconstruct", "--ckpt", str(model), str(one), "--param", "mask=from-data", "-o", str(out)]) == 0
    assert np.load(out).shape == (16, 20)
    capfd.readouterr()
    assert es(["info", str(model)]) == 0
    assert "2 × 16 × 20" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["transforms={group: D4}"], 2, ["turns images by 90°", "16 × 20"]),
        (["transforms={train: [{name: Rotate, multiples: 90}]}"], 2, ["Rotate", "group: reflections or shifts"]),
        (["physics={name: MRI, mask: from-data}"], 3, ["2 of (16, 16) (0.npy, …)", "2 of (16, 20)", "physics.mask has one size", "data.params: {mask: from-data}"]),
        (["physics={name: MRI, img_size: [16, 16]}"], 3, ["physics.img_size is one size"]),
        (["physics={name: MRI, noise_model: {name: GaussianNoise, sigma: {file: s.npy}}}"], 3, ["noise level is an array of one size"]),
        (["physics={name: Downsampling, factor: 2}", "data.train.params=null"], 3, ["Downsampling is built for one size"]),
        (["physics={name: Blur, filter: {file: filter.npy}}", "data.train.params=null"], 3, ["add padding: circular"]),
        (["mask_generator={name: GaussianSplittingMaskGenerator, split_ratio: 0.5}"], 2, ["masks of one size", "LineSplittingMaskGenerator"]),
        (["model.denoiser={name: EquivariantUNet, in_channels: 2, out_channels: 2, channels_per_scale: [8, 8, 8, 8]}"], 2, ["16 × 20", "multiples of 8"]),
        (["data.train.params.mask=y/0.npy"], 3, ["one array of mask for samples of several sizes", "one file for each sample"]),
        (["data.train.params.mask=masks"], 3, ["(16, 16)", "wanted (16, 20)"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused_before_training(kspace, capfd, changes, code, words):
    (kspace.parent / "masks").mkdir()
    for number in range(4):
        np.save(kspace.parent / "masks" / f"{number}.npy", np.ones((16, 16)))
    assert es(["train", str(kspace), *changes, "-o", str(kspace.parent / "new")]) == code
    err = capfd.readouterr().err
    assert all(word in err for word in words), err
    assert not (kspace.parent / "new").exists()


def test_sizes_that_the_network_or_its_group_does_not_take_are_refused_at_reconstruction(kspace):
    denoiser = "{name: EquivariantUNet, in_channels: 2, out_channels: 2, channels_per_scale: [8, 8, 8]}"
    loaded = Reconstructor.load(trained(kspace, "training.steps=1", f"model.denoiser={denoiser}"), "cpu")
    whole = {"mask": "from-data"}
    assert loaded.reconstruct(np.ones((12, 24), np.complex64), params=whole).shape == (12, 24)
    with pytest.raises(DataError, match=r"\(2, 16, 18\).*multiples of 4.*trained on \(2, 16, 16\), \(2, 16, 20\)"):
        loaded.reconstruct(np.ones((16, 18), np.complex64), params=whole)


def test_inpainting_of_another_size_needs_a_mask_of_its_own(tmp_path):
    x = images()
    masks = [(RNG.random(image.shape) < 0.6).astype(np.float32) for image in x]
    save(tmp_path, "y", [image * mask for image, mask in zip(x, masks, strict=True)])
    save(tmp_path, "mask", masks)
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting"}, data={"train": data()["train"]}, transforms={"group": "shifts"})
    loaded = Reconstructor.load(trained(spec, "training.steps=1"), "cpu")
    assert loaded.reconstruct(x[0]).shape == (16, 16)
    with pytest.raises(DataError, match="--param mask=FILE"):
        loaded.reconstruct(x[1])


@pytest.mark.parametrize("physics", [{"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}, {"name": "Demosaicing"}], ids=lambda p: p["name"])
def test_pictures_of_several_sizes_are_measured_once_and_kept_for_evaluation(tmp_path, physics):
    from PIL import Image

    colours = 3 if physics["name"] == "Demosaicing" else 1
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number, width in enumerate([16, 20, 16, 18]):
            picture = (255 * smooth(3, 20, number)[:, :16, :width]).astype(np.uint8)
            Image.fromarray(picture[0] if colours == 1 else picture.transpose(1, 2, 0)).save(tmp_path / part / f"{number}.png")
    np.save(tmp_path / "sigma.npy", sigma := np.linspace(0.01, 0.4, 4))
    own = {"params": {"sigma": "sigma.npy"}} if physics["name"] == "Denoising" else {}
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics=physics,
        data={"train": {"images": "train", **own}, "test": {"images": "test", **own}, "scale": "per-sample"},
        transforms=REFLECTIONS,
        model={"name": "ArtifactRemoval", "backbone_net": network(colours)},
    )
    model = trained(spec, "training.steps=2", "training.batch_size=2")
    assert len(list((model.parent / "data" / "test_y").iterdir())) == 4
    found = evaluate(model)
    assert found.n == 4
    given = {"sigma": sigma} if own else {}
    again = evaluate(model, measurements=model.parent / "data" / "test_y", images=tmp_path / "test", params=given)
    assert again.to_dict()["metrics"] == found.to_dict()["metrics"]
    quality = found.values["adjoint"]["PSNR"]
    assert not own or (np.diff(quality) < 0).all()  # each picture was measured with the noise of its own
    np.save(tmp_path / "two.npy", smooth(2, 16))
    other = write_spec(tmp_path / "other.yaml", data={"train": {"images": "two.npy"}, "test": {"images": "two.npy"}}, physics={"name": "Inpainting", "mask": 0.5})
    replaced = train_in(model.parent, load_spec(other, ["training.steps=1"]), overwrite=True)
    assert evaluate(replaced).n == 2


def test_deepinv_losses_over_several_sizes(mixed):
    """Each loss is tried on each size before training, and validates sample by sample."""
    made = build_experiment(load_spec(mixed, ["losses=[{name: EILoss, weight: 0.5}, MCLoss]"]), torch.device("cpu"))
    for positions in in_order(made.validation, 4):
        y, _, physics, scale = made.reconstruction.batch(made.validation, positions, torch.device("cpu"))
        assert made.objective.held_out(y, physics, made.validation.keys(positions), scale=scale).isfinite().all()


@pytest.mark.parametrize("kind", ["MRI", "DynamicMRI"])
def test_volumes_and_sequences_of_several_lengths(tmp_path, kind):
    """Masks may differ from slice to slice and from frame to frame."""
    for name in ("y", "mask"):
        (tmp_path / name).mkdir()
    for number, length in enumerate([4, 6, 4, 6]):
        mask = RNG.random((length, 8, 8 + length)) < 0.5
        y = (RNG.normal(size=mask.shape) + 1j * RNG.normal(size=mask.shape)) * mask
        np.save(tmp_path / "y" / f"{number}.npy", y.astype(np.complex64))
        np.save(tmp_path / "mask" / f"{number}.npy", mask)
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": kind, **({"three_d": True} if kind == "MRI" else {})},
        data={"train": {"measurements": "y", "params": {"mask": "mask"}}},
        transforms=REFLECTIONS,
        model={"name": "ArtifactRemoval", "backbone_net": {**network(2), "dim": 3}},
    )
    train = (made := build_experiment(load_spec(spec), torch.device("cpu"))).train
    lengths = []
    for positions in in_order(train, 4):
        y, _, physics, _ = made.reconstruction.batch(train, positions, torch.device("cpu"))
        lengths.append(y.shape[2])
        assert torch.equal(physics.A(physics.A_adjoint(y)) != 0, y != 0)
        assert made.objective(y, physics, 0)[0].isfinite()
    assert lengths == [4, 6]


def test_volumes_of_fastmri_of_several_widths(tmp_path):
    """Whole volumes are held out, and the slices of one width come together."""
    import h5py

    (tmp_path / "scans").mkdir()
    for number, width in enumerate([16, 18, 16, 20]):
        with h5py.File(tmp_path / "scans" / f"{number}.h5", "w") as file:
            kspace = RNG.normal(size=(3, 16, width)) + 1j * RNG.normal(size=(3, 16, width))
            file["kspace"] = (kspace * (np.arange(width) % 2 == 0)).astype(np.complex64)
            file["ismrmrd_header"] = "x"
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MRI"},
        data={"train": {"measurements": "scans", "params": {"mask": "from-data"}}, "validation": 0.25, "scale": "per-sample"},
        transforms={"group": "shifts"},
        model={"name": "ArtifactRemoval", "backbone_net": network(2)},
    )
    model = trained(spec, "training.steps=3", "training.validate_every=3")
    made = build_experiment(load_spec(spec), torch.device("cpu"))
    assert len(made.validation) == 3 and len({made.train.shape_at(i) for i in range(9)}) > 1
    made_of = Reconstructor.load(model, "cpu").reconstruct(np.ones((3, 16, 18), np.complex64), params={"mask": "from-data"})
    assert made_of.shape == (3, 16, 18)


def test_options_of_other_work_go_with_several_sizes(kspace, monkeypatch):
    """Compiled, in lower precision, with complementary splits, by another test rule: each meets batches of several sizes."""
    monkeypatch.setattr("es_cli.networks.running.BACKEND", "eager")
    model = trained(kspace, "training.steps=5", "training.compile=true", "training.precision=bfloat16", "training.splits=complementary", "training.folds=2")
    loaded = Reconstructor.load(model, "cpu", "bfloat16", read_rule("splits=complementary,folds=2,group=random,samples=1"))
    assert loaded.network_calls == 2
    for number, width in enumerate([16, 20]):
        y = np.load(kspace.parent / "y" / f"{number}.npy")
        made = loaded.reconstruct(y, params={"mask": "from-data"})
        assert made.shape == (16, width) and np.isfinite(made).all()


def test_an_image_of_another_size_than_its_measurement_is_refused_before_anything_is_made(kspace, capfd):
    model, folder = trained(kspace, "training.steps=1"), kspace.parent
    for name, widths in (("square", [16, 16]), ("odd", [16, 20])):
        (folder / name).mkdir()
        for number, width in enumerate(widths):
            np.save(folder / name / f"{number}.npy", np.ones((16, width), np.complex64))
    command = ["evaluate", "--ckpt", str(model), "--measurements", str(folder / "square"), "--images", str(folder / "odd"), "--param", "mask=from-data"]
    assert es(command) == 3
    assert "image 1 of shape (2, 16, 20) does not belong to measurement 1 of shape (2, 16, 16)" in capfd.readouterr().err


def test_a_size_that_the_operator_refuses_is_a_fault_of_the_data(tmp_path, capfd):
    save(tmp_path, "y", images())
    np.save(tmp_path / "filter.npy", np.ones((1, 1, 9, 9), np.float32) / 81)
    physics = {"name": "Blur", "filter": {"file": "filter.npy"}, "padding": "circular"}
    spec = write_spec(tmp_path / "spec.yaml", physics=physics, data={"train": {"measurements": "y"}, "validation": 0.3}, transforms=REFLECTIONS)
    model = trained(spec, "training.steps=1")
    np.save(tmp_path / "small.npy", np.ones((3, 3), np.float32))
    assert es(["reconstruct", "--ckpt", str(model), str(tmp_path / "small.npy"), "-o", str(tmp_path / "x.npy")]) == 3
    assert "it was trained on" in capfd.readouterr().err


def test_few_of_many_shapes_are_tried_before_training(tmp_path, monkeypatch):
    (tmp_path / "y").mkdir()
    for number in range(20):
        np.save(tmp_path / "y" / f"{number:02d}.npy", np.ones((8, 8 + 2 * number), np.float32))
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Denoising"}, data={"train": {"measurements": "y"}, "validation": 0.2}, transforms=REFLECTIONS)
    seen = []
    monkeypatch.setattr("es_cli.experiment.check_network", lambda network, y, physics, shape: seen.append(shape[-1]))
    monkeypatch.setattr("es_cli.experiment.try_losses", lambda *given: None)
    build_experiment(load_spec(spec), torch.device("cpu"))
    assert len(seen) == SHAPES_TRIED == len(set(seen)) and min(seen) == 8 and max(seen) == 8 + 2 * 19


def test_what_is_scanned_at_once_is_bounded_by_the_largest_sample(tmp_path, monkeypatch):
    (tmp_path / "y").mkdir()
    for number, size in enumerate([2, 32, 32, 32]):
        np.save(tmp_path / "y" / f"{number}.npy", np.ones((size, size), np.float32))
    stack, read = open_stack(Source(file=str(tmp_path / "y")), pictures=False, seed=0), []
    monkeypatch.setattr("es_cli.data.stacks.SCAN", 32 * 32 * 4)
    original = type(stack).read
    monkeypatch.setattr(type(stack), "read", lambda self, at: (read.append(len(at)), original(self, at))[1])
    assert find_nonfinite(stack) is None
    assert read == [1, 1, 1, 1]


def test_replacing_a_run_leaves_a_users_folder_beside_its_test_data(tmp_path):
    save(tmp_path, "x", images())
    np.save(tmp_path / "two.npy", smooth(2, 16))
    noisy = {"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}
    simulated = {"train": {"images": "x"}, "validation": 0.3, "test": {"images": "test_x"}}
    spec = write_spec(tmp_path / "spec.yaml", physics=noisy, data=simulated, transforms=REFLECTIONS)
    kept = train_in(tmp_path / "run", load_spec(spec, ["training.steps=1"])).parent / "data"
    own = kept / "test_patients" / "0.npy"
    own.parent.mkdir()
    np.save(own, np.ones(3))
    assert (kept / "test_y").is_dir()
    other = write_spec(tmp_path / "other.yaml", physics=noisy, data={"train": {"images": "two.npy"}, "test": {"images": "two.npy"}})
    train_in(tmp_path / "run", load_spec(other, ["training.steps=1"]), overwrite=True)
    assert own.is_file() and (kept / "test_y.npy").is_file() and not (kept / "test_y").exists()
