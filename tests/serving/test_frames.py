from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from doubling import DOUBLING, npy

from es_cli.data.formats.cfl import Cfl
from es_cli.data.layout import Layout
from es_cli.data.writers import write_array
from es_cli.errors import DataError, UsageError
from es_cli.serving.frames import BareFrames, NpyFrames, read_frames
from es_cli.serving.outputs import kinds

COMPLEX, REAL, COLOUR = Layout((2, 3, 4), pair=True), Layout((1, 3, 4), pair=False), Layout((3, 2, 2), pair=False)


@pytest.mark.parametrize(("name", "layout"), [("raw", COMPLEX), ("cfl", COMPLEX), ("raw", REAL), ("raw", COLOUR)], ids=str)
def test_bare_values_come_back_as_they_went(name, layout):
    form = BareFrames(name, layout)
    rng, stream = np.random.default_rng(0), io.BytesIO()
    frames = [rng.normal(size=form.shape).astype(form.dtype) for _ in range(3)]
    for frame in frames:
        form.write(stream, frame)
    stream.seek(0)
    found = list(form.read(stream))
    assert len(found) == 3 and all(np.array_equal(a, b) for a, b in zip(frames, found, strict=True))
    assert layout.arrange(found[0], "frame")[0].shape == (1, *layout.shape)


def test_cfl_frames_are_what_bart_keeps_in_a_file(tmp_path):
    image = (np.arange(12) * (1 + 2j)).reshape(3, 4).astype(np.complex64)
    write_array(tmp_path / "x.cfl", image)
    (found,) = BareFrames("cfl", COMPLEX).read(io.BytesIO((tmp_path / "x.cfl").read_bytes()))
    assert np.array_equal(found, image) and np.array_equal(Cfl(tmp_path / "x.cfl").read(None)[0], image)
    stream = io.BytesIO()
    BareFrames("cfl", COMPLEX).write(stream, image)
    assert stream.getvalue() == (tmp_path / "x.cfl").read_bytes()


def test_bare_values_that_break_off_and_formats_without_a_shape():
    with pytest.raises(DataError, match="cut short: an array takes 48 bytes, and 4 came"):
        list(BareFrames("raw", REAL).read(io.BytesIO(bytes(52))))
    with pytest.raises(DataError, match="pipe in float32 of shape"):
        list(read_frames(io.BytesIO(), BareFrames("raw", REAL), False))
    with pytest.raises(UsageError, match="any size"):
        BareFrames("raw", Layout((1, 3, 4), False, free=2))
    with pytest.raises(UsageError, match="real images"):
        BareFrames("cfl", REAL)


@pytest.mark.parametrize(
    ("form", "arguments", "out", "found"),
    [
        (None, ["-"], "-", ("npy", ".npy")),
        ("raw", ["-"], "-", ("raw", ".npy")),
        ("raw", ["-"], "images/", ("raw", ".npy")),
        ("cfl", ["-"], "images/", ("cfl", ".cfl")),
        ("nii.gz", ["a", "b"], "images", ("npy", ".nii.gz")),
        (".PNG", ["-"], "images/", ("npy", ".png")),
        ("png", ["a.npy"], None, ("npy", ".png")),
    ],
)
def test_what_a_format_means_for_pipes_and_for_files(form, arguments, out, found):
    assert kinds(form, arguments, out) == found


@pytest.mark.parametrize(("form", "arguments", "out"), [("png", ["-"], "-"), ("jpeg", ["a"], "b/"), ("npy", ["a.npy"], "x.png"), ("raw", ["a.npy"], "b/")])
def test_formats_that_make_no_sense(form, arguments, out):
    with pytest.raises(UsageError, match="--format"):
        kinds(form, arguments, out)


def test_frames_are_read_when_they_are_asked_for():
    taken: list[int] = []

    class Slow(io.BytesIO):
        def read(self, count=-1):
            taken.append(count)
            return super().read(count)

    stream = Slow(npy(np.ones(2), np.zeros(2)))
    frames = read_frames(stream, NpyFrames(), only_one=False)
    next(frames)
    before = len(taken)
    next(frames)
    assert 0 < before < len(taken)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_an_endless_stream_ends_quietly_when_its_reader_goes(environment, tmp_path):
    (tmp_path / "m").write_bytes(b"")
    (tmp_path / "es.py").write_text(DOUBLING)
    (tmp_path / "endless.py").write_text("import sys, numpy as np\nwhile True:\n    np.save(sys.stdout.buffer, np.ones(1000))\n")
    line = f"{sys.executable} endless.py 2>/dev/null | {sys.executable} es.py reconstruct --ckpt m - -o - 2>err | head -c 20000 >out; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout == "141\n"
    assert (tmp_path / "err").read_text() == "chatter of a library\n" and (tmp_path / "out").stat().st_size == 20000
