"""Train → evaluate → reconstruct, as a user of the shell sees it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from problems import es, network, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint, read_metadata
from es_cli.errors import DataError
from es_cli.evaluate import evaluate
from es_cli.reconstruct import Reconstructor
from es_cli.training.events import Step, Validated
from es_cli.training.run import resume


def trained(spec: Path, *overrides: str, out: str = "run", **kwargs: object) -> Path:
    return train_in(spec.parent / out, load_spec(spec, overrides), **kwargs)


def test_training_on_measurements_alone_beats_the_adjoint(inpainting):
    model = trained(inpainting, "training.steps=150", "training.validate_every=50")
    result = evaluate(model).to_dict()
    assert result["n"] == 4 and result["network_calls"] == 8
    assert result["metrics"]["PSNR"]["mean"] > result["baselines"]["adjoint"]["PSNR"]["mean"] + 6


def test_standard_output_is_the_path_and_nothing_else(inpainting, capfd):
    assert es(["train", str(inpainting), "-o", str(inpainting.parent / "run")]) == 0
    out, err = capfd.readouterr()
    assert out == f"{inpainting.parent / 'run' / 'model.safetensors'}\n"
    assert "es evaluate --ckpt" in err
    assert (inpainting.parent / "run" / "metrics.csv").read_text().startswith("step,")


def test_evaluate_prints_one_json_object_and_a_row_for_each_image(inpainting, capfd):
    model, table = trained(inpainting), inpainting.parent / "table.csv"
    assert es(["evaluate", "--ckpt", str(model), "--json", "--csv", str(table), "--metric", "PSNR"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert set(printed["metrics"]["PSNR"]) == {"mean", "std"} and set(printed["baselines"]) == {"adjoint", "pseudoinverse"}
    assert len(table.read_text().splitlines()) == 1 + printed["n"]


def test_reconstruct_mirrors_shape_and_kind_of_its_input(mri, tmp_path):
    model = Reconstructor.load(trained(mri), "cpu")
    y = np.load(mri.parent / "test_y.npy")
    batch, single = model.reconstruct(y), model.reconstruct(y[0])
    assert batch.shape == y.shape and batch.dtype == np.complex64
    assert single.shape == (16, 16)
    assert np.allclose(single, batch[0], atol=1e-5)
    channels = model.reconstruct(np.stack([y.real, y.imag], 1).astype(np.float32))
    assert channels.shape == (4, 2, 16, 16) and np.allclose(channels[:, 0], batch.real, atol=1e-5)


def test_checkpoint_needs_no_other_file(inpainting, tmp_path):
    model = trained(inpainting)
    y = np.load(inpainting.parent / "test_y.npy")
    before = Reconstructor.load(model, "cpu").reconstruct(y)
    elsewhere = tmp_path / "elsewhere.safetensors"
    shutil.copy(model, elsewhere)
    for name in ("mask.npy", "train_y.npy", "spec.yaml"):
        (inpainting.parent / name).unlink()
    shutil.rmtree(model.parent)
    assert np.array_equal(Reconstructor.load(elsewhere, "cpu").reconstruct(y), before)


def test_checkpoint_holds_no_path_and_the_very_mask(inpainting):
    checkpoint = load_checkpoint(trained(inpainting))
    assert str(inpainting.parent) not in json.dumps(vars(checkpoint.metadata))
    assert np.array_equal(checkpoint.tensors["physics.mask"].numpy().squeeze(), np.load(inpainting.parent / "mask.npy"))


def test_equal_runs_give_equal_bytes_and_another_seed_others(inpainting):
    first, again, other = (trained(inpainting, f"seed={seed}", out=out).read_bytes() for seed, out in ((0, "a"), (0, "b"), (1, "c")))
    assert first == again != other


@pytest.mark.parametrize("stop_at", [1, 3, 4])
@pytest.mark.parametrize("scheduler", [["training.scheduler.name=OneCycleLR", "training.scheduler.max_lr=0.01"], []])
def test_resumed_run_equals_uninterrupted_run(inpainting, stop_at, scheduler):
    whole = trained(inpainting, *scheduler, out="whole")

    def stop(event):
        if isinstance(event, Step) and event.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(BaseException, match="signal 2") as caught:
        trained(inpainting, *scheduler, out="cut", on_event=stop)
    assert caught.value.signal == signal.SIGINT
    resumed = resume(inpainting.parent / "cut", device="cpu")
    assert resumed.read_bytes() == whole.read_bytes()
    rows = [json.loads(line)["step"] for line in (resumed.parent / "metrics.jsonl").read_text().splitlines()]
    assert rows == [3, 6]


def test_resuming_a_finished_run_says_so_and_changes_nothing(inpainting, capfd):
    model = trained(inpainting)
    before = model.read_bytes()
    assert es(["train", "--resume", str(model.parent)]) == 0
    out, err = capfd.readouterr()
    assert out == f"{model}\n" and "finished" in err and model.read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or sys.platform == "win32", reason="no signals to send")
def test_sigterm_saves_and_exits_143(inpainting):
    folder = inpainting.parent / "run"
    command = [sys.executable, "-m", "es_cli", "train", str(inpainting), "training.steps=100000", "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (folder / "state" / "state.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 143 and out == "" and "--resume" in err


def test_ground_truth_for_validation_informs_and_never_selects(inpainting):
    def history(*overrides: str, out: str) -> tuple[list, bytes]:
        seen: list = []
        model = trained(inpainting, *overrides, out=out, on_event=lambda e: seen.append(e) if isinstance(e, Validated) else None)
        return seen, model.read_bytes()

    folder = inpainting.parent
    np.save(folder / "val_y.npy", np.load(folder / "test_y.npy"))
    y_only = ["data.validation={measurements: val_y.npy}"]
    lies = smooth(4, 16, seed=9)[:, None]
    np.save(folder / "val_x.npy", lies)
    pairs = ["data.validation={measurements: val_y.npy, images: val_x.npy}"]
    (without, first), (with_truth, second) = history(*y_only, out="a"), history(*pairs, out="b")
    assert [e.loss for e in without] == [e.loss for e in with_truth] and first == second
    assert without[0].psnr is None and with_truth[0].psnr is not None


def test_images_are_measured_once_and_never_trained_on(tmp_path):
    """The same images and another noise seed give other measurements; a second epoch sees the same ones."""
    np.save(tmp_path / "x.npy", smooth(8, 16))
    noise = {"name": "GaussianNoise", "sigma": 0.05}
    spec = write_spec(
        tmp_path / "spec.yaml",
        physics={"name": "Inpainting", "mask": 0.6, "noise_model": noise},
        data={"train": {"images": "x.npy"}, "test": {"images": "x.npy"}},
    )
    from es_cli.experiment import build_experiment
    from es_cli.training.runtime import resolve_device

    device = resolve_device("cpu")
    one, same, other = (build_experiment(load_spec(spec, [f"seed={seed}"]), device) for seed in (0, 0, 1))
    assert one.train.x is None
    y = one.train.batch([0, 1])[0]
    assert np.array_equal(y, one.train.batch([0, 1])[0]) and np.array_equal(y, same.train.batch([0, 1])[0])
    assert not np.array_equal(y, other.train.batch([0, 1])[0])
    model = trained(spec)
    assert evaluate(model).n == 8


def test_scale_makes_a_network_blind_to_units(inpainting):
    """Trained with per-sample scale on one unit, a thousandfold measurement gives a thousandfold image."""
    model = Reconstructor.load(trained(inpainting, "data.scale=per-sample"), "cpu")
    y = np.load(inpainting.parent / "test_y.npy")
    assert np.allclose(model.reconstruct(1000 * y), 1000 * model.reconstruct(y), rtol=1e-3)


def test_overwriting_replaces_a_run_only_by_one_that_can_start(inpainting):
    model = trained(inpainting)
    before = model.read_bytes()
    with pytest.raises(DataError):
        trained(inpainting, "data.train.measurements=gone.npy", overwrite=True)
    assert model.read_bytes() == before
    assert trained(inpainting, "seed=5", overwrite=True).read_bytes() != before


def test_init_from_starts_at_the_other_network(inpainting):
    first = trained(inpainting, out="first")
    second = trained(inpainting, "training.optimizer.lr=1e-12", "training.ema=null", out="second", init_from=first)
    a, b = load_checkpoint(first).part("model"), load_checkpoint(second).part("model")
    assert all(np.allclose(a[key], b[key], atol=1e-6) for key in a)


def test_patience_stops_a_run_that_does_not_get_better(inpainting):
    model = trained(inpainting, "training.optimizer.lr=1e-12", "training.ema=null", "training.steps=600", "training.patience=2")
    rows = (model.parent / "metrics.jsonl").read_text().splitlines()
    assert len(rows) < 200 and read_metadata(model).validation["step"] < 600


def test_pipe_of_several_arrays_gives_several_images(inpainting):
    model = trained(inpainting)
    y = np.load(inpainting.parent / "test_y.npy")
    stream = io.BytesIO()
    for sample in y:
        np.save(stream, sample)
    command = [sys.executable, "-m", "es_cli", "reconstruct", "--ckpt", str(model), "-", "-o", "-"]
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=True)
    answer = io.BytesIO(done.stdout)
    images = [np.load(answer) for _ in y]
    assert answer.read() == b"" and done.stderr == b""
    assert np.allclose(np.stack(images), Reconstructor.load(model, "cpu").reconstruct(y), atol=1e-5)


def test_denoising_and_other_losses_run(tmp_path):
    np.save(tmp_path / "train_y.npy", smooth(8, 16))
    for losses in ([{"name": "SureGaussianLoss", "sigma": 0.1}], ["MCLoss", {"name": "TVLoss", "weight": 0.01}]):
        spec = write_spec(
            tmp_path / "spec.yaml",
            physics={"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}},
            data={"train": {"measurements": "train_y.npy"}},
            losses=losses,
            model={"name": "ArtifactRemoval", "backbone_net": network(1)},
        )
        assert trained(spec, out=losses[0]["name"] if isinstance(losses[0], dict) else "mc").is_file()


def test_supervised_loss_gets_ground_truth_because_the_spec_names_it(inpainting):
    np.save(inpainting.parent / "train_x.npy", smooth(24, 16)[:20, None])
    model = trained(inpainting, "losses=[SupLoss]", "data.train.images=train_x.npy")
    assert read_metadata(model).spec["losses"][0]["name"] == "SupLoss"
