"""A disk that is full, gone or read-only: a run says so once, goes on, tries again, and never destroys the last good file."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from problems import es, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.errors import OutputError
from es_cli.training.events import Note, Step
from es_cli.training.folder import claim
from es_cli.training.run import resume
from es_cli.training.state import read_snapshot

FAULTS = [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO]
WHILE_TRAINING = ["next.safetensors", "model.safetensors", "metrics.jsonl", "metrics.csv", "step-", "progress.png"]
BEFORE_TRAINING = ["spec.yaml", "environment.json", "test_y.npy"]


@pytest.fixture
def full(monkeypatch):
    """A disk on which files with the names in it cannot be written. What is written stays beside its place until the last moment, the rename."""
    names, replace = set(), os.replace
    number = iter(FAULTS * 1000)

    def refuse(source, target):
        if any(name in os.path.basename(target) for name in names):
            code = next(number)
            raise OSError(code, os.strerror(code))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    return names


@pytest.mark.parametrize("name", WHILE_TRAINING)
def test_what_cannot_be_written_for_a_while_is_written_later_and_nothing_else_changes(inpainting, full, name):
    spec = load_spec(inpainting, ["training.preview=true", "training.steps=12"])
    whole = train_in(inpainting.parent / "whole", spec)
    notes = []

    def look(event):
        if isinstance(event, Step):
            full.clear() if event.step >= 8 else full.add(name)
        notes.extend([event.text] if isinstance(event, Note) else [])

    model = train_in(inpainting.parent / "run", spec, on_event=look)
    assert model.read_bytes() == whole.read_bytes()
    left, right = ({str(p.relative_to(f.parent)) for p in f.parent.rglob("*")} for f in (model, whole))
    assert left ^ right <= {path for path in left | right if path.startswith("previews")}
    complaints = [note for note in notes if "cannot be written" in note]
    assert len(complaints) == 1 and name in complaints[0]
    assert name in ("step-", "progress.png") or notes[-1] == "the files of the run can be written again"


@pytest.mark.parametrize("name", ["next.safetensors", "model.safetensors"])
def test_a_result_that_cannot_be_saved_even_at_the_end_is_exit_3_and_the_last_good_one_stays(inpainting, full, name, capfd, saved_at_once):
    spec = load_spec(inpainting, ["training.steps=60", "training.validate_every=30"])  # the second validation is the better one
    whole = train_in(inpainting.parent / "whole", spec)
    folder = inpainting.parent / "run"
    last = []

    def look(event):
        if isinstance(event, Step) and event.step == 40:
            full.add(name)
        if isinstance(event, Step):
            last.append(event.step)

    with pytest.raises(OutputError, match="the result of training cannot be saved") as failed:
        train_in(folder, spec, on_event=look)
    assert failed.value.exit_code == 3 and last[-1] == 60  # training went on to its end
    assert read_snapshot(folder / "state" / "state.safetensors").step == 30
    if name == "model.safetensors":
        assert load_checkpoint(folder / name).metadata.validation["step"] == 30
    full.clear()
    assert resume(folder, device="cpu").read_bytes() == whole.read_bytes()
    assert es(["train", "--resume", str(folder)]) == 0
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "step-", "progress.png"])
def test_what_only_informs_fails_no_run(inpainting, full, name):
    full.add(name)
    spec = load_spec(inpainting, ["training.preview=true"])
    assert load_checkpoint(train_in(inpainting.parent / "run", spec)).metadata.validation["step"] > 0


@pytest.mark.parametrize("name", BEFORE_TRAINING)
def test_what_is_written_before_the_first_step_is_exit_3_at_once(tmp_path, full, name):
    np.save(tmp_path / "x.npy", smooth(6, 16))
    spec = write_spec(tmp_path / "spec.yaml", physics={"name": "Inpainting", "mask": 0.6}, data={"train": {"images": "x.npy"}, "test": {"images": "x.npy"}})
    full.add(name)
    steps = []
    with pytest.raises(OutputError):
        train_in(tmp_path / "run", load_spec(spec), on_event=lambda event: steps.append(event) if isinstance(event, Step) else None)
    assert not steps


def test_a_stop_that_cannot_be_saved_says_so(inpainting, full):
    import signal

    def stop(event):
        if isinstance(event, Step) and event.step == 4:
            full.add("next.safetensors")
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(OutputError, match="cannot be saved"):
        train_in(inpainting.parent / "run", load_spec(inpainting), on_event=stop)


@pytest.mark.parametrize("at", [2, 5])
def test_a_folder_that_was_removed_is_made_again(inpainting, at):
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting, ["training.steps=9", "training.save_every=1e-9"]))
    folder, notes = inpainting.parent / "run", []

    def remove(event):
        if isinstance(event, Step) and event.step == at:
            shutil.rmtree(folder, ignore_errors=True)
        notes.extend([event.text] if isinstance(event, Note) else [])

    model = train_in(folder, load_spec(inpainting, ["training.steps=9", "training.save_every=1e-9"]), on_event=remove)
    assert model.read_bytes() == whole.read_bytes()
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.parent.iterdir()}
    assert len([note for note in notes if "was removed" in note]) >= 1
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3
    resume(folder, device="cpu")


def test_a_folder_that_another_run_has_taken_meanwhile_is_left_to_it(inpainting, saved_at_once):
    folder, taken = inpainting.parent / "run", []

    def take(event):
        if isinstance(event, Step) and event.step == 4:
            shutil.rmtree(folder)
            taken.append(claim(load_spec(inpainting, ["seed=9"]), folder))

    with pytest.raises(OutputError, match="is training in this folder"):
        train_in(folder, load_spec(inpainting), on_event=take)
    assert "seed: 9" in (folder / "spec.yaml").read_text() and not (folder / "model.safetensors").exists()
    taken[0].give_up()
