"""A disk that is full, or fails, at any moment of writing: the last good file stays, the message says so, and nothing is left beside it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import FULL, content, failing

from es_cli.checkpoint import Metadata, load_checkpoint, save_checkpoint
from es_cli.data.geometry import Geometry
from es_cli.data.readers import open_array
from es_cli.data.writers import SUFFIXES, write_array, write_bytes
from es_cli.errors import OutputError

ARRAY = np.random.default_rng(0).random((3, 40, 40)).astype(np.float32)
METADATA = Metadata({"name": "s"}, "none", {"image_shape": [1, 4, 4]}, {}, {})
Write = Callable[[Path, int], None]


def checkpoint(path: Path, version: int) -> None:
    save_checkpoint(path, METADATA, {"model.w": torch.full((60, 60), float(version)), "physics.mask": torch.ones(4)})


def array(path: Path, version: int) -> None:
    values = ARRAY[0] if path.suffix == ".png" else ARRAY
    write_array(path, values + version, Geometry("npy", "float32", ("z", "y", "x"), (1.0, 2.0, 3.0)))


# pictures, metrics and specs are bytes to the writers; training/test_write_faults.py has a run meet them
WRITERS: dict[str, Write] = {
    **{f"a{suffix}": array for suffix in SUFFIXES},
    "a.bin": lambda path, version: write_bytes(path, bytes([version]) * 5000),
    "a.safetensors": checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_at_any_step(name: str, tmp_path: Path) -> None:
    path, write = tmp_path / name, WRITERS[name]
    write(path, 0)
    old = content(tmp_path)
    with failing(tmp_path) as counted:
        write(path, 1)
    new = content(tmp_path)
    assert len(counted.steps) >= 2 and set(new) == set(old)
    pair = name.endswith(".cfl")  # two renames: between them one half is new
    for at in sorted({*range(1, min(len(counted.steps), 12) + 1), *range(max(1, len(counted.steps) - 8), len(counted.steps) + 1)}):
        write(path, 0)
        with failing(tmp_path, FULL, at.__eq__), pytest.raises(OutputError) as caught:
            write(path, 1)
        assert "No space left" in str(caught.value) and "make room" in caught.value.fault.hint, at
        assert content(tmp_path) == old or (pair and set(content(tmp_path)) == set(old) and at == len(counted.steps)), at


LIMITED = sys.platform.startswith("linux")


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not LIMITED, reason="needs limits of Linux")
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_no_more(name: str, tmp_path: Path) -> None:
    """The system itself refuses, whoever writes: this code, or a library in C."""
    path, write = tmp_path / name, WRITERS[name]
    write(path, 1)
    largest = max(map(len, content(tmp_path).values()))
    write(path, 0)
    old = content(tmp_path)
    for size in (0, 1, largest // 2, largest - 1):
        with no_file_beyond(size), pytest.raises(OutputError) as caught:
            write(path, 1)
        assert re.search("File too large|a part of it only", str(caught.value)) and "make room" in caught.value.fault.hint, size
        assert content(tmp_path) == old, size
    write(path, 1)
    if name == "a.safetensors":
        assert load_checkpoint(path).tensors["model.w"][0, 0] == 1
    elif write is array:
        assert open_array(path).size


@pytest.mark.skipif(not LIMITED, reason="needs limits of Linux")
@pytest.mark.parametrize("name", WRITERS)
def test_a_first_file_that_fails_leaves_nothing(name: str, tmp_path: Path) -> None:
    with no_file_beyond(1), pytest.raises(OutputError):
        WRITERS[name](tmp_path / name, 0)
    assert not content(tmp_path) and not list(tmp_path.iterdir())
