"""Stacks: what a source means, read lazily, and what does not fit together."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from es_cli.data.stacks import ArrayStack, FileStack, RowStack, Stack, find_nonfinite, open_stack
from es_cli.errors import DataError
from es_cli.spec.schema import Source

RNG = np.random.default_rng(2)
ARRAY = RNG.standard_normal((6, 2, 5, 4)).astype(np.float32)


def opened(file: Path | str, pictures: bool = False, seed: int = 0, **options: Any) -> Stack:
    return open_stack(Source.model_validate({"file": str(file), **options}), pictures=pictures, seed=seed)


def refused(file: Path | str, pictures: bool = False, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(file, pictures, **options)
    assert caught.value.fault.where and caught.value.fault.hint and caught.value.exit_code == 3
    return caught.value


def save_picture(path: Path, *shape: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(path)
    return path


def check(stack: Stack, array: np.ndarray) -> None:
    assert len(stack) == len(array) == len(stack.names)
    assert tuple(stack.sample_shape) == array.shape[1:]
    assert stack.dtype == array.dtype
    order = [3, 0, 0, 2] if len(array) > 3 else [1, 0, 0]
    got = stack.read(order)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array[order])


@pytest.mark.parametrize("dtype", ["f4", "c8", ">f4", "u1"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_one_file_is_a_stack(tmp_path: Path, suffix: str, dtype: str) -> None:
    path, array = tmp_path / f"y{suffix}", ARRAY.astype(dtype)
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, y=array, other=array[0])
    else:
        with h5py.File(path, "w") as file:
            file["y"], file["other"] = array, array[0]
    stack = opened(path, key=None if suffix == ".npy" else "y")
    check(stack, array.astype(array.dtype.newbyteorder("=")))
    assert stack.groups is None
    assert stack.names[3].endswith(f"y{suffix}[3]")


def test_a_mapped_file_larger_than_memory_costs_nothing(tmp_path: Path) -> None:
    path, shape = tmp_path / "large.npy", (1 << 16, 128, 128)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f4"})
        start = file.tell()
        file.truncate(start + 4 * int(np.prod(shape)))  # sparse: 4 GB that take no room
        file.seek(start + 4 * 50_000 * 128 * 128)
        file.write(np.full(3, 7, np.float32).tobytes())
    tracemalloc.start()
    stack = opened(path)
    sample = stack.read([50_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.shape == (1, 128, 128) and sample[0, 0, :4].tolist() == [7, 7, 7, 0]
    assert peak < 50e6


def test_hdf5_is_read_by_rows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape=(1 << 14, 256, 256), dtype="f4", chunks=(1, 256, 256))[9, 0, 0] = 5
    stack = opened(tmp_path / "a.h5")
    assert isinstance(stack, RowStack)
    assert stack.read([9, 3])[:, 0, 0].tolist() == [5, 0]


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("owner", ["subject", "patient"])
def test_subjects_are_groups(tmp_path: Path, suffix: str, owner: str) -> None:
    path, ids = tmp_path / f"y{suffix}", np.array([4, 4, 9, 9, 1, 1])
    if suffix == ".npz":
        np.savez(path, allow_pickle=False, **{"y": ARRAY, owner: ids})
    else:
        with h5py.File(path, "w") as file:
            file["y"], file[owner] = ARRAY, ids
    groups = opened(path).groups
    assert groups is not None
    assert groups.tolist() == [1, 1, 2, 2, 0, 0]


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    for i, array in enumerate(ARRAY):
        np.save(tmp_path / f"{i}.npy", array)
    (tmp_path / "README.txt").touch()
    (tmp_path / "._0.npy").touch()
    for file in [tmp_path, tmp_path / "*.npy"]:
        stack = opened(file)
        assert isinstance(stack, FileStack)
        check(stack, ARRAY)
        assert stack.groups is not None and stack.groups.tolist() == list(range(6))
        assert stack.names[1].endswith("1.npy")


def test_arrays_of_several_shapes_are_read_apart(tmp_path: Path) -> None:
    for number, width in enumerate([4, 5, 4, 6, 7, 8, 9, 10]):
        np.save(tmp_path / f"{number}.npy", np.zeros((4, width)))
    stack = opened(tmp_path)
    assert stack.shapes is not None and stack.shapes[:3] == [(4, 4), (4, 5), (4, 4)]
    assert stack.read([2, 0]).shape == (2, 4, 4)
    with pytest.raises(DataError) as caught:
        stack.read([0, 1])
    message = str(caught.value)
    assert "7 shapes: 2 of (4, 4) (0.npy, …), 1 of (4, 5) (1.npy)" in message
    assert "(4, 8)" in message and "(4, 9)" not in message and "and 2 more shapes" in message


@pytest.mark.parametrize("shape", [(), (7,)])
def test_arrays_without_sample_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    assert f"shape {shape} holds no samples" in str(refused(tmp_path / "a.npy"))


def test_arrays_without_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 4, 4)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((0, 4, 4))
    for name in ["a.npy", "a.h5"]:
        assert "empty" in str(refused(tmp_path / name))


def test_nothing_there(tmp_path: Path) -> None:
    assert "is empty" in str(refused(tmp_path))
    assert "no file matches" in str(refused(tmp_path / "*.png"))
    assert "no such file" in str(refused(tmp_path / "y.npy"))
    (tmp_path / "notes.txt").touch()
    error = refused(tmp_path)
    assert "no file that es can read" in str(error) and ".npy" in error.fault.hint
    np.save(tmp_path / "a.npy", ARRAY)
    save_picture(tmp_path / "b.png", 4, 4)
    assert "mixed" in str(refused(tmp_path))


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    (tmp_path / "run[1]").mkdir()
    np.save(tmp_path / "run[1]" / "y.npy", ARRAY)
    check(opened(tmp_path / "run[1]" / "y.npy"), ARRAY)


def test_pictures_of_one_size(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / f"{name}.png", 6, 8, 3) for name in "cab"]
    stack = opened(tmp_path, pictures=True)
    expected = np.stack([np.asarray(Image.open(path), np.float32).transpose(2, 0, 1) / 255 for path in sorted(paths)])
    check(stack, expected)
    assert stack.groups is not None and stack.groups.tolist() == [0, 1, 2]
    assert opened(tmp_path, pictures=True, grey=True).sample_shape == (1, 6, 8)
    assert opened(tmp_path, pictures=True, resize=[3, 4]).sample_shape == (3, 3, 4)


def test_pictures_of_two_sizes(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 6, 8)
    save_picture(tmp_path / "b.png", 8, 6)
    stack = opened(tmp_path, pictures=True)
    assert stack.shapes == [(1, 6, 8), (1, 8, 6)] and stack.read([1]).shape == (1, 1, 8, 6)
    assert find_nonfinite(stack) is None
    for options in [{"crop": 4}, {"resize": 4}]:
        assert opened(tmp_path, pictures=True, **options).sample_shape == (1, 4, 4)


def test_pictures_of_several_sizes_are_not_gathered_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("es_cli.data.stacks.HELD", 1000)
    for number in range(9):
        save_picture(tmp_path / f"{number}.png", 6, 8 + number // 8)
    assert "crop: 64" in refused(tmp_path, pictures=True).fault.hint
    (tmp_path / "8.png").unlink()
    assert len(opened(tmp_path, pictures=True)) == 8


def test_grey_beside_colour(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 6, 8)
    save_picture(tmp_path / "b.png", 6, 8, 3)
    assert opened(tmp_path, pictures=True).shapes == [(1, 6, 8), (3, 6, 8)]
    assert opened(tmp_path, pictures=True, grey=True).sample_shape == (1, 6, 8)


def test_picture_smaller_than_the_crop(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 20, 20)
    save_picture(tmp_path / "small.png", 6, 8)
    message = str(refused(tmp_path, pictures=True, crop=16))
    assert "small.png" in message and "6 × 8" in message and "16 × 16" in message


def test_another_file_leaves_the_crops_of_the_others(tmp_path: Path) -> None:
    for name in "bd":
        save_picture(tmp_path / f"{name}.png", 30, 30)
    options = {"crop": 8, "crops_per_image": 3}
    before = opened(tmp_path, pictures=True, **options)
    assert len(before) == 6 and before.groups is not None and before.groups.tolist() == [0, 0, 0, 1, 1, 1]
    for name in "ac":
        save_picture(tmp_path / f"{name}.png", 30, 30)
    after = opened(tmp_path, pictures=True, **options)
    np.testing.assert_array_equal(after.read([3, 4, 5, 9, 10, 11]), before.read(range(6)))
    assert not np.array_equal(opened(tmp_path, pictures=True, seed=1, **options).read(range(12)), after.read(range(12)))


def test_truncated_picture_is_named(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 40, 40)
    broken = save_picture(tmp_path / "b.png", 40, 40)
    broken.write_bytes(broken.read_bytes()[:700])
    assert "b.png" in str(refused(tmp_path, pictures=True))


def test_pages_of_a_tiff_are_samples(tmp_path: Path) -> None:
    pages = RNG.integers(0, 65536, (5, 6, 8), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    for pictures in [True, False]:
        check(opened(tmp_path / "a.tif", pictures=pictures), (pages / np.float32(65535)).astype(np.float32)[:, None])


def test_key_of_a_picture(tmp_path: Path) -> None:
    assert "key" in str(refused(save_picture(tmp_path / "a.png", 6, 8), key="x"))


def test_arrays_of_images_can_be_cropped(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=ARRAY[:, 0], subject=[0, 0, 1, 1, 2, 2])
    stack = opened(tmp_path / "x.npz", pictures=True, crop=[3, 4])
    np.testing.assert_array_equal(stack.read(range(6)), ARRAY[:, :1, 1:4])
    assert stack.groups is not None and stack.groups.tolist() == [0, 0, 1, 1, 2, 2]
    np.save(tmp_path / "c.npy", ARRAY[:, 0] * np.complex64(1j))
    assert opened(tmp_path / "c.npy", pictures=True, crop=4).dtype == np.complex64
    assert "complex" in str(refused(tmp_path / "c.npy", pictures=True, resize=4))
    assert "measurements" in str(refused(tmp_path / "x.npz", crop=3))
    np.save(tmp_path / "v.npy", np.zeros((3, 4, 4, 4, 4)))
    assert "no images" in str(refused(tmp_path / "v.npy", pictures=True, crop=3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_first_nonfinite_sample(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("es_cli.data.stacks.SCAN", 500)  # several chunks
    array = np.zeros((40, 5, 5), np.float32)
    names = [str(i) for i in range(40)]
    assert find_nonfinite(ArrayStack(array, names)) is None
    array[[23, 31], 2, 2] = value
    assert find_nonfinite(ArrayStack(array, names)) == 23
    imaginary = array.astype(np.complex64)
    imaginary.imag, imaginary.real = array, 0
    assert find_nonfinite(ArrayStack(imaginary, names)) == 23
    assert find_nonfinite(ArrayStack(array, names), limit_bytes=100) is None
    assert find_nonfinite(ArrayStack(np.zeros((3, 4), np.int64), names[:3])) is None
