from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from es_cli import figures
from es_cli.errors import OutputError


def picture(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255


def row(step: int, **changes):
    return {"step": step, "loss": 1 / step, "validation_loss": 1.1 / step, "validation_psnr": None, **changes}


def panels(rng, rows: int, channels: int, size: int = 12, titles=("adjoint", "reconstruction", "ground truth")):
    return {title: rng.random((rows, channels, size, size), dtype=np.float32) for title in titles}


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_preview_has_a_row_for_each_sample_and_a_column_for_each_title(tmp_path, channels):
    rng = np.random.default_rng(0)
    figures.preview(tmp_path / "one.png", panels(rng, 1, channels))
    figures.preview(tmp_path / "two.png", panels(rng, 2, channels, titles=("adjoint", "reconstruction")))
    one, two = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert two.shape[0] > 1.8 * one.shape[0] and one.shape[1] > 1.4 * two.shape[1]


def test_complex_images_are_shown_by_magnitude(tmp_path):
    phase = np.linspace(0, 2 * np.pi, 144).reshape(12, 12)
    turning = np.stack([np.cos(phase), np.sin(phase)])[None].astype(np.float32)
    figures.preview(tmp_path / "a.png", {"x": turning})
    figures.preview(tmp_path / "b.png", {"x": np.ones((1, 1, 12, 12), np.float32)})
    assert np.abs(picture(tmp_path / "a.png") - picture(tmp_path / "b.png")).max() < 0.02


def test_all_panels_of_a_row_share_one_window(tmp_path):
    half, full = np.full((1, 1, 8, 8), 500, np.float32), np.full((1, 1, 8, 8), 1000, np.float32)
    figures.preview(tmp_path / "p.png", {"adjoint": half, "reconstruction": full})
    found = picture(tmp_path / "p.png")
    height, width = found.shape[:2]
    assert abs(found[height // 2, width // 4].mean() - 0.5) < 0.02
    assert found[height // 2, 3 * width // 4].mean() == 1


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -1])
def test_images_without_a_range_are_drawn_all_the_same(tmp_path, value):
    figures.preview(tmp_path / "p.png", {"x": np.full((1, 1, 8, 8), value, np.float32), "ground truth": np.zeros((1, 1, 8, 8), np.float32)})
    assert picture(tmp_path / "p.png").size


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(1)],
        [row(1), row(2)],
        [row(1, validation_psnr=20.0), row(2), row(3, validation_psnr=22.0)],
        [row(1, loss=-0.5), row(2, validation_loss=-0.25)],
        [row(1, validation_loss=float("nan")), row(2, validation_loss=float("inf"))],
    ],
    ids=["none", "one", "two", "psnr", "negative", "not finite"],
)
def test_progress_is_drawn_from_whatever_was_recorded(tmp_path, rows):
    figures.progress(tmp_path / "progress.png", rows)
    assert picture(tmp_path / "progress.png").shape[1] == 770


def test_a_picture_replaces_the_older_one_whole_or_not_at_all(tmp_path):
    path = tmp_path / "progress.png"
    figures.progress(path, [row(1)])
    before = path.read_bytes()
    figures.progress(path, [row(1), row(2)])
    assert path.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["progress.png"]


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        figures.progress(tmp_path / "file" / "progress.png", [row(1)])


def test_no_screen_is_looked_for(python):
    code = "import sys, numpy; from pathlib import Path; from es_cli import figures; figures.preview(Path('p.png'), {'x': numpy.ones((1, 1, 4, 4))})"
    done = python(code + "; assert 'matplotlib.pyplot' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_map_has_a_colour_for_each_place_and_a_panel_for_each_title(tmp_path):
    left = np.zeros((8, 8), np.float32)
    left[:, :4] = 1
    figures.maps(tmp_path / "one.png", {"alone": left}, "pixels")
    figures.maps(tmp_path / "two.png", {"alone": left, "together": np.ones((8, 8), np.float32)}, "pixels")
    one, two = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert two.shape[1] > 1.5 * one.shape[1]
    # the brightest colour of the scale fills a half of one panel, and all of the other
    yellow = [((shown - [253 / 255, 231 / 255, 37 / 255]) ** 2).sum(-1) < 0.01 for shown in (one, two)]
    assert yellow[1].sum() > 2 * yellow[0].sum() > 0


def test_profiles_are_lines_and_pictures_of_es_are_known_for_such(tmp_path):
    flat, peak = np.full(180, 0.2, np.float32), np.eye(180, dtype=np.float32)[90]
    figures.maps(tmp_path / "flat.png", {"alone": flat}, "angles")
    figures.maps(tmp_path / "peak.png", {"alone": peak}, "angles")
    assert np.abs(picture(tmp_path / "flat.png") - picture(tmp_path / "peak.png")).max() > 0.5
    Image.new("L", (4, 4)).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    assert [figures.is_ours(tmp_path / name) for name in ("flat.png", "other.png", "text.png", "gone.png")] == [True, False, False, False]
