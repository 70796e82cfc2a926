"""Pictures → arrays in [0, 1], with crops that are drawn once."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.files import reading
from es_cli.data.formats.base import check_claim
from es_cli.data.formats.tiffs import open_tiff
from es_cli.errors import DataError, said

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
FULL = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.bool_): 1.0}
ORIENTATION = 274  # the tag of EXIF and TIFF

# decoders log a line for every damaged tag, which without a handler goes to standard error; what matters comes as a DataError
for _decoder in ("PIL", "tifffile"):
    logging.getLogger(_decoder).addHandler(logging.NullHandler())


def read_pages(path: Path) -> np.ndarray:
    """The pictures in a PNG, JPEG or TIFF: (pages, H, W) grey or (pages, H, W, 3) colour, values as stored, upright, without opacity.

    PNG and JPEG have one page. Raises DataError where the file is broken.
    """
    with reading(path), open(path, "rb"):
        pass  # what the system refuses has a better message than the decoders' own
    with _decoding(path):
        pages = _tiff(path) if path.suffix.lower() in {".tif", ".tiff"} else _pillow(path)[None]
    if pages.size == 0 or pages.dtype.kind not in "biufc" or pages.ndim not in {3, 4}:
        raise DataError(f"pages of shape {pages.shape[1:]} and type {pages.dtype} are no pictures", where=str(path), hint="save it as .npy")
    return pages


def to_picture(array: np.ndarray, where: str, grey: bool = False) -> np.ndarray:
    """A picture (H, W) or (H, W, C) as float32 (C, H, W): 8 and 16 bit divided by their range, floats as they are.

    With `grey`, colour becomes luminance. Raises DataError where shape or type is none of a picture.
    """
    if array.dtype.kind not in "f" and array.dtype not in FULL:
        raise DataError(f"pixels of type {array.dtype} have no known range", where=where, hint="save 8 or 16 bit, or floats in [0, 1]")
    scaled = np.asarray(array, np.float32)
    if array.dtype in FULL:
        scaled = scaled / np.float32(FULL[array.dtype])
    if scaled.ndim == 2:
        return scaled[None]
    if scaled.ndim != 3 or scaled.shape[-1] not in {1, 3, 4}:
        raise DataError(f"an array of shape {array.shape} is no picture", where=where, hint="wanted (H, W), or (H, W, 3)")
    picture = np.ascontiguousarray(scaled[..., :3].transpose(2, 0, 1))
    return to_grey(picture) if grey else picture


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Luminance (1, H, W) of a picture (3, H, W); a grey one as it is."""
    return np.tensordot(LUMINANCE, picture, 1)[None] if len(picture) == 3 else picture


def resize(image: np.ndarray, size: Any) -> np.ndarray:
    """An image (C, H, W) resized to `size`, pixels or [height, width], with antialiasing, within the range of its values."""
    from PIL import Image

    height, width = _pair(size)
    channels = [np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.LANCZOS)) for channel in image]
    # Lanczos overshoots at edges
    return np.clip(np.stack(channels), image.min(), image.max()).astype(np.float32)


def crops(image: np.ndarray, size: Any, count: int, seed: int, where: str) -> list[np.ndarray]:
    """`count` crops (C, h, w): the central one if there is one, else at random places that follow seed and file name.

    Raises DataError where the image is smaller than the crop.
    """
    height, width = _pair(size)
    spare_h, spare_w = image.shape[1] - height, image.shape[2] - width
    if spare_h < 0 or spare_w < 0:
        what = f"the image has {image.shape[1]} × {image.shape[2]} pixels, less than the crop of {height} × {width}"
        raise DataError(what, where=where, hint="make the crop smaller, or resize")
    if count == 1:
        corners = [(spare_h // 2, spare_w // 2)]
    else:
        key = hashlib.blake2b(f"{seed}/{Path(where).name}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        corners = [(int(rng.integers(spare_h + 1)), int(rng.integers(spare_w + 1))) for _ in range(count)]
    # copies, so that a crop does not keep the whole picture in memory
    return [image[:, top : top + height, left : left + width].copy() for top, left in corners]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # what the decoders warn of, such as many pixels or strange tags, is no fault as long as the pixels come
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError("more pixels than a picture can be trusted to have", where=str(path), hint="cut it into smaller ones") from error
    except Exception as error:  # a damaged file makes the decoders raise nearly anything: ZeroDivisionError, AssertionError, struct.error
        raise DataError(f"not a whole {path.suffix.lower()} file: {said(error, 120)}", where=str(path), hint="write or copy it again") from error


def _pillow(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    # of all that Pillow can open, some hands the file to other programs
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as opened:
        check_claim(opened.width * opened.height * len(opened.getbands()), path.stat().st_size, str(path))
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if image.mode in {"LA", "La"}:
            image = image.convert("L")
        elif image.mode not in {"1", "L", "I", "F"} and not image.mode.startswith("I;16"):
            # by way of RGBA, since Pillow warns where a palette with opacity loses it at once
            image = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
        pixels = np.asarray(image)
        wide = opened.format == "PNG" and image.mode == "I"
    return pixels.astype(np.uint16) if wide else pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _tiff(path: Path) -> np.ndarray:
    """Pages of a TIFF. Pillow reads the everyday kind, tifffile the rest: 16 bit colour, floats, several pages."""
    import tifffile

    try:
        with open_tiff(path) as file:
            series = file.series[0]
            check_claim(series.nbytes, path.stat().st_size, str(path))
            if len(file.pages) == 1 and series.dtype == np.uint8:
                return _pillow(path)[None]
            tag = file.pages[0].tags.get(ORIENTATION)
            pixels, axes = np.asarray(series.asarray()), str(series.axes)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error
    if "S" in axes:
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
        # grey or colour, with or without opacity
        pixels = pixels[..., 0] if pixels.shape[-1] == 2 else pixels[..., :3]
    colour = 3 if "S" in axes else 2
    pages = pixels.reshape(-1, *pixels.shape[-colour:])
    return _upright(pages, 1 if tag is None else int(tag.value))


def _upright(pages: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the eight orientations of TIFF and EXIF; axes 1 and 2 are height and width."""
    if orientation in {5, 6, 7, 8}:
        pages = pages.swapaxes(1, 2)
    if orientation in {3, 4, 7, 8}:
        pages = pages[:, ::-1]
    if orientation in {2, 3, 6, 7}:
        pages = pages[:, :, ::-1]
    return pages
