"""Parameters of samples through the whole tool: train → evaluate → reconstruct, with a mask for each sample; and a data set of one sample."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from problems import es, network, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint, read_metadata
from es_cli.errors import SpecError
from es_cli.evaluate import evaluate
from es_cli.experiment import build_experiment
from es_cli.reconstruct import Reconstructor
from es_cli.training.events import Note, Step
from es_cli.training.run import resume

TRAINED, TESTED = 12, 4
PARAMS = {"params": {"mask": "masks.npy"}}


def trained(spec: Path, *overrides: str, out: str = "run", **kwargs: object) -> Path:
    return train_in(spec.parent / out, load_spec(spec, overrides), **kwargs)


def experiment(spec: Path, *overrides: str):
    return build_experiment(load_spec(spec, overrides), torch.device("cpu"))


def save_problem(folder: Path, y: np.ndarray, x: np.ndarray, masks: np.ndarray) -> dict:
    """The data section for what is saved in the folder: measurements, images for testing, and a mask for each."""
    for name, array in (("y", y), ("x", x), ("masks", masks)):
        np.save(folder / f"{name}.npy", array[:TRAINED])
        np.save(folder / f"test_{name}.npy", array[TRAINED:])
    test = {"measurements": "test_y.npy", "images": "test_x.npy", "params": {"mask": "test_masks.npy"}}
    return {"train": {"measurements": "y.npy", **PARAMS}, "test": test}


@pytest.fixture(params=["Inpainting", "MRI"])
def sampled(request, tmp_path: Path) -> Path:
    """A spec without a mask of the operator, for measurements of 16 × 16 that each have their own."""
    rng = np.random.default_rng(3)
    # some texture: k-space of what is only smooth holds zeros that were measured
    images = (smooth(TRAINED + TESTED, 16) + 0.1 + 0.1 * rng.random((TRAINED + TESTED, 16, 16))).astype(np.float32)
    if request.param == "Inpainting":
        masks = (rng.random(images.shape) < 0.6).astype(np.float32)
        data = save_problem(tmp_path, (images * masks)[:, None], images[:, None], masks)
        return write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting"}, data=data)
    images = (images * np.exp(1j * rng.normal(size=(len(images), 1, 1)))).astype(np.complex64)
    columns = rng.random((len(images), 1, 16)) < 0.5
    columns[..., 6:10] = True
    masks = np.broadcast_to(columns, images.shape)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=(-2, -1)), norm="ortho"), axes=(-2, -1)).astype(np.complex64)
    return write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MRI"},
        data=save_problem(tmp_path, kspace * masks, images, masks),
        mask_generator={"name": "LineSplittingMaskGenerator", "split_ratio": 0.6, "center_lines": 2},
        model={"name": "DataConsistentMoDL", "num_iter": 2, "denoiser": network(2)},
    )


def test_each_row_of_a_batch_is_what_its_sample_gives_alone(sampled):
    model = Reconstructor.load(trained(sampled), "cpu")
    y, masks = np.load(sampled.parent / "test_y.npy"), np.load(sampled.parent / "test_masks.npy")
    batch = model.reconstruct(y, params={"mask": masks})
    assert batch.shape == y.shape and batch.dtype == y.dtype
    for k in range(TESTED):
        assert np.allclose(model.reconstruct(y[k], params={"mask": masks[k]}), batch[k], atol=1e-5)
    assert np.allclose(model.reconstruct(y, params={"mask": "from-data"}), batch, atol=1e-5)
    assert not np.allclose(model.reconstruct(y, params={"mask": masks[::-1]}), batch, atol=1e-3)
    assert not np.allclose(model.reconstruct(y), batch, atol=1e-3)


def test_another_order_of_the_masks_is_another_training_and_another_evaluation(sampled):
    first, again = trained(sampled), trained(sampled, out="again")
    assert first.read_bytes() == again.read_bytes()
    right = evaluate(first).to_dict()["metrics"]["PSNR"]["mean"]
    wrong = np.load(sampled.parent / "test_masks.npy")[::-1]
    assert evaluate(first, params={"mask": wrong}).to_dict()["metrics"]["PSNR"]["mean"] != pytest.approx(right, abs=1e-3)
    np.save(sampled.parent / "masks.npy", np.load(sampled.parent / "masks.npy")[::-1])
    other = trained(sampled, out="other")
    weights, others = load_checkpoint(first).part("model"), load_checkpoint(other).part("model")
    assert not all(torch.equal(weights[key], others[key]) for key in weights)


def test_masks_from_data_train_the_same_network_as_their_file(sampled):
    from_file = load_checkpoint(trained(sampled)).tensors
    from_data = load_checkpoint(trained(sampled, "data.train.params.mask=from-data", out="data")).tensors
    assert from_file.keys() == from_data.keys() and all(torch.equal(from_file[key], from_data[key]) for key in from_file)


def test_short_form_is_the_long_form(sampled):
    raw = yaml.safe_load(sampled.read_text())
    raw["data"]["params"] = raw["data"]["train"].pop("params")
    short = sampled.parent / "short.yaml"
    short.write_text(yaml.safe_dump(raw))
    assert load_spec(short) == load_spec(sampled)
    with pytest.raises(SpecError, match=r"short.yaml:\d+: data.params.*data.train.params"):
        load_spec(short, ["data.train.params={mask: masks.npy}"])


def test_what_the_checkpoint_keeps_is_said(sampled, capfd):
    notes: list[str] = []
    model = trained(sampled, on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    kept, masks = load_checkpoint(model).tensors["physics.mask"].numpy()[0], np.load(sampled.parent / "masks.npy")
    if "Inpainting" in sampled.read_text():  # which has no operator without a mask
        assert np.array_equal(kept[0], masks[0]) and "first sample" in notes[0]
    else:
        assert kept.all() and not notes
    assert read_metadata(model).measurement["per_sample"] == ["mask"]
    assert es(["reconstruct", "--ckpt", str(model), str(sampled.parent / "test_y.npy"), "-o", str(sampled.parent / "a.npy")]) == 0
    assert "--param mask=FILE" in capfd.readouterr().err


def test_masks_of_the_command_line(sampled, capfd):
    folder = sampled.parent
    model, masks = str(trained(sampled)), np.load(folder / "test_masks.npy")
    np.savez(folder / "scan.npz", first=masks[0], all=masks)
    command = ["reconstruct", "--ckpt", model, str(folder / "test_y.npy")]
    for number, given in enumerate((folder / "test_masks.npy", f"{folder / 'scan.npz'}[all]", "from-data")):
        assert es([*command, "--param", f"mask={given}", "-o", str(folder / f"{number}.npy")]) == 0
    out, err = capfd.readouterr()
    assert err == "" and len(out.splitlines()) == 3
    images = [np.load(folder / f"{number}.npy") for number in range(3)]
    assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])
    scores = []
    for given in ((), ("--param", f"mask={folder / 'test_masks.npy'}")):
        assert es(["evaluate", "--ckpt", model, "--json", *given]) == 0
        scores.append(json.loads(capfd.readouterr().out))
    assert scores[0]["metrics"] == scores[1]["metrics"] and scores[0]["baselines"] == scores[1]["baselines"]
    assert scores[0]["conventions"]["mask"] == "of these measurements"


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("maks=masks.npy", 2, ["maks", "did you mean mask"]),
        ("sigma=masks.npy", 2, ["without noise", "it takes mask"]),
        ("mask", 2, ["NAME=FILE"]),
        ("mask=gone.npy", 3, ["gone.npy", "no such file"]),
        ("mask=masks.npy", 3, ["mask of 12 samples, but there are 4", "(16, 16)"]),
        ("mask=odd.npy", 3, ["(7, 7)", "wanted (16, 16)"]),
        ("mask=half.npy", 3, ["values other than 0 and 1"]),
        ("mask=none.npy", 3, ["0 everywhere"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_parameters_of_the_command_line(small, capfd, monkeypatch, given, code, words):
    folder, model = small
    monkeypatch.chdir(folder)
    arguments = ["--ckpt", str(model), "--param", given]
    for command in (["reconstruct", "test_y.npy", "-o", "out.npy"], ["evaluate"]):
        assert es([command[0], *arguments, *command[1:]]) == code
        out, err = capfd.readouterr()
        assert out == "" and all(word in err for word in words) and "Traceback" not in err
    assert not (folder / "out.npy").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with a trained Inpainting of masks of their own, and files that are none."""
    folder = tmp_path_factory.mktemp("small")
    images = smooth(TRAINED + TESTED, 16)
    masks = (np.random.default_rng(3).random(images.shape) < 0.6).astype(np.float32)
    data = save_problem(folder, (images * masks)[:, None], images[:, None], masks)
    for name, array in (("odd", np.ones((7, 7))), ("half", np.full((16, 16), 0.5)), ("none", np.zeros((16, 16)))):
        np.save(folder / f"{name}.npy", array)
    spec = write_spec(folder / "spec.yaml", physics={"name": "Inpainting"}, data=data)
    return folder, trained(spec, "training.steps=1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.train.params.maks=m.npy"], ["data.train.params.maks", "did you mean mask"]),
        (["data.train.params.coil_maps=m.npy"], ["takes no coil_maps", "it takes mask"]),
        (["data.train.params.sigma=s.npy"], ["without noise", "it takes mask"]),
        (["data.train.params.mask=0.3"], ["data.train.params.mask", "wanted a file"]),
        (["data.test.params=null"], ["data.test", "no mask"]),
        (["data.train={images: x.npy, params: {mask: from-data}}"], ["from-data", "data.train has none"]),
        (["physics.noise_model.name=GaussianNoise", "data.train.params.sigma=from-data"], ["only a mask can be read off"]),
        (["data.params={mask: masks.npy}"], ["data.train.params says the same"]),
    ],
)
def test_wrong_parameters_of_a_spec_are_found_before_training(small, capfd, changes, words):
    folder, _ = small
    assert es(["train", str(folder / "spec.yaml"), *changes, "-o", str(folder / "new")]) == 2
    err = capfd.readouterr().err
    assert all(word in err for word in words), err
    assert not (folder / "new").exists()


def test_masks_that_do_not_fit_end_training_before_it_starts(small, capfd):
    folder, _ = small
    assert es(["train", str(folder / "spec.yaml"), "data.train.params.mask=odd.npy", "-o", str(folder / "new")]) == 3
    err = capfd.readouterr().err
    assert "(7, 7)" in err and "wanted (16, 16) or (1, 16, 16)" in err and not (folder / "new").exists()


def test_validation_uses_the_mask_of_each_sample(sampled):
    """The held-out loss of a sample is the same alone and in a batch: for equivariant splitting and for losses of the library."""
    for losses in ("losses=[EquivariantSplittingLoss]", "losses=[MCLoss]"):
        made = experiment(sampled, losses, "data.validation=0.3", "data.scale=per-sample")
        count = len(made.validation)
        assert count > 2
        y, _, physics, scale = made.reconstruction.batch(made.validation, list(range(count)), torch.device("cpu"))
        together = made.objective.held_out(y, physics, list(range(count)), scale=scale)
        for i in range(count):
            y, _, physics, scale = made.reconstruction.batch(made.validation, [i], torch.device("cpu"))
            assert torch.allclose(made.objective.held_out(y, physics, [i], scale=scale), together[i : i + 1], rtol=1e-4)


def test_images_are_measured_with_the_parameters_of_each_and_the_test_data_keep_theirs(tmp_path):
    images = smooth(TRAINED + TESTED, 16)
    masks = (np.random.default_rng(3).random(images.shape) < 0.6).astype(np.float32)
    sigma = np.linspace(0.01, 0.5, TRAINED + TESTED)
    save_problem(tmp_path, images, images[:, None], masks)
    np.save(tmp_path / "sigma.npy", sigma[:TRAINED])
    np.save(tmp_path / "test_sigma.npy", sigma[TRAINED:])
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "Inpainting", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}},
        data={
            "train": {"images": "x.npy", "params": {"mask": "masks.npy", "sigma": "sigma.npy"}},
            "test": {"images": "test_x.npy", "params": {"mask": "test_masks.npy", "sigma": "test_sigma.npy"}},
        },
    )
    y, _, params = experiment(spec, "data.validation={images: x.npy, params: {mask: masks.npy}}").train.batch(list(range(TRAINED)))
    assert np.array_equal(y[:, 0] != 0, masks[:TRAINED] != 0)
    assert np.allclose(params["sigma"], sigma[:TRAINED])
    noise = (y[:, 0].numpy() - images[:TRAINED]) * masks[:TRAINED]
    measured = np.sqrt((noise**2).sum((1, 2)) / masks[:TRAINED].sum((1, 2)))
    assert np.allclose(measured, sigma[:TRAINED], rtol=0.25)
    model = trained(spec)
    kept = model.parent / "data"
    assert np.array_equal(np.load(kept / "test_mask.npy")[:, 0], masks[TRAINED:]) and np.allclose(np.load(kept / "test_sigma.npy"), sigma[TRAINED:])
    found = evaluate(model)
    assert found.n == TESTED and found.conventions["mask"] == found.conventions["sigma"] == "of these measurements"
    given = {"mask": masks[TRAINED:], "sigma": sigma[TRAINED:]}
    explicit = evaluate(model, measurements=kept / "test_y.npy", images=kept / "test_x.npy", params=given)
    assert explicit.to_dict()["metrics"] == found.to_dict()["metrics"]


def test_a_resumed_run_with_masks_splits_and_previews_equals_an_uninterrupted_one(sampled):
    options = ("training.preview=true", "test.splits=2", "data.validation=0.3")

    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    whole = trained(sampled, *options, out="whole")
    with pytest.raises(BaseException, match="signal 2"):
        trained(sampled, *options, out="cut", on_event=stop)
    assert resume(sampled.parent / "cut", device="cpu").read_bytes() == whole.read_bytes()
    assert list((whole.parent / "previews").glob("*.png")) and evaluate(whole).n == TESTED


def test_coil_maps_of_each_sample(tmp_path):
    """Without maps of its own, the operator has those of the first sample, and as many coils as the file."""
    rng = np.random.default_rng(5)
    maps = (rng.normal(size=(6, 3, 16, 16)) + 1j * rng.normal(size=(6, 3, 16, 16))).astype(np.complex64)
    masks = rng.random((6, 16, 16)) < 0.5
    images = smooth(6, 16).astype(np.complex64)
    for name, array in (("maps", maps), ("masks", masks), ("x", images)):
        np.save(tmp_path / f"{name}.npy", array)
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "MultiCoilMRI"},
        data={"train": {"images": "x.npy"}, "params": {"coil_maps": "maps.npy", "mask": "masks.npy"}, "validation": 0.3},
        model={"name": "ArtifactRemoval", "backbone_net": network(2)},
    )
    made = experiment(spec)
    assert made.operator.measurement.shape == (2, 3, 16, 16)
    assert np.array_equal(made.operator.arrays["physics.coil_maps"], maps[:1])
    y, _, physics, scale = made.reconstruction.batch(made.train, [0, 1, 2, 3], torch.device("cpu"))
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * images[:, None], axes=(-2, -1)), norm="ortho"), axes=(-2, -1)) * masks[:, None]
    kept = made.train.keys([0, 1, 2, 3])
    assert np.allclose(y[:, 0] + 1j * y[:, 1], expected[kept], atol=1e-5)
    assert np.array_equal(physics.coil_maps, maps[kept])


def test_the_mask_of_the_spec_stays_that_of_the_checkpoint_and_serves_samples_without(inpainting):
    folder = inpainting.parent
    masks = (np.random.default_rng(8).random((20, 16, 16)) < 0.5) * np.load(folder / "mask.npy")
    np.save(folder / "masks.npy", masks)
    model = trained(inpainting, "data.params={mask: masks.npy}")
    assert np.array_equal(load_checkpoint(model).tensors["physics.mask"].numpy().squeeze(), np.load(folder / "mask.npy"))
    assert evaluate(model).conventions["mask"] == "the one of the checkpoint"


@pytest.mark.parametrize("noise", ["PoissonNoise", "PoissonGaussianNoise"])
def test_scale_divides_gain_and_sigma_of_each_sample(tmp_path, noise):
    np.save(tmp_path / "x.npy", smooth(8, 16)[:, None] + 0.5)
    names = ["gain", "sigma"][: 1 + (noise == "PoissonGaussianNoise")]
    for name in names:
        np.save(tmp_path / f"{name}.npy", np.linspace(0.1, 0.4, 8))
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "Denoising", "noise_model": {"name": noise, "gain": 0.2, "clip_positive": True}},
        data={"train": {"images": "x.npy"}, "params": {name: f"{name}.npy" for name in names}, "scale": "per-sample", "validation": {"images": "x.npy"}},
        losses=["MCLoss"],
    )
    if noise == "PoissonGaussianNoise":
        text = spec.read_text().replace("clip_positive: true", "clip_positive: true\n    sigma: 0.1")
        spec.write_text(text)
    made = experiment(spec)
    at = [5, 2, 0]
    y, _, physics, scale = made.reconstruction.batch(made.train, at, torch.device("cpu"))
    raw, _, _ = made.train.batch(at)
    scale = (raw / y).flatten(1).nanmedian(1).values
    for name in names:
        assert torch.allclose(getattr(physics.noise_model, name), torch.from_numpy(np.linspace(0.1, 0.4, 8)[at]).float() / scale, rtol=1e-4)
    assert physics.noise_model.clip_positive
    assert trained(spec, "training.steps=2").is_file()
    with pytest.raises(SpecError, match="does not scale") if noise == "PoissonNoise" else pytest.raises(SpecError, match="no parameter normalize"):
        experiment(spec, "physics.noise_model.normalize=false")


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (1, 1, 16, 16)], ids=str)
@pytest.mark.parametrize("mask", ["from-data", {"file": "mask.npy"}], ids=["from-data", "file"])
def test_a_single_measurement_is_a_data_set(inpainting, shape, mask):
    folder = inpainting.parent
    one = np.load(folder / "train_y.npy")[0, 0]
    np.save(folder / "one.npy", one.reshape(shape))
    spec = write_spec(
        folder / "one.yaml", physics={"name": "Inpainting", "mask": mask}, data={"train": {"measurements": "one.npy"}}
    )
    model = trained(spec, "training.steps=2", "training.validate_every=1")
    losses = [json.loads(line)["validation_loss"] for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(np.isfinite(losses)) and losses[0] != losses[1]
    np.save(folder / "one_x.npy", smooth(1, 16))
    assert evaluate(model, measurements=folder / "one.npy", images=folder / "one_x.npy").n == 1
    image = Reconstructor.load(model, "cpu").reconstruct(np.load(folder / "one.npy"))
    assert image.shape == shape


def test_a_single_scan_is_a_data_set_and_its_validation_is_one_fixed_split(mri):
    folder = mri.parent
    np.save(folder / "one.npy", np.load(folder / "train_y.npy")[0])
    spec = write_spec(
        folder / "one.yaml",
        physics={"name": "MRI"},
        data={"train": {"measurements": "one.npy"}, "params": {"mask": "from-data"}},
        mask_generator={"name": "LineSplittingMaskGenerator", "split_ratio": 0.6, "center_lines": 2},
        model={"name": "DataConsistentMoDL", "num_iter": 2, "denoiser": network(2)},
    )
    still = ("training.optimizer.lr=1e-12", "training.ema=null", "training.steps=2", "training.validate_every=1")
    model = trained(spec, *still)
    losses = [json.loads(line)["validation_loss"] for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # a network that stands still is judged the same each time
    np.save(folder / "one_x.npy", np.load(folder / "test_x.npy")[0])
    assert evaluate(model, measurements=folder / "one.npy", images=folder / "one_x.npy", params={"mask": "from-data"}).n == 1
    image = Reconstructor.load(model, "cpu").reconstruct(np.load(folder / "one.npy"), params={"mask": "from-data"})
    assert image.shape == (16, 16) and image.dtype == np.complex64


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_a_single_picture_is_a_data_set(tmp_path, kind):
    from PIL import Image

    picture = smooth(1, 16)[0]
    if kind == "png":
        Image.fromarray((255 * picture).astype(np.uint8)).save(tmp_path / "one.png")
    else:
        np.save(tmp_path / "one.npy", picture)
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "Inpainting", "mask": 0.6},
        data={"train": {"images": f"one.{kind}"}, "test": {"images": f"one.{kind}"}},
    )
    model = trained(spec, "training.steps=2")
    assert evaluate(model).n == 1
    assert Reconstructor.load(model, "cpu").reconstruct(np.load(model.parent / "data" / "test_y.npy")).shape == (1, 1, 16, 16)
