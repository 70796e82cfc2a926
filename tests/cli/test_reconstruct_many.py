from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from doubling import Doubling, npy

from es_cli.serving import job
from es_cli.serving.inputs import Shard, find_inputs
from es_cli.serving.measured import sha256_of
from es_cli.serving.outputs import part_of, plan
from es_cli.serving.overlap import overlapped


@pytest.fixture
def scans(es):
    """scans/a/y.npy, scans/b/y.npy and scans/b/deep/z.npy, beside what is no input."""
    for number, name in enumerate(["a/y.npy", "b/y.npy", "b/deep/z.npy", ".hidden/h.npy"]):
        path = Path("scans") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((4, 4), number, np.float32))
    Path("scans/notes.txt").write_text("no measurements")
    Path("scans/b/.secret.npy").write_text("hidden")
    return es


MIRRORED = ["images/a/y.recon.npy", "images/b/deep/z.recon.npy", "images/b/y.recon.npy"]


def outputs(folder: str = "images") -> list[str]:
    return sorted(path.as_posix() for path in Path(folder).rglob("*.npy"))


@pytest.mark.parametrize("argument", ["scans", "scans/**/*.npy", "@list.txt"])
def test_names_are_mirrored_below_the_output_folder(scans, argument):
    Path("list.txt").write_text("# all of them\nscans/b/deep/z.npy\n\nscans/a/y.npy\nscans/b/y.npy\n")
    result = scans(argument, "-o", "images")
    assert result.exit_code == 0 and sorted(result.stdout.split()) == outputs() == MIRRORED
    assert np.load("images/b/deep/z.recon.npy")[0, 0] == 4


def test_a_list_may_come_through_a_pipe(piped, tmp_path):
    np.save(tmp_path / "y.npy", np.ones(2))
    done = piped("@-", "-o", "images", stdin=b"y.npy\n")
    assert done.stdout == b"images/y.recon.npy\n"


def test_outputs_in_the_folder_of_inputs_are_no_inputs(scans):
    for _ in range(2):
        assert scans("scans", "-o", "scans/images", "--overwrite").exit_code == 0
    assert len(outputs("scans/images")) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["scans"], 2, "give -o DIR"),
        (["empty", "-o", "images"], 3, "nothing in it"),
        (["*.h5", "-o", "images"], 3, "no file matches"),
        (["@none.txt", "-o", "images"], 3, "no such list"),
        (["@empty.txt", "-o", "images"], 3, "names no file"),
        (["mixed", "-o", "images"], 3, "arrays and pictures are mixed"),
        (["y.npy", "-o", "images/", "--skip-existing", "--overwrite"], 2, "contradict"),
        (["y.npy", "-o", "images/", "--shard", "0/3"], 2, "counted from 1"),
        (["y.npy", "-o", "images/", "--shard", "x"], 2, "--shard x"),
        (["-", "@-", "-o", "images"], 2, "only once"),
        (["y.npy", "-o", "mine/"], 2, "no manifest of es"),
    ],
)
def test_what_cannot_be_is_refused_before_the_network_is_asked(scans, arguments, code, text):
    for name in ("empty", "mixed", "mine"):
        Path(name).mkdir()
    Path("mine/manifest.json").write_text("{}")
    Path("empty.txt").write_text("\n")
    Path("mixed/a.npy").write_bytes(b"")
    Path("mixed/a.png").write_bytes(b"")
    result = scans(*arguments)
    assert result.exit_code == code and text in " ".join(result.stderr.split()) and not result.stdout
    assert not Doubling.loaded and not outputs()


def test_one_that_fails_is_one_line_and_the_others_go_on(scans):
    np.save("scans/a/wrong.npy", np.zeros((3, 3), np.float32))
    Path("scans/b/broken.npy").write_bytes(b"no array")
    result = scans("scans", "-o", "images", "-q")
    assert result.exit_code == 6 and outputs() == MIRRORED
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and "scans/a/wrong.npy" in lines[0] and "scans/b/broken.npy" in lines[1] and "2 of 5 inputs failed" in lines[2]
    status = {entry["input"]: entry["status"] for entry in json.loads(Path("images/manifest.json").read_text())["files"]}
    assert status == {"a/wrong.npy": "failed", "a/y.npy": "done", "b/broken.npy": "failed", "b/deep/z.npy": "done", "b/y.npy": "done"}


def test_where_all_fail_the_code_is_that_of_the_fault(es):
    assert es("wrong.npy", "missing.npy", "-o", "images").exit_code == 3


def test_memory_that_is_too_small_for_one_is_no_fault_of_the_others(es, monkeypatch):
    def reconstruct(self, y, where="input", params=None):
        if y.dtype == np.complex64:
            raise MemoryError
        return y

    monkeypatch.setattr(Doubling, "reconstruct", reconstruct)
    result = es("b.npy", "y.npy", "-o", "images")
    assert result.exit_code == 6 and "b.npy: the memory is too small" in result.stderr and outputs() == ["images/y.recon.npy"]


def test_on_standard_output_a_failure_ends_the_stream(piped, tmp_path):
    np.save(tmp_path / "a.npy", np.ones(2))
    done = piped("a.npy", "missing.npy", "a.npy", "-o", "-")
    assert done.returncode == 3 and done.stdout == npy(2 * np.ones(2)) and b"missing.npy" in done.stderr


def test_the_manifest_holds_the_hashes_of_what_went_in_and_out(scans):
    assert scans("scans", "-o", "images").exit_code == 0
    held = json.loads(Path("images/manifest.json").read_text())
    assert held["format"] == 1
    for entry in held["files"]:
        assert entry["input_sha256"] == hashlib.sha256((Path("scans") / entry["input"]).read_bytes()).hexdigest()
        assert entry["output_sha256"] == hashlib.sha256((Path("images") / entry["output"]).read_bytes()).hexdigest()
        assert entry["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert str(Path.cwd()) not in Path("images/manifest.json").read_text()


def test_skip_existing_goes_on_where_a_run_was_stopped(scans):
    scans("scans/a", "-o", "images/a")
    np.save("images/a/y.recon.npy", np.zeros(1))
    Doubling.loaded = []
    result = scans("scans", "-o", "images", "--skip-existing")
    assert result.exit_code == 0 and result.stdout.split() == MIRRORED[1:] and "1 outputs were there" in result.stderr
    assert np.load("images/a/y.recon.npy").shape == (1,)
    before = Path("images/manifest.json").read_bytes()
    Doubling.loaded = []
    assert scans("scans", "-o", "images", "--skip-existing").exit_code == 0
    assert not Doubling.loaded and Path("images/manifest.json").read_bytes() == before


def test_shards_share_nothing_and_leave_nothing_out(scans):
    said = [scans("scans", "-o", "images", "--shard", f"{i}/2").stdout.split() for i in (1, 2)]
    assert sorted(said[0] + said[1]) == MIRRORED and len(said[0]) == 2
    assert [len(json.loads(Path(f"images/manifest-{i}-of-2.json").read_text())["files"]) for i in (1, 2)] == [2, 1]
    assert scans("y.npy", "-o", "images", "--shard", "3/3").exit_code == 0


def test_a_shard_does_not_depend_on_the_order_of_the_arguments(es):
    parts = [part_of(plan(find_inputs(names), "o", Path("o")), Shard(1, 2)) for names in (["a.npy", "b.npy", "c.npy"], ["c.npy", "a.npy", "b.npy"])]
    assert [one.input for one in parts[0]] == [one.input for one in parts[1]]


def test_one_is_read_ahead_and_one_written_behind_and_no_more():
    events: list[str] = []
    lock, writing = threading.Lock(), threading.Event()

    def note(text):
        with lock:
            events.append(text)

    def read(item):
        note(f"read {item}")
        return item

    def make(item, read):
        note(f"make {item}")
        if item == 2:
            assert writing.wait(20)  # the first is still being written while the second is made
        return read

    def write(item, made):
        note(f"write {item}")
        writing.set()

    assert [item for item, fault in overlapped(range(1, 5), read, make, write, ()) if fault is None] == [1, 2, 3, 4]
    for n in (1, 2):
        # what lies two ahead is read only when the one before it is made
        assert events.index(f"make {n}") < events.index(f"read {n + 2}")
    assert [text for text in events if text.startswith("write")] == [f"write {n}" for n in range(1, 5)]


@pytest.mark.parametrize("step", ["read", "make", "write"])
def test_a_fault_in_any_step_belongs_to_its_item(step):
    def failing(name):
        def run(item, *_):
            if name == step and item == 2:
                raise ValueError(step)
            return item

        return run

    found = list(overlapped([1, 2, 3], failing("read"), failing("make"), failing("write"), (ValueError,)))
    assert [item for item, _ in found] == [1, 2, 3] and [str(fault) for _, fault in found] == ["None", step, "None"]


def test_an_unexpected_fault_ends_all(es, monkeypatch):
    monkeypatch.setattr(job.writers, "write_array", lambda *_: 1 / 0)
    assert es("y.npy", "b.npy", "-o", "images").exit_code == 1


def test_the_hash_of_a_folder_is_that_of_its_files(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    lines = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in "ab")
    assert sha256_of(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_format_names_the_kind_of_files_in_a_folder(es):
    assert es("y.npy", "b.npy", "-o", "images", "--format", "npz").stdout.split() == ["images/y.recon.npz", "images/b.recon.npz"]
    assert es("y.npy", "--format", "png").stdout == "y.recon.png\n"
