"""Pictures that ship with matplotlib, so that the first run needs no download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from es_cli.data.files import reading
from es_cli.errors import DataError

# what part of a picture's height and width the test region takes; the rest of the picture is for training
PARTS = {"train": (0.0, 0.72), "test": (0.75, 1.0)}


def pictures(name: str, part: str | None) -> list[np.ndarray]:
    """The picture `photo` (colour), `terrain` or `brain` (grey), float32 (C, H, W) in [0, 1].

    `part` is train or test, which do not overlap; None is the whole picture. Raises DataError where matplotlib came without its samples.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    if not folder.is_dir():
        raise DataError("this matplotlib came without its sample pictures", where=str(folder), hint="pip install --force-reinstall matplotlib")
    with reading(folder):
        whole = {"photo": _photo, "terrain": _terrain, "brain": _brain}[name](folder)
    if part is None:
        return [whole]
    low, high = PARTS[part]
    # the long axis of the photo runs from the face down to the medals: both parts hold something to see
    axis = 2 if name == "photo" else 1
    length = whole.shape[axis]
    return [whole.take(np.arange(int(low * length), int(high * length)), axis=axis)]


def _photo(folder: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(folder / "grace_hopper.jpg") as image:
        return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255


def _terrain(folder: Path) -> np.ndarray:
    with np.load(folder / "jacksboro_fault_dem.npz", allow_pickle=False) as held:
        height = held["elevation"].astype(np.float32)
    return ((height - height.min()) / (height.max() - height.min()))[None]


def _brain(folder: Path) -> np.ndarray:
    with gzip.open(folder / "s1045.ima.gz") as file:
        image = np.frombuffer(file.read(), "<u2").reshape(256, 256).astype(np.float32)
    return (image / image.max())[None]
