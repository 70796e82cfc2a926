"""What users get wrong: each with its message, its exit code, nothing on standard output and nothing half-written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from problems import es, write_spec
from safetensors.numpy import save_file

from es_cli.catalog import load_spec
from es_cli.errors import AnswerIsNo, CheckpointError, DataError, DeviceError, EsError, OutputError, SpecError, UsageError
from es_cli.training.folder import claim
from es_cli.training.run import train


@pytest.fixture
def refused(capfd):
    """Run the command line: it must fail with the code, say all of the words on standard error in ten lines or less, and print nothing."""

    def check(arguments: list[object], code: int, *words: str) -> str:
        assert es([str(a) for a in arguments]) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err and len(err.splitlines()) <= 10, err
        for word in words:
            assert word in err, err
        return err

    return check


def train_command(spec: Path, *overrides: str) -> list[object]:
    return ["train", spec, *overrides, "-o", spec.parent / "run", "--device", "cpu"]


@pytest.fixture
def model(inpainting):
    spec = load_spec(inpainting, ["training.steps=1"])
    return train(spec, claim(spec, inpainting.parent / "trained"), device="cpu")


def test_each_kind_of_error_has_its_documented_exit_code():
    codes = {EsError: 1, UsageError: 2, SpecError: 2, DataError: 3, OutputError: 3, CheckpointError: 4, DeviceError: 5, AnswerIsNo: 6}
    assert {kind: kind.exit_code for kind in codes} == codes


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("training.stpes=3", 2, ["did you mean steps"]),
        ("mask_generator.split_ration=0.5", 2, ["did you mean split_ratio"]),
        ("model.backbone_net.name=Unet", 2, ["did you mean UNet"]),
        ("training.batch_size=many", 2, ["training.batch_size"]),
        ("physics.mask=0.3", 2, ["measurements", "mask"]),
        ("losses.0.consistency_loss={name: R2RLoss}", 2, ["R2RLoss", "MCLoss"]),
        ("physics.mask.file=nowhere.npy", 3, ["nowhere.npy", "no such file"]),
        ("data.train.measurements=nowhere.npy", 3, ["nowhere.npy", "no such file"]),
        ("physics.img_size=[1, 8, 8]", 3, ["16", "8"]),
        ("model.backbone_net.in_channels=2", 2, ["model", "(1, 16, 16)"]),
        ("model.backbone_net.out_channels=2", 2, ["model", "(1, 16, 16)"]),
    ],
)
def test_a_fault_of_the_spec_is_answered_and_leaves_no_folder(inpainting, refused, change, code, words):
    refused(train_command(inpainting, change), code, *words)
    assert not (inpainting.parent / "run").exists()


def test_all_faults_are_told_at_once_with_their_lines(inpainting, refused):
    spec = inpainting.read_text().replace("steps:", "stepps:").replace("split_ratio", "split_ration")
    inpainting.write_text(spec)
    lines = {word: next(i for i, line in enumerate(spec.splitlines(), 1) if word in line) for word in ("stepps", "split_ration")}
    refused(train_command(inpainting), 2, *[f"spec.yaml:{line}" for line in lines.values()])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: a\nname: b\n", "name"),
        ("physics:\n\tname: MRI\n", "tab"),
        ("name: !!python/object/apply:os.system ['true']\n", "tag"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n", ""),
    ],
)
def test_hostile_and_broken_yaml_is_refused(tmp_path, refused, text, word):
    (tmp_path / "spec.yaml").write_text(text)
    refused(train_command(tmp_path / "spec.yaml"), 2, "spec.yaml", word)


def broken(kind: str) -> np.ndarray:
    good = np.ones((6, 1, 16, 16), np.float32)
    if kind == "nan":
        good[3, 0, 2, 2] = np.nan
    return {"shape": np.ones((6, 1, 8, 8)), "rank": np.ones(5), "complex": good.astype(complex), "nan": good, "text": np.full((3, 16, 16), "a")}[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [("shape", ["8, 8", "16"]), ("rank", ["(5,)"]), ("complex", ["complex"]), ("nan", ["train_y.npy[3]", "NaN"]), ("text", ["no numbers"])],
)
def test_measurements_that_do_not_fit_are_refused(inpainting, refused, kind, words):
    np.save(inpainting.parent / "train_y.npy", broken(kind))
    refused(train_command(inpainting), 3, *words)
    assert not (inpainting.parent / "run").exists()


def test_pickled_and_truncated_arrays_are_refused(inpainting, refused):
    path = inpainting.parent / "train_y.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(train_command(inpainting), 3, "train_y.npy", "cut short")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(train_command(inpainting), 3, "train_y.npy", "pickle")


def test_empty_folder_and_crop_larger_than_the_image(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting", "mask": 0.5}, data={"train": {"images": {"file": "empty"}}})
    refused(train_command(spec), 3, "empty")
    refused(train_command(spec, "data.train.images={sample: brain, crop: 999}"), 3, "999")


def test_quarter_turns_of_wide_images_are_refused(tmp_path, refused):
    np.save(tmp_path / "train_y.npy", np.ones((6, 16, 24), np.float32))
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting", "mask": "from-data"}, data={"train": {"measurements": "train_y.npy"}})
    refused(train_command(spec), 2, "reflections or shifts")


def test_existing_output_and_missing_device(inpainting, model, refused, tmp_path):
    out = inpainting.parent / "x.npy"
    out.write_bytes(b"mine")
    command = ["reconstruct", "--ckpt", model, inpainting.parent / "test_y.npy", "-o", out]
    refused(command, 2, "exists", "--overwrite")
    assert out.read_bytes() == b"mine"
    refused(["train", inpainting, "-o", model.parent], 2, "exists")
    refused(["train", inpainting, "-o", tmp_path / "new", "--device", "cuda:97"], 5, "cuda:97")
    refused(["train", inpainting, "-o", tmp_path / "new", "--device", "toaster"], 5, "toaster")


def test_wrong_shape_is_answered_with_the_shape_that_is_wanted(inpainting, model, refused):
    np.save(inpainting.parent / "odd.npy", np.ones((3, 7, 7), np.float32))
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "odd.npy"], 3, "(3, 7, 7)", "(1, 16, 16)")
    refused(["evaluate", "--ckpt", model, "--measurements", inpainting.parent / "test_y.npy"], 2, "--images")
    refused(["evaluate", "--ckpt", model, "--metric", "PSNRR"], 2, "did you mean PSNR")


def rewritten(model: Path, change) -> None:
    """The checkpoint with another description."""
    raw = model.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    described = json.loads(header["__metadata__"]["es"])
    header["__metadata__"]["es"] = json.dumps(change(described))
    text = json.dumps(header).encode()
    model.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def renamed(described: dict) -> dict:
    described["spec"]["model"]["name"] = "os.system"
    return described


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda m: m.unlink(), "no such file"),
        (lambda m: m.write_bytes(m.read_bytes()[:-100]), "not a whole safetensors"),
        (lambda m: m.write_bytes(b"junk"), "not a whole safetensors"),
        (lambda m: save_file({"a": np.ones(3)}, m), "not one of es"),
        (lambda m: m.write_bytes(m.read_bytes()[:-4] + b"\1\2\3\4"), "not those that were saved"),
        (lambda m: rewritten(m, lambda d: {**d, "format": 99}), "newer"),
        (lambda m: rewritten(m, renamed), "os.system"),
        (lambda m: rewritten(m, lambda d: {"format": 2}), "cannot be read"),
    ],
)
def test_broken_and_foreign_checkpoints_are_refused(inpainting, model, refused, damage, word):
    damage(model)
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "test_y.npy", "-o", inpainting.parent / "x.npy"], 4, word)
    assert not (inpainting.parent / "x.npy").exists()


def test_checkpoint_of_format_1_is_migrated(inpainting, model):
    def to_format_1(described: dict) -> dict:
        scale = described.pop("scale")
        described["spec"]["data"] = {"train": {"measurements": "/gone.npy"}, "scale": scale}
        return {**described, "format": 1}

    rewritten(model, to_format_1)
    assert es(["reconstruct", "--ckpt", str(model), str(inpainting.parent / "test_y.npy"), "-o", str(inpainting.parent / "x.npy")]) == 0
    assert np.load(inpainting.parent / "x.npy").shape == (4, 1, 16, 16)


def test_divergence_names_the_step_and_exits_6(inpainting, refused):
    err = refused(train_command(inpainting, "training.optimizer.lr=1e30", "training.steps=50"), 6, "at step")
    assert "gradient_clip" in err


def test_unwritable_target_is_an_error_and_leaves_nothing(inpainting, model, refused):
    blocked = inpainting.parent / "file"
    blocked.write_text("")
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "test_y.npy", "-o", blocked / "x.npy"], 3, "cannot be written")
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "test_y.npy", "-o", inpainting.parent / "x.xyz"], 2, ".xyz")
    assert not list(inpainting.parent.glob(".x*"))


def test_resume_of_what_is_no_run(tmp_path, refused):
    refused(["train", "--resume", tmp_path], 4, "no run")
    refused(["train"], 2, "--resume")
