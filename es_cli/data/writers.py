"""Arrays and bytes → files, whole or not at all, and standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np

from es_cli.data.files import suffix_of
from es_cli.data.formats.cfl import write_cfl
from es_cli.data.formats.nifti import write_nifti
from es_cli.data.formats.tiffs import is_ome, write_ome
from es_cli.data.formats.zarrs import write_zarr
from es_cli.data.geometry import Geometry
from es_cli.data.identifiers import ATTRIBUTE, PLACES, as_text
from es_cli.data.watched import Watched
from es_cli.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".zarr", ".nii", ".nii.gz", ".cfl", ".png", ".tif", ".tiff")
GEOMETRIC = (".h5", ".hdf5", ".zarr", ".nii", ".nii.gz", ".cfl", ".tif", ".tiff")  # they have a place for axes or voxel size
NAME = "reconstruction"  # of the array in .npz and .h5
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")  # one of them lies in each zarr
INSTEAD = {".dcm": "write .nii, which keeps voxel size and position", ".hdr": "name the .cfl", ".mat": "write .h5, which MATLAB reads"}
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}


def write_bytes(path: Path, content: bytes, within: Path | None = None) -> None:
    """Write a file through a temporary one in the same folder, flushed and then renamed; the folder is made where it is missing.

    A link is followed, but not out of the folder `within`, None: wherever it leads.
    Raises OutputError, with nothing left behind and an older file untouched, where that fails.
    """
    check_within(path, within)
    with _whole_file(path) as file:
        file.write(content)


def check_within(path: Path, within: Path | None) -> None:
    """OutputError where a link leads `path` out of the folder `within`; None: any place is right."""
    if within is None:
        return
    real, root = os.path.realpath(path), os.path.realpath(within)
    if os.path.commonpath([real, root]) != root:
        raise OutputError("a link leads out of the output folder", where=str(path), hint="remove it, or give another -o")


def write_array(
    path: Path, array: np.ndarray, geometry: Geometry | None = None, within: Path | None = None, identifiers: Mapping[str, str] | None = None
) -> None:
    """Write an array by suffix, whole or not at all.

    `geometry`, as `read_geometry` gives it, goes where the format has a place for it: axes, voxel size and position in .nii, .h5 and .zarr,
    axes and pixel size in .tif, axes in .cfl. It is left out where its axes are not as many as the array's.

    .npy, .npz, .h5 (under `reconstruction`) and .zarr: as it is. .nii: (…, z, y, x), bool as uint8, float16 as float32. .cfl and its .hdr:
    (n, coil, H, W), (n, H, W) or (H, W) as complex64. .tif: as it is, (3, H, W) in colour, complex by magnitude.
    .png: one image (H, W), (1, H, W) or (3, H, W), with or without a batch axis of 1; floats are clipped to [0, 1] and scaled to 8 bit (NaN
    is black), 8 and 16 bit integers stay, complex numbers and pairs (2, H, W) become magnitudes.
    `identifiers`, as `read_identifiers` gives them, go as JSON into the attribute `identifiers` of .h5 and .zarr and into a comment of .nii; None: none.
    Links are followed as by `write_bytes`.
    Raises OutputError for another suffix or type, for several images in one PNG, and where the package that writes it is not installed.
    """
    check_within(path, within)
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        hint = INSTEAD.get(suffix, f"es writes {', '.join(SUFFIXES)}")
        raise OutputError(f"no writer for {suffix or 'a name without suffix'}", where=str(path), hint=hint)
    if identifiers is not None and suffix not in PLACES:
        raise OutputError(f"{suffix} has no place for identifiers", where=str(path), hint=f"write one of {', '.join(PLACES)}")
    if array.dtype.kind not in "biufc":
        raise OutputError(f"values of type {array.dtype} cannot be written", where=str(path), hint="give numbers")
    geometry = geometry if geometry is not None and geometry.fits(array) else None
    if suffix == ".zarr":
        with whole_folder(path, _is_zarr, "zarr") as folder:
            write_zarr(folder, path, array, _attributes(geometry, identifiers), None if geometry is None else geometry.axes)
    elif suffix == ".cfl":
        with _whole_files([path, path.with_suffix(".hdr")]) as (values, header):
            write_cfl(values, header, path, array, geometry)
    elif suffix == ".png":
        picture = _picture(path, array)
        with _whole_file(path) as file:
            picture.save(file, format="PNG")
    elif suffix in {".tif", ".tiff"}:
        _write_tiff(path, array, geometry)
    else:
        with _whole_file(path) as file:
            _write_stream(file, path, array, geometry, identifiers)


def _attributes(geometry: Geometry | None, identifiers: Mapping[str, str] | None) -> dict[str, Any]:
    return {**({} if geometry is None else geometry.attributes()), **({} if identifiers is None else {ATTRIBUTE: as_text(identifiers)})}


def _write_stream(file: IO[bytes], path: Path, array: np.ndarray, geometry: Geometry | None, identifiers: Mapping[str, str] | None) -> None:
    suffix = suffix_of(path)
    if suffix == ".npy":
        write_npy(file, array)
    elif suffix == ".npz":
        np.savez(file, allow_pickle=False, **{NAME: array})
    elif suffix in {".nii", ".nii.gz"}:
        write_nifti(file, path, array, geometry, "" if identifiers is None else as_text(identifiers))
    else:
        import h5py

        watched = Watched(file)
        with watched.telling(), h5py.File(watched, "w") as held:
            held[NAME] = array
            held[NAME].attrs.update(_attributes(geometry, identifiers))


def write_npy(stream: BinaryIO | IO[bytes], array: np.ndarray) -> None:
    """Write one .npy to a stream and flush it, so that whoever reads the pipe has it at once. A closed pipe raises BrokenPipeError."""
    np.lib.format.write_array(stream, np.asarray(array, order="C"), allow_pickle=False)
    stream.flush()


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it does not. Raises OutputError."""
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            # a device or a pipe is written to; renaming a file over it would destroy it
            with open(path, "wb") as file:
                yield file
            return
    with _whole_files([path]) as (file,):
        yield file


@contextmanager
def _whole_files(paths: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Files that belong together: all of them are on the disk before the first takes its place. Raises OutputError."""
    with writing(paths[0]), contextlib.ExitStack() as stack:
        finals = [Path(os.path.realpath(path)) for path in paths]
        temporary = []
        for path in finals:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            temporary.append(beside(path))
            stack.callback(_remove, temporary[-1])  # also when a signal ends us
        files = [stack.enter_context(open(name, "x+b")) for name in temporary]
        yield list(files)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for name, path in zip(temporary, finals, strict=True):
            os.replace(name, path)


@contextmanager
def whole_folder(path: Path, ours: Callable[[Path], bool], kind: str) -> Iterator[Path]:
    """An empty folder that takes the place of `path` when the block ends well, and leaves no trace when it does not.

    What lies at `path` before is replaced where `ours` says that it may be, as it is of this `kind`. Raises OutputError where it may not, or the system refuses.
    """
    with writing(path), contextlib.ExitStack() as stack:
        path = Path(os.path.realpath(path))
        _check_ours(path, ours, kind)
        temporary, old = beside(path), beside(path)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as held:
                    os.fsync(held.fileno())
        _check_ours(path, ours, kind)  # it may have come meanwhile
        # a folder that is not empty cannot be replaced at once
        if path.exists():
            os.replace(path, old)
            stack.callback(_settle, old, path)
        os.replace(temporary, path)


def _settle(old: Path, path: Path) -> None:
    """The older folder goes where the new one has taken its place, and comes back where it has not."""
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.rename(path)


def _check_ours(path: Path, ours: Callable[[Path], bool], kind: str) -> None:
    if path.exists() and not ours(path):
        raise FileExistsError(errno.EEXIST, f"what has this name is no {kind}, and is left as it is")


def _is_zarr(path: Path) -> bool:
    """Whether a zarr is replaced by another one, or an empty folder filled."""
    return path.is_dir() and (not any(path.iterdir()) or any((path / name).exists() for name in ZARR_FILES))


def beside(path: Path) -> Path:
    """A name in the same folder, which is made where it is missing; short, so that a name of the greatest length still fits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into an OutputError naming `path`, with what to do about it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        what = error.strerror or ("the disk took a part of it only" if error.errno is None else str(error))
        raise OutputError(f"cannot be written: {what}", where=str(path), hint=_remedy(error)) from error


def _remedy(error: OSError) -> str:
    # numpy says without a number how much of an array was written
    if error.errno in FULL_DISK or error.errno is None:
        return "make room on the disk, or write elsewhere with -o"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "write where you may with -o, or change the folder's permissions"
    return "check the folder's permissions and free space, or give another -o"


def _write_tiff(path: Path, array: np.ndarray, geometry: Geometry | None) -> None:
    import tifffile

    values = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    if values.ndim < 2:
        raise OutputError(f"an array of shape {array.shape} is no picture", where=str(path), hint="write it as .npy")
    if geometry is not None and is_ome(values, geometry):
        with _whole_file(path) as file:
            write_ome(file, values, geometry)
        return
    colour = values.ndim > 2 and values.shape[-3] == 3
    if colour:
        values = np.moveaxis(values, -3, -1)
    with _whole_file(path) as file:
        tifffile.imwrite(file, np.ascontiguousarray(values), photometric="rgb" if colour else "minisblack")


def _picture(path: Path, array: np.ndarray) -> Image:
    from PIL import Image

    image = np.abs(array) if np.iscomplexobj(array) else np.asarray(array)
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim == 3 and image.shape[0] == 2:
        image = np.hypot(image[0], image[1])
    if image.ndim == 3 and image.shape[0] in {1, 3}:
        image = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    if image.ndim not in {2, 3} or (image.ndim == 3 and image.shape[2] != 3):
        raise OutputError(f"an array of shape {array.shape} is no single picture", where=str(path), hint="write it as .npy or .tif")
    if image.dtype.kind == "f":
        image = np.rint(np.clip(np.nan_to_num(image, nan=0.0), 0, 1) * 255).astype(np.uint8)
    if image.dtype not in (np.uint8, np.uint16, np.bool_) or (image.ndim == 3 and image.dtype != np.uint8):
        raise OutputError(f"a PNG cannot hold {image.dtype} pixels of shape {image.shape}", where=str(path), hint="write it as .npy or .tif")
    return Image.fromarray(np.ascontiguousarray(image))
