"""`es init`: templates that train, specs from data, and what it says where neither can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspecting_folders import coil_maps, columns, kspace, noise, phased, pixels, rough, save
from jsonschema import Draft7Validator
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.catalog.json_schema import json_schema
from es_cli.errors import UsageError
from es_cli.inspecting.look import KINDS, look
from es_cli.inspecting.recipe import draft
from es_cli.spec.starters import read_starter, starters
from es_cli.spec.yaml_reader import read_yaml

NAMES = ("inpainting", "mri", "multicoil-mri", "ct", "cs", "denoising", "demosaicing")
QUICK = ["training.steps=2", "training.batch_size=2", "training.validate_every=2", "training.preview=false"]


def arrays_for(name: str) -> dict[str, np.ndarray]:
    """What the template asks for, small."""
    if name == "inpainting":
        return {"train_y": rough(6, 16) * pixels(16, 0.5)}
    if name == "mri":
        return {"train_y": kspace(phased(6, 24)) * columns(24, 6, 3)}
    if name == "multicoil-mri":
        maps = np.repeat(coil_maps(3, 24)[None], 4, 0)
        return {"train_y": kspace(phased(4, 24)[:, None] * maps) * columns(24, 6, 3), "train_maps": maps}
    if name == "ct":
        return {"train_y": np.random.default_rng(0).random((4, 1, 34, 25)).astype(np.float32)}
    if name == "cs":
        matrix = np.random.default_rng(0).normal(size=(40, 784)).astype(np.float32)
        return {"train_y": rough(4, 28).reshape(4, -1) @ matrix.T, "matrix": matrix}
    if name == "demosaicing":
        return {"train_y": rough(12, 16).reshape(4, 3, 16, 16)}
    return {"train_y": rough(6, 16) + noise((6, 16, 16), 0.1)}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_trains_as_it_stands(name: str, tmp_path: Path, capsys: Any) -> None:
    save(tmp_path, **arrays_for(name))
    assert es(["init", name, "-o", str(tmp_path / "my spec.yaml")]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / "my spec.yaml").read_text()
    assert text.startswith("# Go on with: ") and "es train '" in text.splitlines()[0] and "my spec.yaml'" in text.splitlines()[0]
    spec = load_spec(tmp_path / "my spec.yaml")
    inner = "backbone_net" if spec.model.name == "ArtifactRemoval" else "denoiser"
    quick = load_spec(tmp_path / "my spec.yaml", [*QUICK, f"model.{inner}.channels_per_scale=[4, 8]"])
    assert spec.name == name and train_in(tmp_path / "run", quick).is_file()


def test_es_init_alone_lists_the_templates_with_a_line_each(capsys: Any) -> None:
    assert es(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set(NAMES) == set(starters()) and all(line.endswith(".") for line in lines)


def test_every_section_that_a_newcomer_changes_has_a_comment() -> None:
    for name in NAMES:
        text = read_starter(name)
        for section in ("name:", "physics:", "data:", "steps:", "batch_size:", "channels_per_scale:"):
            line = next(line for line in text.splitlines() if line.strip().startswith(section))
            assert "#" in line, f"{name}: {line}"


@pytest.mark.parametrize("dash", [[], ["-o", "-"]], ids=["left out", "-"])
def test_a_spec_goes_to_standard_output(dash: list[str], capsys: Any) -> None:
    assert es(["init", "mri", *dash]) == 0
    captured = capsys.readouterr()
    assert captured.out == read_starter("mri") and captured.err == ""


def test_a_spec_that_exists_is_replaced_only_when_asked_to(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("mine")
    assert es(["init", "ct", "-o", str(path)]) == 2 and path.read_text() == "mine"
    assert "this output exists" in capsys.readouterr().err
    assert es(["init", "ct", "-o", str(path), "--overwrite"]) == 0 and path.read_text() != "mine"
    assert es(["init", "ct", "-o", str(tmp_path), "--overwrite"]) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["mir"], "did you mean mri?"),
        (["../spec"], "there are cs, ct"),
        (["mri", "--from", "x"], "exclude each other"),
        (["mri", "--physics", "MRI"], "goes with --from"),
        (["-o", "spec.yaml"], "nothing to write"),
        (["--from", ".", "--physics", "Blurr"], "no spec is made for an operator called 'Blurr'"),
        (["--from", ".", "--physics", "inpainting"], "did you mean Inpainting?"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], text: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert es(["init", *arguments]) == 2
    captured = capsys.readouterr()
    assert text in captured.err and captured.out == ""


def test_a_folder_named_as_a_template_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="es init --from"):
        read_starter(str(tmp_path))


def test_from_data_the_spec_names_files_from_where_it_lies(tmp_path: Path, capsys: Any) -> None:
    save(tmp_path / "data", measurements=rough(6, 16) * pixels(16, 0.5))
    assert es(["init", "--from", str(tmp_path / "data"), "-o", str(tmp_path / "spec.yaml")]) == 0
    assert "measurements: data/measurements.npy" in (tmp_path / "spec.yaml").read_text()
    assert "go on with: es train" in capsys.readouterr().err
    assert es(["init", "--from", str(tmp_path / "data"), "-q"]) == 0
    captured = capsys.readouterr()
    assert str(tmp_path / "data" / "measurements.npy") in captured.out and captured.err == ""


def test_a_spec_from_data_passes_the_check_as_it_stands(tmp_path: Path, capsys: Any) -> None:
    mask = columns(32, 4, 3)
    save(tmp_path, train_y=kspace(phased(8, 32), 0.05) * mask)
    spec = tmp_path / "spec.yaml"
    assert es(["init", "--from", str(tmp_path), "-o", str(spec)]) == 0
    capsys.readouterr()
    assert es(["check", str(spec), "--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["good", "overall"]


def test_what_was_guessed_is_noted_on_standard_error(tmp_path: Path, capsys: Any) -> None:
    save(tmp_path, pictures=rough(6, 16))
    assert es(["init", "--from", str(tmp_path)]) == 0
    assert "note: pictures.npy holds images, it seems" in capsys.readouterr().err


@pytest.mark.parametrize("physics", KINDS)
def test_images_are_measured_by_the_operator_that_is_asked_for(physics: str, tmp_path: Path) -> None:
    from es_cli.experiment import build_experiment

    save(tmp_path, x=rough(18, 16).reshape(6, 3, 16, 16) if physics == "Demosaicing" else rough(6, 16))
    if physics == "MultiCoilMRI":
        pytest.importorskip("sigpy")
    (tmp_path / "spec.yaml").write_text(draft(look(str(tmp_path), physics), tmp_path).text)
    made = build_experiment(load_spec(tmp_path / "spec.yaml", ["training.batch_size=2"]), torch.device("cpu"))
    assert type(made.operator.physics).__name__ == ("CompressedSensing" if physics == "SensingMatrix" else physics)


def broken(name: str, folder: Path) -> Path:
    """Folders of which no spec can be made."""
    folder.mkdir()
    if name == "text":
        (folder / "notes.txt").write_text("nothing")
    elif name == "damaged":
        (folder / "y.npy").write_bytes(b"\x93NUMPY not an array")
    elif name == "numbers":
        np.save(folder / "y.npy", np.arange(7.0))
    elif name == "zero":
        np.save(folder / "y.npy", np.zeros((4, 8, 8)))
    elif name == "nan":
        np.save(folder / "y.npy", np.full((4, 8, 8), np.nan))
    elif name == "vectors":
        np.save(folder / "y.npy", np.random.default_rng(0).normal(size=(20, 30)))
    elif name == "flattened":
        np.save(folder / "y.npy", rough(20, 16).reshape(20, 256))
    elif name == "corner":
        np.save(folder / "kspace.npy", np.fft.fft2(phased(4, 32)))
    elif name == "coils":
        np.save(folder / "multicoil.npy", kspace(phased(3, 24)[:, None] * coil_maps(4, 24)) * columns(24, 4, 3))
    elif name == "turned":
        save(folder, sinograms=rough(4, 12, width=30), angles=np.arange(12.0))
    elif name == "volumes":
        np.save(folder / "y.npy", np.random.default_rng(0).random((2, 3, 4, 8, 8)))
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text", "no file that es can read"),
        ("damaged", "y.npy is passed over"),
        ("numbers", "no array of samples"),
        ("zero", "0 everywhere"),
        ("nan", "NaN"),
        ("vectors", "no matrix"),
        ("flattened", "flattened pictures"),
        ("corner", "centre in the corner"),
        ("coils", "too small for ESPIRiT"),
        ("turned", "moveaxis(y, 1, -1)"),
        ("volumes", "are no images"),
    ],
)
def test_hopeless_data_are_answered_in_a_line(name: str, text: str, tmp_path: Path, capsys: Any) -> None:
    assert es(["init", "--from", str(broken(name, tmp_path / "data")), "-o", str(tmp_path / "spec.yaml")]) == 3
    said = capsys.readouterr().err
    assert text in said and "fault of es" not in said and said.count("\n") <= 3
    assert not (tmp_path / "spec.yaml").exists()


def test_a_path_that_is_not_there(tmp_path: Path, capsys: Any) -> None:
    assert es(["init", "--from", str(tmp_path / "nothing.npy")]) == 3
    assert es(["init", "--from", str(tmp_path / "*.npy")]) == 3
    assert "no file matches" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no: yes # [x]", "a'b\"c", "läufe"])
def test_names_of_files_are_quoted_where_yaml_needs_it(name: str, tmp_path: Path) -> None:
    save(tmp_path / "data", **{name: rough(6, 16) * pixels(16, 0.5)})
    (tmp_path / "spec.yaml").write_text(draft(look(str(tmp_path / "data")), tmp_path).text, encoding="utf-8")
    assert load_spec(tmp_path / "spec.yaml").data.train.measurements.file == str(tmp_path / "data" / f"{name}.npy")


def test_a_template_and_a_look_at_data_load_no_torch(python: Any, tmp_path: Path) -> None:
    code = "import sys; from es_cli.cli.app import app\ntry:\n  app(sys.argv[1:])\nfinally:\n  sys.stderr.write('LOADED ' + ' '.join({m.split('.')[0] for m in sys.modules}))"
    save(tmp_path, y=rough(6, 16) * pixels(16, 0.5))
    assert not {"torch", "deepinv", "numpy", "yaml"} & set(python(code, "init", "mri").stderr.decode().split("LOADED ")[1].split())
    done = python(code, "init", "--from", "y.npy")
    assert done.stdout.startswith(b"# Go on") and not {"torch", "deepinv"} & set(done.stderr.decode().split("LOADED ")[1].split())


def test_a_schema_beside_the_spec_is_named_in_its_first_line_for_editors(tmp_path: Path, capsys: Any) -> None:
    save(tmp_path, y=rough(6, 16) * pixels(16, 0.5))
    (tmp_path / "far").mkdir()
    (tmp_path / "es.schema.json").write_text("{}")
    for number, arguments in enumerate((["mri"], ["--from", str(tmp_path / "y.npy")])):
        assert es(["init", *arguments, "-o", str(tmp_path / f"{number}.yaml")]) == 0
        first, second, *_ = (tmp_path / f"{number}.yaml").read_text().splitlines()
        assert first == "# yaml-language-server: $schema=es.schema.json" and second.startswith("# Go on with: ")
        assert not list(Draft7Validator(json_schema()).iter_errors(read_yaml((tmp_path / f"{number}.yaml").read_text(), "spec").value))
    assert es(["init", "mri", "-o", str(tmp_path / "far" / "spec.yaml")]) == 0
    assert "yaml-language-server" not in (tmp_path / "far" / "spec.yaml").read_text()
    assert load_spec(tmp_path / "1.yaml").physics.name == "Inpainting"
