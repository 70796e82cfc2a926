"""Signals and the clock: the state is saved in time, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.cli.options import seconds_of
from es_cli.errors import UsageError
from es_cli.training import loop
from es_cli.training.events import Note, Step, Stopped
from es_cli.training.run import Interrupted, resume
from es_cli.training.state import read_snapshot
from es_cli.training.stopping import Rests


@pytest.mark.parametrize(
    ("text", "seconds"), [("23h30m", 84600), ("45m", 2700), ("90s", 90), ("1d", 86400), ("1d 2h", 93600), ("23:30:00", 84600), ("1-12:00:00", 129600)]
)
def test_times_are_read_as_people_and_slurm_write_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "0s", "soon", "1.5h", "-3h", "10:00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time"):
        seconds_of(text)


def test_a_wrong_time_is_exit_2_before_a_folder_is_made(inpainting, monkeypatch):
    monkeypatch.chdir(inpainting.parent)
    assert es(["train", "spec.yaml", "--max-time", "soon", "-o", "run"]) == 2
    assert not (inpainting.parent / "run").exists()


def test_a_run_stops_in_time_by_itself_and_goes_on(inpainting, monkeypatch):
    """Each step takes 100 ms of a clock that is not that of a busy machine."""
    whole = train_in(inpainting.parent / "whole", load_spec(inpainting, ["training.steps=40"]))
    ends, folder, now = [], inpainting.parent / "cut", [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(event):
        ends.append(event) if isinstance(event, Stopped) else None
        now[0] += 0.1 if isinstance(event, Step) else 0

    with pytest.raises(Interrupted, match="time") as stopped:
        train_in(folder, load_spec(inpainting, ["training.steps=40"]), until=2.5, on_event=slow)
    assert now[0] < 2.5 and stopped.value.exit_code == 124
    assert [end.reason for end in ends] == ["time"] and 15 < ends[0].step < 25
    assert read_snapshot(folder / "state" / "state.safetensors").step == ends[0].step
    assert resume(folder, device="cpu").read_bytes() == whole.read_bytes()


def test_the_shell_is_told_that_time_was_up(inpainting, capfd):
    """Exit code 124, as of `timeout`, no path on standard output, and the command that goes on."""
    folder = inpainting.parent / "run"
    assert es(["train", str(inpainting), "training.steps=1000000", "--max-time", "3s", "-o", str(folder)]) == 124
    out, err = capfd.readouterr()
    assert out == "" and "stopped by --max-time" in err and f"es train --resume {folder}" in err
    assert es(["train", "--resume", str(folder), "--max-time", "2s"]) == 124


def test_what_a_step_and_a_save_take_is_kept_free(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rests = Rests(until=100.0, saving=lambda: 5.0)
    looked = []
    for now[0] in (10.0, 20.0, 65.0, 70.0):
        looked.append(rests.due())
    assert looked == [False, False, True, True] and rests.reason == "time"  # the longest step took 45 seconds


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_sigusr1_saves_and_goes_on(inpainting, saved_at_once):
    folder, notes, saved = inpainting.parent / "run", [], []

    def ask(event):
        if isinstance(event, Step) and event.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, Step) and event.step == 6:
            saved.append(read_snapshot(folder / "state" / "state.safetensors").step)

    spec = load_spec(inpainting)
    model = train_in(folder, spec, on_event=ask)
    assert saved == [4] and notes == ["asked by a signal to save: the state of step 4 is being written"]
    assert model.read_bytes() == train_in(inpainting.parent / "other", spec).read_bytes()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_signal_in_a_long_validation_does_not_wait_for_its_end(inpainting, monkeypatch):
    """The validation is made when the run goes on."""
    spec = load_spec(inpainting, ["training.batch_size=1", "data.validation=0.3"])
    whole = train_in(inpainting.parent / "whole", spec)
    held_out, batches = loop._held_out, []

    def first(*args):
        batches.append(args)
        os.kill(os.getpid(), signal.SIGTERM)
        return held_out(*args)

    monkeypatch.setattr(loop, "_held_out", first)
    with pytest.raises(Interrupted) as stopped:
        train_in(inpainting.parent / "cut", spec)
    assert len(batches) == 1 and stopped.value.exit_code == 143
    monkeypatch.undo()
    resumed = resume(inpainting.parent / "cut", device="cpu")
    assert resumed.read_bytes() == whole.read_bytes()
    assert (resumed.parent / "metrics.jsonl").read_text().count('"step": 3,') == 1
