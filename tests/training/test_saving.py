"""A run that is killed at any moment goes on as if it had not been, and damaged states are not used."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
import torch
from problems import es, smooth, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import read_metadata
from es_cli.errors import CheckpointError, OutputError
from es_cli.experiment import build_experiment
from es_cli.training import keeping, saving
from es_cli.training.events import Note, Step
from es_cli.training.folder import claim
from es_cli.training.loop import new_state
from es_cli.training.run import resume, train
from es_cli.training.saving import Saver, StateFiles
from es_cli.training.state import read_snapshot

CPU = torch.device("cpu")
OFTEN = ["training.save_every=1e-9"]
SHORT = [*OFTEN, "training.steps=4", "training.validate_every=2"]
CLOCK = {"samples_per_second", "peak_memory_mib"}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing is written after it."""


def metrics(model):
    """The rows of a run but for what the clock says; both files must say the same."""
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    table = (model.parent / "metrics.csv").read_text().splitlines()
    assert len(table) == len(rows) + 1 and [int(line.split(",")[0]) for line in table[1:]] == [row["step"] for row in rows]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


def states(folder):
    return folder / "state" / "state.safetensors", folder / "state" / "previous.safetensors"


@pytest.mark.parametrize("killed_at", [1, 4, 5])
def test_a_state_saved_on_schedule_loses_no_step_and_changes_nothing(inpainting, killed_at, saved_at_once):
    spec = load_spec(inpainting, OFTEN)
    whole = train_in(inpainting.parent / "whole", spec)

    def kill(event):
        if isinstance(event, Step) and event.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        train_in(inpainting.parent / "cut", spec, on_event=kill)
    assert read_snapshot(states(inpainting.parent / "cut")[0]).step == killed_at - 1
    resumed = resume(inpainting.parent / "cut", device="cpu")
    assert resumed.read_bytes() == whole.read_bytes() and metrics(resumed) == metrics(whole)


def test_without_a_schedule_states_are_saved_at_validations_only(inpainting):
    seen = []

    def look(event):
        if isinstance(event, Step):
            seen.append(states(inpainting.parent / "run")[1].exists())

    train_in(inpainting.parent / "run", load_spec(inpainting, ["training.save_every=null", "training.steps=5"]), on_event=look)
    assert [read_snapshot(path).step for path in states(inpainting.parent / "run")] == [5, 5]  # the last validation, and the end
    assert seen[:3] == [False] * 3


@pytest.mark.parametrize("at", range(1, 19))
def test_a_run_that_is_killed_between_any_two_files_ends_with_the_same_bytes(inpainting, at, monkeypatch, reference):
    """Every file takes its place by a rename; the run dies at one of them, before or after it."""
    replace, count = os.replace, 0

    def fatal(*paths):
        nonlocal count
        count += 1
        if count > at // 2:
            if at % 2 and count == at // 2 + 1:
                replace(*paths)
            raise Killed
        replace(*paths)

    spec = load_spec(inpainting, SHORT)
    folder = claim(spec, inpainting.parent / "cut")
    monkeypatch.setattr(os, "replace", fatal)
    with pytest.raises(Killed):
        train(spec, folder, device="cpu")
    monkeypatch.undo()
    if not (folder.path / "environment.json").exists():
        with pytest.raises(CheckpointError, match="no saved state"):  # training had not begun
            resume(folder.path, device="cpu")
        return
    resumed = resume(folder.path, device="cpu")
    assert (resumed.read_bytes(), metrics(resumed)) == reference
    assert not list(folder.path.rglob("*.tmp"))


def test_a_run_that_is_killed_after_its_last_state_is_calibrated_when_it_is_resumed(inpainting, monkeypatch, reference):
    spec = load_spec(inpainting, SHORT)
    monkeypatch.setattr(keeping, "calibrate_checkpoint", lambda *given: raise_(Killed()))
    with pytest.raises(Killed):
        train(spec, claim(spec, inpainting.parent / "cut"), device="cpu")
    monkeypatch.undo()
    model = inpainting.parent / "cut" / "model.safetensors"
    assert "error_bar" not in read_metadata(model).validation
    resume(model.parent, device="cpu")
    assert "error_bar" in read_metadata(model).validation and (model.read_bytes(), metrics(model)) == reference
    written = model.stat().st_mtime_ns
    resume(model.parent, device="cpu")
    assert model.stat().st_mtime_ns == written


def raise_(error):
    raise error


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What the run above ends with if nobody kills it."""
    folder = tmp_path_factory.mktemp("reference")
    mask = (np.random.default_rng(1).random((16, 16)) < 0.6).astype(np.float32)
    images = smooth(24, 16)
    np.save(folder / "mask.npy", mask)
    np.save(folder / "train_y.npy", (images[:20] * mask)[:, None])
    np.save(folder / "test_x.npy", images[20:, None])
    np.save(folder / "test_y.npy", (images[20:] * mask)[:, None])
    spec = load_spec(write_spec(folder / "spec.yaml"), SHORT)
    model = train_in(folder / "whole", spec)
    return model.read_bytes(), metrics(model)


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "gone"])
def test_a_damaged_state_is_left_for_the_one_before_it(inpainting, damage, saved_at_once):
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting, OFTEN))
    folder = inpainting.parent / "cut"

    newest, previous = states(folder)

    def kill(event):
        if isinstance(event, Step) and event.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train_in(folder, load_spec(inpainting, OFTEN), on_event=kill)
    assert [read_snapshot(path).step for path in (previous, newest)] == [3, 4]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(content if damage == "a bit flipped" else content[:-9])
    notes = []
    resumed = resume(folder, device="cpu", on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    assert resumed.read_bytes() == whole.read_bytes() and metrics(resumed) == metrics(whole)
    assert [note for note in notes if "of step 3, is used" in note and str(newest) in note] if damage != "gone" else not notes


def test_a_damaged_state_never_takes_the_place_of_a_good_one(inpainting, tmp_path):
    state, files = new_state(build_experiment(load_spec(inpainting), CPU), None, 6), StateFiles(tmp_path)
    files.write(state.snapshot())
    state.progress.step = 1
    files.write(state.snapshot())
    files.newest.write_bytes(b"nonsense")
    again = StateFiles(tmp_path)
    found, good = again.read(lambda text: None)
    assert found.step == 0 and good is found
    state.progress.step = 2
    again.write(state.snapshot())
    assert [read_snapshot(path).step for path in (again.newest, again.previous)] == [2, 0]


def test_where_no_state_is_whole_the_checkpoint_is_at_fault(inpainting, capfd):
    folder = train_in(inpainting.parent / "run", load_spec(inpainting)).parent
    for path in states(folder):
        path.write_bytes(path.read_bytes()[:-1])
    assert es(["train", "--resume", str(folder)]) == 4
    assert "cannot be read" in capfd.readouterr().err


def test_a_checksum_covers_tensors_and_words(inpainting, tmp_path):
    path = tmp_path / "state.safetensors"
    new_state(build_experiment(load_spec(inpainting), CPU), None, 6).save(path)
    content = path.read_bytes()
    for at in (content.index(b'best_step') + 13, len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_snapshot(path)


def test_writes_happen_on_a_thread_one_batch_at_a_time(monkeypatch):
    running, most, threads = 0, 0, set()
    go = threading.Event()

    def write():
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.current_thread())
        go.wait(10)
        running -= 1

    with Saver(lambda text: None) as saver:
        saver.put("a", write)
        saver.flush()
        assert saver.busy
        saver.put("b", write)
        go.set()
        saver.flush()
        saver.finish()
        assert not saver.busy
    assert most == 1 and len(threads) == 1 and threading.current_thread() not in threads


def test_a_fault_of_ours_in_a_write_comes_back_to_the_loop():
    def wrong():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Saver(lambda text: None) as saver:
        saver.put("a", wrong)
        saver.flush()
        saver.settle()


def test_a_state_waits_for_the_weights_that_it_speaks_of():
    written, full = [], True

    def model():
        if full:
            raise OutputError("cannot be written: no room", where="model.safetensors")
        written.append("model")

    notes = []
    with Saver(notes.append) as saver:
        saver.put(saving.STATE, lambda: written.append("state"))
        saver.put(saving.MODEL, model)
        saver.flush()
        saver.settle()
        assert written == []
        full = False
        saver.finish()
    assert written == ["model", "state"] and "no room" in notes[0]
