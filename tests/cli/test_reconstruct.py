from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doubling import DOUBLING, Doubling, npy
from typer.testing import CliRunner

from es_cli.cli.app import app
from es_cli.data.geometry import Geometry
from es_cli.data.readers import open_array, read_geometry, read_npy_stream
from es_cli.data.writers import write_array


def test_the_output_lies_in_the_working_directory_and_its_path_is_the_answer(es):
    result = es("y.npy")
    assert result.exit_code == 0 and result.stdout == "y.recon.npy\n"
    assert np.array_equal(np.load("y.recon.npy"), 2 * np.load("y.npy"))


def test_a_default_name_is_written_again(es):
    assert es("y.npy").exit_code == es("y.npy").exit_code == 0


def test_several_inputs_go_into_a_folder_that_is_made(es):
    result = es("y.npy", "b.npy", "-o", "made/images")
    assert result.stdout.split() == [str(Path("made/images") / name) for name in ("y.recon.npy", "b.recon.npy")]
    assert np.load("made/images/b.recon.npy").dtype == np.complex64


def test_one_input_goes_into_a_folder_that_exists_or_ends_with_a_slash(es):
    Path("there").mkdir()
    assert es("y.npy", "-o", "there").stdout.strip() == str(Path("there") / "y.recon.npy")
    assert es("y.npy", "-o", "new/").stdout.strip() == str(Path("new") / "y.recon.npy")


@pytest.mark.parametrize("name", ["x.npy", "x.png", "x.tif"])
def test_the_suffix_decides_the_kind_of_file(es, name):
    assert es("y.npy", "-o", name).exit_code == 0
    assert Path(name).stat().st_size > 0


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.h5", "x.zarr", "x.tif"])
def test_voxel_size_goes_from_input_to_output(es, name):
    if name == "x.zarr":
        pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")
    geometry = Geometry("nifti", "float32", ("z", "y", "x"), (3.0, 0.5, 0.25))
    write_array(Path("volume.nii.gz"), np.arange(60, dtype=np.float32).reshape(3, 4, 5), geometry)
    for extra in [[], ["--overwrite"]]:
        assert es("volume.nii.gz", "-o", name, *extra).stdout == f"{name}\n"
    assert read_geometry(Path(name)).voxel_size == (0.25, 0.5, 3.0)
    np.testing.assert_array_equal(open_array(Path(name)), 2 * open_array(Path("volume.nii.gz")))


def test_no_voxel_size_where_there_is_none_to_keep(es):
    write_array(Path("volume.nii"), np.ones((3, 4, 5), np.float32))
    assert es("volume.nii", "-o", "x.npz").exit_code == es("y.npy", "-o", "x.nii").exit_code == 0
    stream = CliRunner().invoke(app, ["reconstruct", "--ckpt", "m", "-", "-o", "z.nii"], input=npy(np.ones((3, 4, 5))))
    assert stream.exit_code == 0 and read_geometry(Path("z.nii")).voxel_size == (1, 1, 1)


@pytest.mark.parametrize(("name", "hint"), [("x.dcm", "write .nii"), ("x.mat", "write .h5"), ("x.hdr", "name the .cfl"), ("x.npy.gz", ".nii.gz")])
def test_files_that_are_not_written(es, name, hint):
    result = es("y.npy", "-o", name)
    assert result.exit_code == 2 and hint in " ".join(result.stderr.split())


def test_device_and_checkpoint_reach_the_core(es):
    es("y.npy", "--device", "cuda:1", "--precision", "float16")
    assert Doubling.loaded == [(Path("m"), "cuda:1", "float16")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["y.npy", "-o", "b.npy"], "this output exists"),
        (["y.npy", "b.npy", "-o", "full"], "this output exists"),
        (["y.npy", "b.npy", "-o", "b.npy"], "several inputs need a folder"),
        (["y.npy", "b.npy", "-o", "new.npy"], "several inputs need a folder"),
        (["y.npy", "full/y.npy"], "two inputs would be written to this file"),
        (["y.npy", "-o", "y.npy", "--overwrite"], "the output would replace the input"),
        (["y.npy", "-o", "x.jpeg"], "no writer for .jpeg"),
        (["y.npy", "-o", "x"], "no writer for a name without suffix"),
        (["-", "-"], "only once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_outputs_that_cannot_be_are_exit_2_before_the_network_is_loaded(es, arguments, text):
    Path("full").mkdir()
    Path("full/y.recon.npy").write_bytes(b"precious")
    result = es(*arguments)
    assert result.exit_code == 2 and text in result.stderr and result.stdout == ""
    assert not Doubling.loaded
    assert Path("full/y.recon.npy").read_bytes() == b"precious"


def test_overwrite_replaces(es):
    Path("x.npy").write_bytes(b"old")
    assert es("y.npy", "-o", "x.npy", "--overwrite").exit_code == 0
    assert np.load("x.npy").shape == (4, 4)


@pytest.mark.parametrize(("name", "text"), [("wrong.npy", "wanted (4, 4)"), ("missing.npy", "no such file")])
def test_data_that_do_not_fit_are_exit_3_and_nothing_is_written(es, name, text):
    before = set(Path().iterdir())
    result = es(name, "-o", "x.npy")
    assert result.exit_code == 3 and text in result.stderr and name in result.stderr
    assert set(Path().iterdir()) == before


def test_pictures_are_read_as_in_training_and_keep_their_axes(es):
    from PIL import Image

    Image.fromarray(np.full((4, 4), 51, np.uint8)).save("grey.png")
    Image.fromarray(np.full((4, 4, 3), 51, np.uint8)).save("colour.png")
    es("grey.png", "colour.png")
    assert np.allclose(np.load("grey.recon.npy"), np.full((4, 4), 0.4))
    assert np.allclose(np.load("colour.recon.npy"), np.full((3, 4, 4), 0.4))


def test_an_array_of_an_npz_is_chosen_by_its_key(es):
    np.savez("several.npz", a=np.ones((4, 4)), b=np.full((4, 4), 3.0))
    assert es("several.npz").exit_code == 3
    assert es("several.npz", "--key", "b").exit_code == 0
    assert np.load("several.recon.npy")[0, 0] == 6


def test_from_pipe_to_pipe_frame_by_frame(piped):
    frames = [np.ones((2, 2), np.float32), np.full((3, 1), 1j, np.complex64)]
    done = piped("-", "-o", "-", stdin=npy(*frames))
    found = list(read_npy_stream(io.BytesIO(done.stdout)))
    assert done.returncode == 0 and len(found) == 2
    assert all(np.array_equal(2 * a, b) and a.dtype == b.dtype for a, b in zip(frames, found, strict=True))
    assert b"chatter" in done.stderr


def test_what_an_image_costs_is_said_to_whoever_asks(es):
    assert es("y.npy", "-o", "a.npy", "-v").stderr == "note: 8 network calls for each image\n"
    assert es("y.npy", "-o", "b2.npy").stderr == "" and es("y.npy", "-o", "c.npy", "-v", "-q").stderr == ""


def test_the_first_frame_comes_out_before_the_second_went_in(environment, tmp_path):
    (tmp_path / "m").write_bytes(b"weights")
    command = [sys.executable, "-c", DOUBLING, "reconstruct", "--ckpt", "m", "-", "-o", "-"]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL, **pipes) as process:
        process.stdin.write(npy(np.ones(2, np.float32)))
        process.stdin.flush()
        frames = read_npy_stream(process.stdout)
        assert next(frames).tolist() == [2, 2]
        process.stdin.close()
        assert process.wait(60) == 0


def test_arrays_on_standard_input_are_files_with_a_number(piped, tmp_path):
    done = piped("-", stdin=npy(np.ones(2), np.zeros(2)))
    assert done.stdout.decode().split() == ["stdin.recon.npy", "stdin-2.recon.npy"]
    assert np.load(tmp_path / "stdin-2.recon.npy").tolist() == [0, 0]


def test_one_array_on_standard_input_may_go_to_one_file_and_two_may_not(piped, tmp_path):
    assert piped("-", "-o", "x.npy", stdin=npy(np.ones(2))).returncode == 0
    done = piped("-", "-o", "two.npy", stdin=npy(np.ones(2), np.ones(2)))
    assert done.returncode == 2 and b"several arrays" in done.stderr and not (tmp_path / "two.npy").exists()


@pytest.mark.parametrize("stdin", [b"", npy(np.ones(99))[:-5], b"no array at all"], ids=["empty", "cut short", "no array"])
def test_a_stream_that_is_none_is_exit_3(piped, stdin):
    done = piped("-", "-o", "-", stdin=stdin)
    assert done.returncode == 3 and done.stdout == b""
    assert b"error: standard input: " in done.stderr and done.stderr.count(b"\n") == 2


def test_pickled_arrays_are_refused(piped, tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert piped("evil.npy").returncode == 3
    assert piped("-", stdin=(tmp_path / "evil.npy").read_bytes()).returncode == 3


def test_a_reader_that_goes_early_ends_es_quietly(environment, tmp_path):
    (tmp_path / "m").write_bytes(b"weights")
    command = [sys.executable, "-c", DOUBLING, "reconstruct", "--ckpt", "m", "-", "-o", "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as process:
        process.stdout.close()
        process.stdin.write(npy(np.ones(300_000)))
        process.stdin.close()
        assert process.stderr.read().splitlines() == [b"chatter of a library"]
        assert process.wait(60) == 141
