"""Files that vanish, or are damaged, while a network trains."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
import torch
from problems import es, train_in

from es_cli.catalog import load_spec
from es_cli.data.damaged import Samples
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements
from es_cli.data.stacks import ArrayStack
from es_cli.errors import DataError
from es_cli.training.events import Note, Step
from es_cli.training.run import resume
from es_cli.training.state import read_snapshot

FILES = ["data.train.measurements=ys/*.npy", "training.batch_size=4"]


@pytest.fixture
def files(inpainting):
    """A spec whose measurements lie in a file each; the files."""
    folder = inpainting.parent / "ys"
    folder.mkdir()
    for i, y in enumerate(np.load(inpainting.parent / "train_y.npy")):
        np.save(folder / f"{i:02d}.npy", y)
    return inpainting, sorted(folder.glob("*.npy"))


def at_step(step, act):
    return lambda event: act() if isinstance(event, Step) and event.step == step else None


@pytest.mark.parametrize("damage", ["gone", "cut short", "not finite"])
def test_the_file_is_named_the_state_is_saved_and_the_run_goes_on_when_it_is_mended(files, damage):
    spec, paths = files
    whole = train_in(spec.parent / "whole", load_spec(spec, FILES))
    held = {path: path.read_bytes() for path in paths}

    def spoil():
        for path in paths:
            if damage == "gone":
                path.unlink()
            elif damage == "cut short":
                path.write_bytes(held[path][:-8])
            else:
                np.save(path, np.load(path) * np.nan)

    with pytest.raises(DataError) as failed:
        train_in(spec.parent / "cut", load_spec(spec, FILES), on_event=at_step(4, spoil))
    assert failed.value.fault.where in map(str, paths) and "on_bad_sample=skip" in failed.value.fault.hint and failed.value.exit_code == 3
    assert read_snapshot(spec.parent / "cut" / "state" / "state.safetensors").step == 4
    for path, content in held.items():
        path.write_bytes(content)
    assert resume(spec.parent / "cut", device="cpu").read_bytes() == whole.read_bytes()


def test_one_that_is_skipped_is_named_once_counted_and_left_out_exactly_when_resumed(files):
    spec, paths = files
    wishes = [*FILES, "data.on_bad_sample=skip", "training.steps=20", "training.validate_every=10"]
    notes = []

    def look(event):
        at_step(6, lambda: np.save(paths[3], np.load(paths[3]) * np.nan))(event)
        notes.extend([event.text] if isinstance(event, Note) else [])

    model = train_in(spec.parent / "run", load_spec(spec, wishes), on_event=look)
    told = [note for note in notes if str(paths[3]) in note]
    assert len(told) == 1 and "is left out" in told[0]
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    assert [row["bad_samples"] for row in rows][-1] == 1

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    whole = train_in(spec.parent / "whole", load_spec(spec, wishes))  # damaged from the start
    with pytest.raises(Killed):
        train_in(spec.parent / "cut", load_spec(spec, wishes), on_event=at_step(15, kill))
    assert resume(spec.parent / "cut", device="cpu").read_bytes() == whole.read_bytes()


def test_a_run_that_stopped_at_a_damaged_sample_goes_on_without_it(files, capfd):
    spec, paths = files
    with pytest.raises(DataError):
        train_in(spec.parent / "run", load_spec(spec, FILES), on_event=at_step(3, lambda: [np.save(path, np.load(path) * np.nan) for path in paths[6:14]]))
    assert es(["train", "--resume", str(spec.parent / "run")]) == 3
    assert "holds NaN" in capfd.readouterr().err
    assert es(["train", "--resume", str(spec.parent / "run"), "data.on_bad_sample=skip", "training.preview=true", "training.steps=20"]) == 0
    assert "is left out" in capfd.readouterr().err


def test_files_that_were_damaged_before_are_left_out_too(files):
    """The first and the last sample are those that network and losses are tried on."""
    spec, paths = files
    paths[0].write_bytes(b"no array")
    paths[7].write_bytes(paths[7].read_bytes()[:-9])
    np.save(paths[-1], np.load(paths[-1]) * np.nan)
    with pytest.raises(DataError, match=r"00\.npy: not in \.npy format"):
        train_in(spec.parent / "strict", load_spec(spec, FILES))
    notes = []
    wishes = [*FILES, "data.on_bad_sample=skip", "data.validation=0.3", "training.steps=8"]
    train_in(spec.parent / "run", load_spec(spec, wishes), on_event=lambda event: notes.extend([event.text] if isinstance(event, Note) else []))
    assert sorted(path for path in paths for note in notes if str(path) in note) == [paths[0], paths[7], paths[-1]]
    for path in paths:
        path.write_bytes(b"no array")
    with pytest.raises(DataError, match="not in .npy format"):
        train_in(spec.parent / "none", load_spec(spec, wishes))


def test_a_file_of_another_shape_is_named(files):
    spec, paths = files

    def other():
        for path in paths:
            np.save(path, np.zeros((1, 8, 8), np.float32))

    with pytest.raises(DataError, match=r"\.npy: holds an array of shape \(1, 8, 8\), in place of \(1, 16, 16\)"):
        train_in(spec.parent / "run", load_spec(spec, FILES), on_event=at_step(2, other))


def test_a_run_does_not_go_on_with_fewer_files_than_it_was_begun_with(files):
    spec, paths = files
    held = paths[5].read_bytes()
    with pytest.raises(DataError):
        train_in(spec.parent / "run", load_spec(spec, FILES), on_event=at_step(2, lambda: [path.unlink() for path in paths]))
    for path in paths[:5] + paths[6:]:
        path.write_bytes(held)
    with pytest.raises(DataError, match="begun with 18 samples to train on and 2 held out, and there are 17 .* now.*bring the files back"):
        resume(spec.parent / "run", ["data.on_bad_sample=skip"], device="cpu")


def test_a_mapped_file_that_is_cut_short_does_not_end_the_process(inpainting):
    path = inpainting.parent / "train_y.npy"
    with pytest.raises(DataError, match="cut short"):
        train_in(inpainting.parent / "run", load_spec(inpainting), on_event=at_step(2, lambda: os.truncate(path, 4096)))


def test_an_hdf5_file_that_vanishes_is_named(inpainting):
    path = inpainting.parent / "y.h5"
    with h5py.File(path, "w") as file:
        file["y"] = np.load(inpainting.parent / "train_y.npy")
    spec = load_spec(inpainting, ["data.train.measurements={file: y.h5, key: y}"])
    with pytest.raises(DataError, match=r"y\.h5"):
        train_in(inpainting.parent / "run", spec, on_event=at_step(2, lambda: os.truncate(path, 1000)))


def data(bad):
    y = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((6, 1, 2, 2), np.float32)
    y[bad] = np.nan
    return Measurements(ArrayStack(y, [f"s{i}" for i in range(6)]), Layout((1, 2, 2), pair=False), np.arange(6))


def test_the_next_sample_that_can_be_read_takes_the_place_of_one_that_cannot():
    samples = Samples(data([1, 2, 5]), skip=True)
    for _ in range(2):  # the second time they are known
        assert samples.batch([0, 1, 5, 2, 3])[0][:, 0, 0, 0].tolist() == [0, 3, 0, 3, 3]
    assert samples.bad == {1, 2, 5} and len(samples.news) == 3
    assert torch.equal(Samples(data([1, 2, 5]), True, [1, 2, 5]).batch([2])[0], samples.batch([2])[0])


def test_where_none_can_be_read_that_is_the_end():
    with pytest.raises(DataError, match="too few samples"):
        Samples(data(range(6)), skip=True).batch([2])
    with pytest.raises(DataError, match="sample 2 holds NaN"):
        Samples(data([2]), skip=False).batch([2])
