"""What users get wrong: each with its message, its exit code, nothing on standard output and nothing half-written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from problems import es, train_in, write_spec
from safetensors.numpy import save_file

from es_cli.catalog import load_spec
from es_cli.checkpoint import MIGRATIONS, read_metadata
from es_cli.errors import AnswerIsNo, CheckpointError, DataError, DeviceError, EsError, OutputError, SpecError, UsageError


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
    return train_in(inpainting.parent / "trained", spec)


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
        ("losses.0.consistency_loss={name: R2RLoss}", 2, ["R2RLoss", "add noise_model"]),
        *[(f"losses.0.consistency_loss={{name: R2RLoss, alpha: {a}, noise_model: {{name: GaussianNoise, sigma: 0.1}}}}", 2, ["alpha", "between 0 and 1"]) for a in (0, 1, 2, -0.5)],
        ("losses.0.consistency_loss={name: SureGaussianLoss, sigma: 0.1, tau: 0}", 2, ["tau", "above 0"]),
        ("losses.0.consistency_loss={name: R2RLoss, eval_n_samples: 0, noise_model: {name: GaussianNoise}}", 2, ["eval_n_samples", "1 or more"]),
        ("physics.noise_model={name: GaussianNoise, sigma: -1}", 2, ["sigma is -1", "above 0"]),
        ("physics.noise_model={name: PoissonNoise, gain: 0}", 2, ["gain is 0", "above 0"]),
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


def test_measurements_of_several_sizes_are_refused_with_the_sizes(tmp_path, refused):
    (tmp_path / "scans").mkdir()
    for number, width in enumerate([16, 18, 16]):
        np.save(tmp_path / "scans" / f"{number}.npy", np.ones((16, width), np.complex64))
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "MRI", "mask": "from-data"}, data={"train": {"measurements": "scans"}})
    refused(train_command(spec), 3, "2 of (16, 16) (0.npy, …)", "1 of (16, 18) (1.npy)", "train once for each")


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


def test_only_what_a_run_wrote_is_overwritten(inpainting, model, refused):
    """A folder of the user's own, which may well hold a spec.yaml, is never taken for a run; and in a run's folder other files stay."""
    folder = inpainting.parent
    before = {path.name for path in folder.iterdir()}
    refused(["train", inpainting, "-o", folder, "--overwrite"], 2, "not the folder of a run")
    assert {path.name for path in folder.iterdir()} == before
    (model.parent / "notes.txt").write_text("mine")
    (model.parent / "data").mkdir(exist_ok=True)
    (model.parent / "data" / "scan.npy").write_bytes(b"mine")
    (folder / "link").symlink_to(model.parent)
    old = model.read_bytes()
    assert es(["train", str(inpainting), "seed=9", "-o", str(folder / "link"), "--overwrite", "-q"]) == 0
    assert model.read_bytes() != old
    assert (model.parent / "notes.txt").read_text() == "mine" and (model.parent / "data" / "scan.npy").read_bytes() == b"mine"


def test_damaged_metrics_do_not_keep_a_run_from_going_on(inpainting, model):
    (model.parent / "metrics.jsonl").write_bytes(b'{"step": 1\n[1]\n{}\n\xff\xfe\n')
    assert es(["train", "--resume", str(model.parent)]) == 0


def test_ground_truth_of_another_shape_is_refused_before_training(inpainting, refused):
    np.save(inpainting.parent / "two.npy", np.ones((4, 2, 16, 16), np.float32))
    for part in ("validation", "test"):
        refused(train_command(inpainting, f"data.{part}={{measurements: test_y.npy, images: two.npy}}"), 3, "two.npy", "wanted (1, 16, 16)")
    assert not (inpainting.parent / "run").exists()


def test_measurements_of_too_many_axes_are_refused(inpainting, refused):
    np.save(inpainting.parent / "deep.npy", np.ones((2, 1, 3, 1, 16, 16), np.float32))
    refused(train_command(inpainting, "data.train.measurements=deep.npy", "data.test=null", "physics.mask=from-data"), 3, "no images")


def test_a_metric_that_would_be_downloaded_or_does_not_go_is_refused(inpainting, model, refused):
    pair = ["--measurements", inpainting.parent / "test_y.npy", "--images", inpainting.parent / "test_x.npy"]
    refused(["evaluate", "--ckpt", model, *pair, "--metric", "NIQE"], 2, "NIQE needs weights_path")
    np.save(inpainting.parent / "large.npy", 9 * np.load(inpainting.parent / "test_x.npy"))
    refused(["evaluate", "--ckpt", model, *pair[:3], inpainting.parent / "large.npy", "--metric", "HaarPSI"], 3, "HaarPSI cannot compare these images")


@pytest.mark.parametrize(
    "change",
    [
        {"spec": None}, {"measurement": []}, {"validation": None}, {"versions": 3}, {"scale": None}, {"scale": 0}, {"scale": "foo"},
        {"measurement": {"image_shape": []}}, {"measurement": {"image_shape": [1, 16, 16], "per_sample": 5}},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_of_the_wrong_kinds_is_refused(model, refused, change):
    rewritten(model, lambda described: {**described, **change})
    refused(["info", model], 4, "its description cannot be read")


def test_a_checkpoint_that_names_a_file_is_not_trusted(inpainting, model, refused):
    spec = read_metadata(model).spec
    spec["physics"]["mask"] = {"file": "/etc/hostname.npy"}
    rewritten(model, lambda described: {**described, "spec": spec})
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "test_y.npy"], 4, "names a file", "not to be trusted")


def test_wrong_shape_is_answered_with_the_shape_that_is_wanted(inpainting, model, refused):
    np.save(inpainting.parent / "odd.npy", np.ones((3, 7, 7), np.float32))
    refused(["reconstruct", "--ckpt", model, inpainting.parent / "odd.npy"], 3, "(3, 7, 7)", "(1, 16, 16)")
    refused(["evaluate", "--ckpt", model, "--images", inpainting.parent / "test_x.npy"], 2, "--measurements")
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


def test_tomography_of_format_2_keeps_the_pseudoinverse_that_it_was_trained_on():
    physics = {"name": "ComposedLinearPhysics", "physics": [{"name": "Blur"}, {"name": "Tomography", "angles": 5}]}
    made = MIGRATIONS[2]({"format": 2, "spec": {"name": "s", "physics": physics}})
    assert made["format"] == 3 and made["spec"]["name"] == "s"
    assert made["spec"]["physics"]["physics"] == [{"name": "Blur"}, {"name": "Tomography", "angles": 5, "refine_steps": 0}]


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
