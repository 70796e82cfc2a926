"""Two processes never train in one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.errors import UsageError
from es_cli.training.events import Step
from es_cli.training.folder import claim
from es_cli.training.lock import LOCK, FolderLock
from es_cli.training.run import resume

HOLD = """
import sys, time
from pathlib import Path
from es_cli.training.lock import FolderLock
held = FolderLock(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n" or process.wait()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_who_comes_second_is_told_who_is_there(tmp_path, holder):
    with pytest.raises(UsageError, match=f"process {holder.pid} is training in this folder"):
        FolderLock(tmp_path).take()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).exists()
    lock = FolderLock(tmp_path).take()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("wish", [["--resume"], ["{spec}", "--overwrite", "-o"]], ids=["resume", "overwrite"])
def test_neither_resume_nor_overwrite_enters_a_folder_that_is_trained_in(inpainting, capfd, wish):
    folder = inpainting.parent / "run"
    codes = []

    def meanwhile(event):
        if isinstance(event, Step) and event.step == 2:
            codes.append(es(["train", *(part.format(spec=inpainting) for part in wish), str(folder)]))

    model = train_in(folder, load_spec(inpainting), on_event=meanwhile)
    assert codes == [2] and f"process {os.getpid()} is training in this folder" in capfd.readouterr().err
    assert model.is_file() and not (folder / LOCK).exists()


@pytest.mark.parametrize("end", ["finished", "interrupted", "given up"])
def test_the_lock_is_given_back_however_a_run_ends(inpainting, end):
    folder = inpainting.parent / "run"

    def stop(event):
        if isinstance(event, Step) and end == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)

    if end == "finished":
        train_in(folder, load_spec(inpainting))
    else:
        with pytest.raises(BaseException, match="signal" if end == "interrupted" else "no such file|gone"):
            train_in(folder, load_spec(inpainting, [] if end == "interrupted" else ["data.train.measurements=gone.npy"]), on_event=stop)
    assert not (folder / LOCK).exists()
    if end == "given up":
        assert not folder.exists()
        claim(load_spec(inpainting), folder).give_up()
    else:
        resume(folder, device="cpu")


def test_a_lock_goes_with_its_folder(tmp_path):
    (folder := tmp_path / "run").mkdir()
    lock = FolderLock(folder).take()
    (folder / LOCK).unlink()
    assert not lock.held
    other = FolderLock(folder).take()
    with pytest.raises(UsageError):
        lock.take()
    lock.release()
    assert other.held
