"""Names that are no plain words, in specs, of files and of folders: each is answered or worked with, and no output leaves its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.data.writers import write_array, write_bytes
from es_cli.errors import OutputError, SpecError

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX names and links")
NAMES = ["-dash", "new\nline", "\x1b[31m", "\udcff\udcfe", "ü", ".", " ", "%s", "$(touch x)", "a;b"]


@pytest.fixture
def model(inpainting: Path) -> Path:
    return train_in(inpainting.parent / "trained", load_spec(inpainting, ["training.steps=1"]))


@POSIX
def test_names_of_inputs_become_names_of_outputs_in_the_output_folder(model: Path, inpainting: Path, monkeypatch, capfd) -> None:
    folder = inpainting.parent / "in"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(inpainting.parent / "test_y.npy", folder / f"{name}.npy")
    monkeypatch.chdir(folder)
    inputs = [f"{name}.npy" for name in NAMES]
    assert es(["reconstruct", "--ckpt", str(model), "-o", "../out/", "--", *inputs, "../test_y.npy", str(folder / ".." / "in" / ".." / "test_x.npy")]) == 0
    written = {*(f"{name}.recon.npy" for name in NAMES), "test_y.recon.npy", "test_x.recon.npy", "manifest.json"}
    written |= {f"{name}.json" for name in written if name.endswith(".npy")}
    assert {path.name for path in (inpainting.parent / "out").iterdir()} == written
    assert {path.name for path in folder.iterdir()} == set(inputs)


@POSIX
@pytest.mark.parametrize("out", ["x" * 300 + ".npy", "x/" * 3000 + "a.npy", "a\0.npy"])
def test_outputs_that_no_file_can_be_called(model: Path, inpainting: Path, capfd, out: str) -> None:
    assert es(["reconstruct", "--ckpt", str(model), str(inpainting.parent / "test_y.npy"), "-o", out]) == 2
    assert "no file can have this name" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "-rf", "a\\tb", "a\\u202eb", "x" * 201, ".", "\\ud800", "a\\0"])
def test_names_of_runs_are_names_of_folders(inpainting: Path, monkeypatch, capfd, name: str) -> None:
    monkeypatch.chdir(inpainting.parent)
    before = sorted(inpainting.parent.iterdir())
    assert es(["train", str(inpainting), f'name="{name}"']) == 2
    assert sorted(inpainting.parent.iterdir()) == before
    assert "Traceback" not in capfd.readouterr().err


@POSIX
def test_a_spec_in_a_folder_whose_name_is_no_text(inpainting: Path) -> None:
    folder = inpainting.parent / "\udcff"
    folder.mkdir()
    shutil.copy(inpainting, folder)
    with pytest.raises(SpecError, match="not in UTF-8"):
        load_spec(folder / "spec.yaml")


@POSIX
@pytest.mark.parametrize("name", ["spec.yaml", "model.safetensors", "metrics.csv", "metrics.jsonl", "environment.json", "state", "state/state.safetensors", "previews", "data", "data/test_y.npy"])
@pytest.mark.parametrize("arguments", [["--resume", "RUN", "training.steps=3"], ["SPEC", "-o", "RUN", "--overwrite"]], ids=["resume", "overwrite"])
def test_a_run_that_came_from_somebody_else_writes_and_deletes_nothing_elsewhere(model: Path, inpainting: Path, tmp_path: Path, capfd, name: str, arguments: list[str]) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(model.parent, run)
    for folder in ("data", "previews"):
        (run / folder).mkdir(exist_ok=True)
    (run / "data" / "test_y.npy").write_bytes(b"y")
    (elsewhere / "x").parent.mkdir()
    os.replace(run / name, elsewhere / "mine")
    (run / name).symlink_to(elsewhere / "mine")
    for left in (".a.tmp", "test_x.npy"):
        if (elsewhere / "mine").is_dir():
            (elsewhere / "mine" / left).write_bytes(b"mine")
    before = {path: path.is_file() and path.read_bytes() for path in elsewhere.rglob("*")}
    assert es(["train", *({"RUN": str(run), "SPEC": str(inpainting)}.get(word, word) for word in arguments), "--device", "cpu", "-q"]) == 3
    assert "leads out of the run's folder" in capfd.readouterr().err
    assert {path: path.is_file() and path.read_bytes() for path in elsewhere.rglob("*")} == before


LONG = "x" * 300


@POSIX
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "SPEC", f"data.train.measurements={LONG}.npy"], 3),
        (["train", "SPEC", f"data.train.measurements={LONG * 20}"], 3),
        (["train", "SPEC", f"physics.mask={{file: {LONG}.npy}}"], 3),
        (["train", "SPEC", f"data.train.params={{mask: {LONG}.npy}}"], 3),
        (["train", "SPEC", "-o", LONG], 3),
        (["train", f"{LONG}.yaml"], 2),
        (["train", "--resume", LONG], 4),
        (["train", "SPEC", "--init-from", LONG], 4),
        (["check", "SPEC", f"data.train.measurements={LONG}.npy"], 3),
        (["simulate", "SPEC", "--images", LONG, "-o", "out"], 3),
        (["simulate", "SPEC", "--images", "test_x.npy", "-o", LONG], 3),
        (["init", "--from", f"{LONG}.npy"], 3),
        (["init", "mri", "-o", f"{LONG}.yaml"], 3),
        (["info", LONG], 4),
        (["reconstruct", "--ckpt", LONG, "test_y.npy"], 4),
        (["reconstruct", "--ckpt", "MODEL", f"{LONG}.npy"], 3),
        (["reconstruct", "--ckpt", "MODEL", "test_y.npy", "--param", f"mask={LONG}.npy"], 3),
        (["evaluate", "--ckpt", "MODEL", "--measurements", f"{LONG}.npy", "--images", "test_x.npy"], 3),
        (["evaluate", "--ckpt", "MODEL", "--csv", f"{LONG}.csv"], 3),
    ],
)
def test_names_longer_than_any_file_can_have(model: Path, inpainting: Path, monkeypatch, capfd, arguments: list[str], code: int) -> None:
    monkeypatch.chdir(inpainting.parent)
    named = {"SPEC": str(inpainting), "MODEL": str(model)}
    ended = es([named.get(word, word) for word in arguments])
    said = capfd.readouterr().err
    assert ended == code and len(said.splitlines()) <= 10 and LONG[:200] in said and "a fault of es" not in said, said


def test_a_spec_without_end(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="more than"):
        load_spec(Path("/dev/zero"))


@POSIX
def test_links_do_not_lead_out_of_the_output_folder(tmp_path: Path, model: Path, inpainting: Path, capfd) -> None:
    out, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine.npy").write_bytes(b"mine")
    (out / "test_y.recon.npy").symlink_to(elsewhere / "mine.npy")
    assert es(["reconstruct", "--ckpt", str(model), str(inpainting.parent / "test_y.npy"), "-o", f"{out}/", "--overwrite"]) == 3
    assert "leads out of the output folder" in capfd.readouterr().err
    (out / "sub").symlink_to(elsewhere)
    for write in (lambda: write_bytes(out / "sub" / "a.txt", b"x", out), lambda: write_array(out / "sub" / "a.npy", np.ones(3), within=out)):
        with pytest.raises(OutputError, match="leads out"):
            write()
    assert [path.name for path in elsewhere.iterdir()] == ["mine.npy"] and (elsewhere / "mine.npy").read_bytes() == b"mine"
    (tmp_path / "results-link").symlink_to(out)
    write_bytes(tmp_path / "results-link" / "b.txt", b"x", tmp_path / "results-link")
    assert (out / "b.txt").read_bytes() == b"x"
