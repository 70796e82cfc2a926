"""Pictures: value ranges, colour, orientation and crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from es_cli.data.images import crops, read_pages, resize, to_grey, to_picture
from es_cli.errors import DataError

RNG = np.random.default_rng(1)
COLOUR = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def picture(path: Path) -> np.ndarray:
    return to_picture(read_pages(path)[0], str(path))


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_are_divided_by_their_range(dtype: type, full: int) -> None:
    array: np.ndarray = np.array([[0, full], [full // 5, 1]], dtype)
    got = to_picture(array, "a")
    assert got.dtype == np.float32 and got.shape == (1, 2, 2)
    np.testing.assert_allclose(got[0], array / full, rtol=1e-6)


def test_floats_stay_as_they_are() -> None:
    array = np.array([[-0.5, 2.0]], np.float64)
    np.testing.assert_array_equal(to_picture(array, "a")[0], array)


def test_other_integers_have_no_range() -> None:
    with pytest.raises(DataError, match="int32 have no known range"):
        to_picture(np.zeros((4, 4), np.int32), "a")


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 5), (2, 4, 4, 3)])
def test_shapes_that_are_no_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="no picture"):
        to_picture(np.zeros(shape, np.uint8), "a")


def test_channels_come_first_and_opacity_is_dropped(tmp_path: Path) -> None:
    with_opacity = np.concatenate([COLOUR, np.full((6, 9, 1), 77, np.uint8)], -1)
    Image.fromarray(with_opacity).save(tmp_path / "a.png")
    np.testing.assert_allclose(picture(tmp_path / "a.png"), COLOUR.transpose(2, 0, 1) / 255, rtol=1e-6)
    Image.fromarray(with_opacity[..., 2:]).save(tmp_path / "b.png")
    np.testing.assert_allclose(picture(tmp_path / "b.png")[0], COLOUR[..., 2] / 255, rtol=1e-6)


def test_palette_becomes_colour(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "see-through.png", transparency=bytes(range(16)))
    for name in ["a.png", "see-through.png"]:
        np.testing.assert_allclose(picture(tmp_path / name), np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255, rtol=1e-6)


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(COLOUR[..., 0] > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(picture(tmp_path / "a.png")[0], COLOUR[..., 0] > 100)


def test_grey_is_luminance() -> None:
    got = to_picture(COLOUR, "a", grey=True)
    np.testing.assert_allclose(got[0], COLOUR @ [0.299, 0.587, 0.114] / 255, rtol=1e-5)
    np.testing.assert_array_equal(to_grey(got), got)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    upright = RNG.integers(0, 65536, (5, 7), np.uint16)
    # undo, by Pillow's own rule, what a viewer will do
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else np.asarray(Image.fromarray(upright).transpose(Image.Transpose(undo[orientation])))
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read_pages(tmp_path / "a.png")[0], upright)
    np.testing.assert_array_equal(read_pages(tmp_path / "a.tif")[0], upright)


def test_resize_keeps_range_and_mean() -> None:
    image = np.zeros((1, 64, 64), np.float32)
    image[:, :, 32:] = 1
    got = resize(image, [16, 24])
    assert got.shape == (1, 16, 24) and got.dtype == np.float32
    assert got.min() >= 0 and got.max() <= 1
    assert abs(got.mean() - 0.5) < 0.01


def test_crops_follow_seed_and_name_alone() -> None:
    image = np.arange(3 * 40 * 50, dtype=np.float32).reshape(3, 40, 50)
    first = crops(image, [8, 12], 5, 0, "here/a.png")
    assert all(crop.shape == (3, 8, 12) for crop in first)
    np.testing.assert_array_equal(first, crops(image, [8, 12], 5, 0, "there/a.png"))
    np.testing.assert_array_equal(first[:3], crops(image, [8, 12], 3, 0, "a.png"))
    assert not np.array_equal(first, crops(image, [8, 12], 5, 1, "a.png"))
    assert not np.array_equal(first, crops(image, [8, 12], 5, 0, "b.png"))
    assert len({crop[0, 0, 0] for crop in first}) > 1


def test_one_crop_is_the_central_one() -> None:
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    np.testing.assert_array_equal(crops(image, 2, 1, 0, "a")[0], image[:, 2:4, 2:4])


def test_crops_do_not_hold_the_whole_picture() -> None:
    image = np.zeros((1, 64, 64), np.float32)
    assert all(crop.base is None for crop in crops(image, 8, 3, 0, "a"))


def test_crop_larger_than_the_image() -> None:
    with pytest.raises(DataError, match="6 × 9 pixels, less than the crop of 6 × 10") as caught:
        crops(np.zeros((1, 6, 9), np.float32), [6, 10], 2, 0, "small.png")
    assert caught.value.fault.where == "small.png" and "resize" in caught.value.fault.hint
