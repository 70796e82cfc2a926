from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from es_cli import catalog
from es_cli.catalog import Entry, Parameter, check_spec, find, load_class, load_spec, suggest, without_weight_files
from es_cli.errors import SpecError
from es_cli.spec.component import Component
from es_cli.spec.document import from_dict, to_dict

HEAD = "physics: Denoising\ndata: {train: {images: photos}}\nmodel: MoDL\n"


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    from es_cli.catalog.generate import generate

    return generate()


def parameter(name: str, kind: str, one: str) -> Parameter:
    entry = find(name, (kind,))
    assert entry is not None
    found = entry.parameter(one)
    assert found is not None
    return found


def load(tmp_path: Path, text: str, *overrides: str) -> dict[str, Any]:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return to_dict(load_spec(path, overrides))


def faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text, *overrides)
    lines = [str(fault).replace(str(tmp_path / "s.yaml"), "s.yaml") for fault in caught.value.faults]
    assert all("\n" not in line for line in lines)
    return lines


def test_catalogue_is_that_of_the_installed_deepinv(fresh: dict[str, Any]) -> None:
    stored = json.loads((Path(catalog.__file__).parent / "catalog.json").read_text(encoding="utf-8"))
    made = {(entry["kind"], entry["name"]): entry for entry in fresh["entries"]}
    same_torch = stored["made_from"]["torch"] == fresh["made_from"]["torch"]
    for entry in stored["entries"]:
        key = (entry["kind"], entry["name"])
        if entry["origin"] == "torch" and not same_torch:
            continue
        assert made.pop(key) == entry
    assert [key for key, entry in made.items() if entry["origin"] != "torch"] == []


def test_generation_is_deterministic(fresh: dict[str, Any]) -> None:
    from es_cli.catalog.generate import dumps, generate

    assert dumps(generate()) == dumps(fresh)


def test_every_public_class_is_listed() -> None:
    import inspect

    import deepinv as dinv
    import torch

    places = (dinv.physics, dinv.physics.generator, dinv.transform, dinv.loss, dinv.loss.metric, dinv.models, torch.optim)
    for place in places:
        for name, cls in vars(place).items():
            if inspect.isclass(cls) and not name.startswith("_") and cls.__module__.startswith(place.__name__):
                assert find(name) is not None, name


def test_every_class_that_can_be_built_exists() -> None:
    for entry in catalog.entries():
        if entry.refused is None and entry.origin != "torch":
            assert load_class(entry).__name__ == entry.name


def test_parameters_come_through_the_classes_above() -> None:
    assert "noise" in parameter("Inpainting", "physics", "noise_model").parts
    assert parameter("Rotate", "transform", "n_trans").default == 1
    entry = find("Reflect", ("transform",))
    assert entry is not None
    assert entry.parameter("dims") is None
    denoising = find("MRI", ("physics",))
    assert denoising is not None
    assert parameter("MRI", "physics", "U").refused == "a Python function cannot be written in YAML"


def test_meanings_and_defaults_come_from_deepinv() -> None:
    assert parameter("R2RLoss", "loss", "alpha").default == 0.15
    assert "stages" in parameter("UNet", "model", "scales").meaning
    assert parameter("CyclicLR", "scheduler", "mode").choices == ("triangular", "triangular2", "exp_range")


def test_own_components_are_listed() -> None:
    entry = find("LineSplittingMaskGenerator")
    assert entry is not None
    assert (entry.kind, entry.origin, entry.module) == ("generator", "es", "es_cli.splitting.generators")
    assert parameter("LineSplittingMaskGenerator", "generator", "split_ratio").default == 0.8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("LinearPhysics", "base class"),
        ("LambdaLR", "Python function"),
        ("ComposedPhysics", "without a name"),
        ("MMSE", "data loader"),
        ("LPIPS", "network"),
        ("LBFGS", "several times"),
        ("RandomLossScheduler", "without a name"),
        ("ScoreLoss", "bare network"),
        ("SupAdversarialGeneratorLoss", "discriminator"),
    ],
)
def test_what_yaml_cannot_say_is_refused_with_a_reason(name: str, reason: str) -> None:
    entry = find(name)
    assert entry is not None
    assert entry.refused is not None and reason in entry.refused
    with pytest.raises(SpecError, match=reason):
        load_class(entry)


def test_losses_that_adapt_the_model() -> None:
    adapting = {entry.name for entry in catalog.entries(("loss",)) if entry.adapts and entry.refused is None}
    assert {"EquivariantSplittingLoss", "SplittingLoss", "R2RLoss", "Phase2PhaseLoss", "Artifact2ArtifactLoss"} <= adapting
    assert not {"MCLoss", "SupLoss", "SureGaussianLoss", "EILoss"} & adapting


def test_a_class_that_the_installed_version_lacks() -> None:
    with pytest.raises(SpecError, match="deepinv .* has no Teleporter"):
        load_class(Entry("Teleporter", "physics", "deepinv.physics", "deepinv", "", ()))


def test_suggestions() -> None:
    assert suggest("Inpaintng", ("physics",)) == "Inpainting"
    assert suggest("unet", ("model",)) == "UNet"
    assert suggest("zzzzz", ("model",)) is None
    assert suggest("LinearPhysic", ("physics",)) != "LinearPhysics"


def test_specs_are_checked_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from es_cli.catalog import load_spec; load_spec(Path(sys.argv[1]));"
        "print(sorted({'torch', 'deepinv', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


FAULTS = [
    ("physics: Inpaintin\n", "s.yaml:1: physics: no physics is called Inpaintin; did you mean Inpainting?"),
    ("physics: UNet\n", "s.yaml:1: physics: UNet is a model, wanted a physics; such as Inpainting"),
    ("physics: LinearPhysics\n", "s.yaml:1: physics: LinearPhysics cannot be built from a spec: it is a base class"),
    ("physics: {name: Blur, fliter: 3}\n", "s.yaml:1: physics.fliter: Blur has no parameter fliter; did you mean filter?"),
    ("physics: {name: Blur, padding: 3}\n", "s.yaml:1: physics.padding: wanted text, got 3; padding: "),
    ("physics: {name: Blur, use_fft: no}\n", "s.yaml:1: physics.use_fft: wanted true or false, got 'no'; write false"),
    (
        "physics: {name: Blur, filter: f.npy}\n",
        "s.yaml:1: physics.filter: wanted an array ({file: PATH}) or null, got 'f.npy'; write {file: f.npy}",
    ),
    ("physics: {name: Blur, A: 3}\n", "s.yaml:1: physics.A: A cannot be given: a Python function cannot be written in YAML; leave it out"),
    ("physics: {name: Blur, device: cuda}\n", "s.yaml:1: physics.device: device cannot be given: es chooses the device for the whole run"),
    ("physics: {name: Tomography, img_width: 8}\n", "s.yaml:1: physics: Tomography needs angles; add angles: "),
    (
        "physics:\n  name: Denoising\n  noise_model: {name: GaussianNoise, sgma: 1}\n",
        "s.yaml:3: physics.noise_model.sgma: GaussianNoise has no parameter sgma",
    ),
    (
        "physics:\n  name: Denoising\n  noise_model: GausianNoise\n",
        "s.yaml:3: physics.noise_model: no noise is called GausianNoise; did you mean GaussianNoise?",
    ),
    (
        "physics: {name: Denoising, noise_model: {name: UNet}}\n",
        "s.yaml:1: physics.noise_model: UNet is a model, wanted a noise model; such as GaussianNoise",
    ),
    ("physics: {name: Denoising, img_size: {name: UNet}}\n", "s.yaml:1: physics.img_size: wanted a list or null, got the part UNet"),
    (
        "physics: FarFieldPtychographyGeometry\n",
        "s.yaml:1: physics: FarFieldPtychographyGeometry cannot stand alone; it describes the geometry of Ptychography",
    ),
    (
        "physics: {name: Inpainting, mask: {tensor: a}}\n",
        "s.yaml:1: physics.mask: {tensor: …} only stands inside checkpoints; give {file: PATH}",
    ),
    (
        "model: {name: DnCNN, pretrained: download}\n",
        "s.yaml:1: model.pretrained: 'download' would be downloaded, and es never reaches for the network",
    ),
    (
        "model: {name: RAM, pretrained: true}\n",
        "s.yaml:1: model.pretrained: true would be downloaded, and es never reaches for the network",
    ),
    ("model: {name: Restormer, pretrained: denoising}\n", "s.yaml:1: model.pretrained: 'denoising' would be downloaded"),
    ("model: ArtifactRemoval\n", "s.yaml:1: model: ArtifactRemoval needs backbone_net; add backbone_net: "),
    (
        "transforms:\n  train:\n    - Rotate\n    - {name: Reflect, dims: [1]}\n",
        "s.yaml:4: transforms.train.1.dims: Reflect has no parameter dims; did you mean dim?",
    ),
    ("transforms:\n  group: D4\n  eval: Rotat\n", "s.yaml:3: transforms.eval.0: no transform is called Rotat; did you mean Rotate?"),
    (
        "training:\n  optimizer:\n    name: AdamW\n    lr: fast\n",
        "s.yaml:4: training.optimizer.lr: wanted a number, got 'fast'; lr: learning rate",
    ),
    (
        "model: {name: DataConsistentMoDL, denoiser: UNet, num_iter: 1000000}\n",
        "s.yaml:1: model.num_iter: 1e+06 is more than any network or solver takes; give 1000 or less",
    ),
    (
        "model: {name: UNet, out_channels: 1000000}\n",
        "s.yaml:1: model.out_channels: 1e+06 is more than any network or solver takes; give 16384 or less",
    ),
    (
        "model: {name: UNet, channels_per_scale: [8, 100000000]}\n",
        "s.yaml:1: model.channels_per_scale: 1e+08 is more than any network or solver takes; give 16384 or less",
    ),
    ("training: {optimizer: {name: Adam, betas: 3}}\n", "s.yaml:1: training.optimizer.betas: wanted a list, got 3"),
    ("training: {scheduler: StepLR}\n", "s.yaml:1: training.scheduler: StepLR needs step_size; add step_size: "),
    (
        "training: {scheduler: {name: CyclicLR, base_lr: 1, max_lr: 2, mode: triangle}}\n",
        "s.yaml:1: training.scheduler.mode: must be one of triangular, ",
    ),
    (
        "losses:\n  - EquivariantSplittingLoss\n  - {name: R2RLoss}\n",
        "s.yaml:3: losses.1: R2RLoss and EquivariantSplittingLoss both wrap the network",
    ),
    ("losses:\n  - EILoss\n", "s.yaml:2: losses.0: EILoss needs transform; add transforms: {group: D4} at the top level of the spec"),
    (
        "losses:\n  - {name: EquivariantSplittingLoss, eval_transform: Rotate}\n",
        "s.yaml:2: losses.0.eval_transform: eval_transform stands at the top level",
    ),
    (
        "losses:\n  - {name: EquivariantSplittingLoss, prediction_loss: MCLos}\n",
        "s.yaml:2: losses.0.prediction_loss: no loss is called MCLos; did you mean MCLoss?",
    ),
    (
        "physics: {name: Inpainting, mask: from-data}\n",
        "s.yaml:1: physics.mask: from-data reads the mask off measurements, and data.train has none",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message.split(": ", 2)[2][:40] for _, message in FAULTS])
def test_each_fault_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    key = text.split(":")[0]
    found = faults(tmp_path, text + "".join(line + "\n" for line in HEAD.splitlines() if not line.startswith(key + ":")))
    assert len(found) == 1, found
    assert found[0].startswith(message)
    assert len(found[0]) < 300


MEASURED = "data: {train: {measurements: y.npy}}\nmodel: UNet\n"
DRAWN = [
    (
        "{name: Inpainting, mask: 0.3}",
        "physics.mask: a mask of ratio 0.3 is drawn anew, but data.train.measurements were made by another operator; give {file: mask.npy}",
    ),
    ("{name: MRI, mask: GaussianMaskGenerator}", "physics.mask: what GaussianMaskGenerator draws is drawn anew"),
    ("{name: MRI, mask: {name: GaussianMaskGenerator, acceleration: 4}}", "physics.mask: what GaussianMaskGenerator draws is drawn anew"),
    ("{name: CompressedSensing, m: 10, img_size: [1, 8, 8]}", "physics: the operator of CompressedSensing is drawn anew"),
    ("{name: MultiCoilMRI, mask: {file: m.npy}, coil_maps: 4}", "physics.coil_maps: a set of 4 coil maps is drawn anew"),
    ("{name: PhaseRetrieval, B: {name: CompressedSensing, m: 3}}", "physics.B: the operator of CompressedSensing is drawn anew"),
]


@pytest.mark.parametrize(("part", "message"), DRAWN)
def test_a_drawn_operator_only_goes_with_images(tmp_path: Path, part: str, message: str) -> None:
    (found,) = faults(tmp_path, MEASURED + f"physics: {part}\n")
    assert found.startswith(f"s.yaml:3: {message}")
    load(tmp_path, MEASURED.replace("measurements", "images") + f"physics: {part}\n")


@pytest.mark.parametrize("where", ["validation", "test"])
def test_measurements_anywhere_forbid_a_drawn_operator(tmp_path: Path, where: str) -> None:
    text = f"data: {{train: {{images: x}}, {where}: {{measurements: y.npy}}}}\nmodel: UNet\nphysics: {{name: Inpainting, mask: 0.3}}\n"
    (found,) = faults(tmp_path, text)
    assert f"data.{where}.measurements were made by another operator" in found


@pytest.mark.parametrize("mask", ["from-data", "{file: m.npy}"])
def test_fixed_operators_go_with_measurements(tmp_path: Path, mask: str) -> None:
    load(tmp_path, MEASURED + f"physics: {{name: MRI, mask: {mask}}}\n")


def test_faults_of_text_and_catalogue_come_together_by_line(tmp_path: Path) -> None:
    text = "seeed: 1\nphysics: {name: Blur, fliter: 1}\ndata: {train: {images: x}}\nmodel: {name: UNet, scales: many}\ntraining: {ema: 2}\n"
    assert [fault.split(": ")[0] for fault in faults(tmp_path, text, "training.scheduler=StepL")] == [
        "s.yaml:1",
        "s.yaml:2",
        "s.yaml:4",
        "s.yaml:5",
        "override training.scheduler=StepL",
    ]


def test_a_fault_hides_no_other_and_makes_no_other(tmp_path: Path) -> None:
    assert len(faults(tmp_path, HEAD.replace("model: MoDL", "model: 3"))) == 1
    assert len(faults(tmp_path, HEAD.replace("physics: Denoising\n", ""))) == 1


def test_bare_names_become_parts_and_downloads_fresh_weights(tmp_path: Path) -> None:
    text = HEAD.replace("MoDL", "{name: MoDL, denoiser: DRUNet}").replace("Denoising", "{name: Denoising, noise_model: GaussianNoise}")
    spec = load(tmp_path, text, "losses=[{name: EquivariantSplittingLoss, consistency_loss: R2RLoss}]")
    assert spec["model"] == {"name": "MoDL", "denoiser": {"name": "DRUNet", "pretrained": None}}
    assert spec["physics"]["noise_model"] == {"name": "GaussianNoise"}
    assert spec["losses"][0]["consistency_loss"] == {"name": "R2RLoss"}
    assert load(tmp_path, HEAD.replace("MoDL", "RAM"))["model"] == {"name": "RAM", "pretrained": False}


def test_weight_files_are_absolute_and_can_be_left_behind(tmp_path: Path) -> None:
    spec = load(tmp_path, HEAD.replace("MoDL", "{name: ArtifactRemoval, backbone_net: {name: DnCNN, pretrained: w.pth}}"))
    assert spec["model"]["backbone_net"]["pretrained"] == str(tmp_path / "w.pth")
    left = without_weight_files(from_dict(spec).model)
    assert left.parameters["backbone_net"] == Component(name="DnCNN", parameters={"pretrained": None})


def test_left_out_and_null_stay_different(tmp_path: Path) -> None:
    assert "consistency_loss" not in load(tmp_path, HEAD)["losses"][0]
    spec = load(tmp_path, HEAD, "losses.0.consistency_loss=null")
    assert spec["losses"][0]["consistency_loss"] is None


def test_context_parameters_may_be_left_out(tmp_path: Path) -> None:
    text = HEAD + "mask_generator: {name: BernoulliSplittingMaskGenerator, split_ratio: 0.9}\ntraining: {scheduler: CosineAnnealingLR}\n"
    load(tmp_path, text + "transforms: {group: D4}\nlosses: [EILoss, {name: SplittingLoss, weight: 2}]\n")


def test_resolved_specs_check_out(tmp_path: Path) -> None:
    spec = from_dict(load(tmp_path, HEAD))
    assert check_spec(spec) == []
    bad = spec.model_copy(update={"model": Component(name="os.system")})
    assert [fault.where for fault in check_spec(bad)] == ["model"]
