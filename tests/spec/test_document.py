from __future__ import annotations

import os
from pathlib import Path

import pytest

from es_cli.errors import SpecError
from es_cli.spec.component import ArrayFile, Component, TensorRef
from es_cli.spec.document import from_dict, read_document, to_dict, to_yaml
from es_cli.spec.schema import Pair, Spec
from es_cli.spec.yaml_reader import read_yaml

WHOLE = """\
name: no
physics:
  name: Inpainting
  mask: {file: masks/m.npy}
  noise_model: {name: GaussianNoise, sigma: 1e-2}
data:
  train: {measurements: y.npy}
  validation: {measurements: v.npy}
  test: {measurements: {file: t.h5, key: y}, images: "photos/*.png"}
  scale: per-sample
transforms: {group: D4}
losses:
  - name: EquivariantSplittingLoss
    consistency_loss: null
    weight: 2
model: UNet
training:
  steps: 2e4
  optimizer: {name: AdamW, lr: 5e-4}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def spec_of(tmp_path: Path, text: str, *overrides: str) -> Spec:
    document = read_document(write(tmp_path, text), overrides)
    assert document.faults == ()
    assert document.spec is not None
    return document.spec


def faults_of(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = write(tmp_path, text)
    return [str(fault).replace(str(path), "s.yaml") for fault in read_document(path, overrides).faults]


def test_a_whole_spec(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, WHOLE)
    assert spec.name == "no"
    assert spec.physics.parameters["noise_model"] == Component(name="GaussianNoise", parameters={"sigma": 0.01})
    assert spec.losses[0].weight == 2.0
    assert spec.losses[0].loss.parameters == {"consistency_loss": None}
    assert spec.model == Component(name="UNet")
    assert (spec.training.steps, spec.training.epochs) == (20000, None)
    assert spec.test.splits is None


def test_paths_are_absolute(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, WHOLE)
    assert spec.physics.parameters["mask"] == ArrayFile(file=str(tmp_path / "masks" / "m.npy"))
    assert spec.data is not None and spec.data.test is not None and isinstance(spec.data.validation, Pair)
    assert spec.data.train.measurements is not None and spec.data.train.measurements.file == str(tmp_path / "y.npy")
    assert spec.data.validation.measurements is not None and spec.data.validation.measurements.file == str(tmp_path / "v.npy")
    assert spec.data.test.images is not None and spec.data.test.images.file == os.path.join(tmp_path, "photos", "*.png")
    assert spec.data.test.measurements is not None and spec.data.test.measurements.key == "y"


def test_defaults(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "physics: Denoising\ndata: {train: {images: {sample: photo, crop: 64}}}\nmodel: UNet\ntraining:\n")
    assert spec.training.epochs == 100
    assert spec.training.optimizer == Component(name="AdamW", parameters={"lr": 5e-4, "weight_decay": 1e-8})
    assert [term.loss.name for term in spec.losses] == ["EquivariantSplittingLoss"]
    assert "consistency_loss" not in spec.losses[0].loss.parameters
    assert spec.transforms.group == "trivial"
    assert (spec.data.validation, spec.data.scale) == (0.1, "none") if spec.data else False


def test_round_trips(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, WHOLE)
    assert from_dict(to_dict(spec)) == spec
    assert from_dict(read_yaml(to_yaml(spec), "").value) == spec
    assert to_dict(spec)["losses"] == [{"name": "EquivariantSplittingLoss", "consistency_loss": None, "weight": 2.0, "equivariant": False}]


def test_checkpoints_need_no_data_and_hold_tensors(tmp_path: Path) -> None:
    raw = to_dict(spec_of(tmp_path, WHOLE))
    del raw["data"]
    raw["physics"]["mask"] = {"tensor": "physics.mask"}
    spec = from_dict(raw)
    assert spec.data is None
    assert spec.physics.parameters["mask"] == TensorRef(tensor="physics.mask")
    assert from_dict(to_dict(spec)) == spec


def test_a_broken_checkpoint_spec_is_refused() -> None:
    with pytest.raises(SpecError, match="checkpoint: physics: missing"):
        from_dict({"model": "UNet"})


LINES = [
    (("physics: Denoising", "phisics: Denoising"), "s.yaml:1: phisics: unknown key; did you mean physics?"),
    (("model: UNet", "model: 3"), "s.yaml:3: model: wanted a part, got 3; write {name: Class, parameter: value, …} or just the name"),
    (("model: UNet", "model: {nam: UNet}"), "s.yaml:3: model: this part has no name; write {name: Class, parameter: value, …}"),
    (
        ("model: UNet", "model: {name: 3}"),
        "s.yaml:3: model.name: wanted the name of a class, got 3; write {name: Class, parameter: value, …}",
    ),
    (("batch_size: 8", "batch_size: 8.5"), "s.yaml:5: training.batch_size: wanted a whole number, got 8.5; samples in one step"),
    (("batch_size: 8", "batch_size: true"), "s.yaml:5: training.batch_size: wanted a whole number, got true; samples in one step"),
    (("batch_size: 8", "batch_size: 0"), "s.yaml:5: training.batch_size: must be more than 0, got 0; samples in one step"),
    (("batch_size: 8", "batchsize: 8"), "s.yaml:5: training.batchsize: unknown key; did you mean batch_size?"),
    (("batch_size: 8", "preview: no"), "s.yaml:5: training.preview: wanted true or false, got 'no'; write false"),
    (("batch_size: 8", "crop: 8"), "s.yaml:5: training.crop: unknown key; it belongs under measurements"),
    (("batch_size: 8", "ema: 1"), "s.yaml:5: training.ema: must be less than 1.0, got 1; decay of the running mean of the weights"),
    (("batch_size: 8", "epochs: 1\n  steps: 2"), "s.yaml:4: training: epochs and steps exclude each other; leave one of them out"),
    (("y.npy}", "y.npy, imgs: x.npy}"), "s.yaml:2: data.train.imgs: unknown key; did you mean images?"),
    (
        ("{measurements: y.npy}", "y.npy"),
        "s.yaml:2: data.train: 'y.npy' could be measurements or images; write {measurements: y.npy} or {images: y.npy}",
    ),
    (
        ("{measurements: y.npy}", "{}"),
        "s.yaml:2: data.train: neither measurements nor images are given; add measurements: FILE or images: FOLDER",
    ),
    (
        ("y.npy}", "{file: y.npy, sample: photo}}"),
        "s.yaml:2: data.train.measurements: file and sample exclude each other; give file: PATH, or sample: photo",
    ),
    (
        ("y.npy}", "{file: y.npy, crop: [8]}}"),
        "s.yaml:2: data.train.measurements.crop: wanted a number of pixels, or [height, width], got [8]; such as 64",
    ),
    (
        ("y.npy}", "{sample: foto}}"),
        "s.yaml:2: data.train.measurements.sample: must be one of photo, terrain, brain, got 'foto'; did you mean photo?",
    ),
    (
        ("}}", "}, validation: 3}"),
        "s.yaml:2: data.validation: wanted a fraction between 0 and 1, or {measurements: FILE}, got 3; 0.1 holds a tenth of train out",
    ),
    (
        ("}}", "}, validation: {measurments: v.npy, images: x}}"),
        "s.yaml:2: data.validation.measurments: unknown key; did you mean measurements?",
    ),
    (
        ("}}", "}, scale: big}"),
        "s.yaml:2: data.scale: wanted none, per-sample or a number above 0, got 'big'; per-sample is the 99th percentile of each sample's adjoint",
    ),
    (
        ("model: UNet", "model: UNet\ntransforms: {group: D8}"),
        "s.yaml:4: transforms.group: must be one of trivial, C4, D4, reflections, shifts, rotations, got 'D8'",
    ),
    (("model: UNet", "model: UNet\ntransforms: {group: D4, train: [Rotate]}"), "s.yaml:4: transforms: group and train exclude each other"),
    (("model: UNet", "model: UNet\nlosses: {name: MCLoss}"), "s.yaml:4: losses: wanted a list, got a mapping; start each item with '- '"),
    (("model: UNet", "model: UNet\nlosses: []"), "s.yaml:4: losses: the list is empty; leave the key out, or name at least one part"),
    (
        ("model: UNet", "model: UNet\nlosses:\n  - {name: MCLoss, weight: big}"),
        "s.yaml:5: losses.0.weight: wanted a number, got 'big'; what the loss is multiplied by",
    ),
    (("model: UNet", "model: UNet\nname: a/b"), "s.yaml:4: name: 'a/b' cannot name a folder; use letters, digits, - and _"),
    (("model: UNet", "model: UNet\nname: 3"), "s.yaml:4: name: wanted text, got 3; put it in quotes"),
    (("model: UNet", "model: UNet\nseed: -1"), "s.yaml:4: seed: must be at least 0, got -1; every random draw follows from it"),
    (("model: UNet", "model: UNet\ntest: {splits: 0}"), "s.yaml:4: test.splits: must be more than 0, got 0"),
    (
        ("physics: Denoising", "physics: {name: Inpainting, mask: {file: m.npy, kye: k}}"),
        "s.yaml:1: physics.mask.kye: unknown key; beside file only key can stand",
    ),
    (
        ("physics: Denoising", "physics: {name: Inpainting, mask: {file: 3}}"),
        "s.yaml:1: physics.mask.file: wanted text, got 3; put it in quotes",
    ),
    (("physics: Denoising\n", ""), "s.yaml:1: physics: missing; add physics: the forward operator"),
    (("data: {train: {measurements: y.npy}}\n", ""), "s.yaml:1: data: missing; add data: {train: {measurements: FILE}}"),
]
BASE = "physics: Denoising\ndata: {train: {measurements: y.npy}}\nmodel: UNet\ntraining:\n  batch_size: 8\n"


@pytest.mark.parametrize(("change", "message"), LINES, ids=[message.split(": ", 1)[1][:50] for _, message in LINES])
def test_each_fault_names_its_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in BASE
    faults = faults_of(tmp_path, BASE.replace(*change))
    assert len([fault for fault in faults if fault.startswith(message)]) == 1, faults
    assert all("\n" not in fault and "pydantic" not in fault for fault in faults)


def test_faults_of_all_sections_come_together(tmp_path: Path) -> None:
    text = "sed: 1\nphysics: 3\ndata: {train: y.npy, scal: 2}\nmodel: UNet\nlosses: [{name: MCLoss, weight: a}, 3]\ntraining: {steps: x, ema: 2}\n"
    paths = {fault.split(": ")[1] for fault in faults_of(tmp_path, text)}
    assert paths == {"sed", "physics", "data.train", "data.scal", "losses.0.weight", "losses.1", "training.steps", "training.ema"}


def test_deepinv_words_for_evaluation_become_test(tmp_path: Path) -> None:
    text = (
        BASE
        + "transforms: {group: D4, eval: [{name: Rotate, multiples: 90}]}\nlosses:\n  - {name: EquivariantSplittingLoss, eval_n_samples: 3}\n"
    )
    spec = spec_of(tmp_path, text)
    assert spec.test.splits == 3
    assert spec.test.group == (Component(name="Rotate", parameters={"multiples": 90}),)
    assert spec.losses[0].loss.parameters == {}
    assert set(to_dict(spec)["transforms"]) == {"group", "train", "per"}


def test_both_words_are_an_error_at_their_line(tmp_path: Path) -> None:
    text = (
        BASE
        + "transforms: {group: D4, eval: Rotate}\nlosses:\n  - {name: EquivariantSplittingLoss, eval_n_samples: 3}\ntest: {splits: 2, group: full}\n"
    )
    faults = faults_of(tmp_path, text)
    assert faults[0].startswith("s.yaml:6: transforms.eval: test.group says the same in other words")
    assert faults[1].startswith("s.yaml:8: losses.0.eval_n_samples: test.splits says the same in other words")


def test_a_wrong_word_for_evaluation_is_reported_where_it_stands(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, BASE + "losses:\n  - name: EquivariantSplittingLoss\n    eval_n_samples: many\n")
    assert faults == [
        "s.yaml:8: losses.0.eval_n_samples: wanted none, a whole number or complementary, got 'many'; "
        "how many random splits are averaged, none: the whole measurement, complementary: each entry is left out of one"
    ]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match="give the path of a spec"):
        read_document(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"s\.yaml:1: .*; a spec has at least physics, data and model"):
        read_document(write(tmp_path, text))


@pytest.mark.parametrize(("given", "group"), [("none", "trivial"), ("D4", "D4"), ("{group: none}", "trivial"), ("shifts", "shifts")])
def test_transforms_may_be_the_bare_name_of_a_group(tmp_path, given, group):
    path = tmp_path / "s.yaml"
    path.write_text(f"physics: Denoising\nmodel: UNet\ndata: {{train: {{images: photos}}}}\ntransforms: {given}\n")
    document = read_document(path, ())
    assert not document.faults and document.spec.transforms.group == group


def test_a_bare_name_that_is_no_group_says_which_there_are(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("physics: Denoising\nmodel: UNet\ndata: {train: {images: photos}}\ntransforms: reflection\n")
    (fault,) = read_document(path, ()).faults
    assert str(fault).endswith("transforms: must be one of trivial, C4, D4, reflections, shifts, rotations, got 'reflection'; did you mean reflections?")
