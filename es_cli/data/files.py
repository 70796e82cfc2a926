"""From the `file` of a source to the files it means, and the first look at each: is it there, may it be read, does es know its kind."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from es_cli.errors import DataError, shortened

ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".nii", ".nii.gz", ".dcm", ".cfl", ".zarr", ".zarr.zip")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DOUBLE = (".nii.gz", ".zarr.zip")  # suffixes of two parts
READABLE = f"es reads {' '.join(ARRAYS + PICTURES)}"


def suffix_of(path: Path) -> str:
    """The suffix by which a file's kind is known, in lower case: .nii.gz of brain.T1.nii.gz, empty where there is none."""
    name = path.name.lower()
    return next((double for double in DOUBLE if name.endswith(double)), path.suffix.lower())


def is_picture(path: Path) -> bool:
    return suffix_of(path) in PICTURES


def series_files(folder: Path) -> list[Path]:
    """The DICOM files in a folder, sorted by name; none where it is no folder."""
    if not folder.is_dir():
        return []
    with reading(folder):
        return sorted(file for file in folder.iterdir() if suffix_of(file) == ".dcm" and not file.name.startswith(".") and file.is_file())


def check_file(path: Path) -> Path:
    """`path`, after making sure that it can be opened and is of a kind that es reads: a file, a .zarr folder, or a folder of .dcm files.

    Raises DataError where it is missing, another folder, not readable, or of another kind.
    """
    suffix = suffix_of(path)
    with reading(path):
        folder, there = path.is_dir(), path.exists()
    if folder and (suffix == ".zarr" or series_files(path)):
        return path
    if folder:
        raise DataError("a folder, where one file is wanted", where=str(path), hint="name a file in it")
    if not there:
        raise DataError("there is no such file", where=str(path), hint=_neighbour(path))
    if suffix == ".hdr" and path.with_suffix(".cfl").exists():
        raise DataError("this is the header of a .cfl", where=str(path), hint=f"name {path.with_suffix('.cfl').name}")
    if suffix not in ARRAYS + PICTURES:
        raise DataError(f"files of kind '{suffix or path.name}' are not supported", where=str(path), hint=READABLE)
    if not path.is_file():
        raise DataError("this is a pipe or a device, not a file", where=str(path), hint="give a file, or pipe a .npy into `es reconstruct -`")
    with reading(path), open(path, "rb"):
        return path


def find_files(pattern: str) -> list[Path]:
    """The files that a path, a folder or a glob means, sorted by name: all arrays, or all pictures. A .zarr folder counts as a file.

    In a folder or glob, hidden files and files that es cannot read are passed over. Raises DataError where nothing is left, or where
    arrays and pictures are mixed.
    """
    path = Path(pattern)
    with reading(path):
        folder, there = path.is_dir(), path.exists()
    if folder and suffix_of(path) != ".zarr":
        with reading(path):
            found = list(path.iterdir())
        empty = "the folder is empty" if not found else "the folder holds no file that es can read"
    elif not there and glob.has_magic(pattern):
        found = [Path(match) for match in glob.glob(pattern, recursive=True)]
        empty = "no file matches" if not found else "none of the files that match can be read"
    else:
        return [check_file(path)]
    files = sorted(file for file in found if _counts(file))
    if not files:
        raise DataError(empty, where=pattern, hint=READABLE)
    pictures = [file for file in files if is_picture(file)]
    if 0 < len(pictures) < len(files):
        array = next(file for file in files if not is_picture(file))
        hint = f"name one kind with a glob, such as *{array.suffix}"
        raise DataError(f"arrays and pictures are mixed: {array.name} and {pictures[0].name}", where=pattern, hint=hint)
    return [check_file(file) for file in files]


def _counts(file: Path) -> bool:
    suffix = suffix_of(file)
    return suffix in ARRAYS + PICTURES and not file.name.startswith(".") and (file.is_file() or (suffix == ".zarr" and file.is_dir()))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a DataError naming `path`."""
    try:
        yield
    except PermissionError as error:
        raise DataError("may not be read", where=str(path), hint="change its permissions, or copy it to where you may read it") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=shortened(path), hint="check the disk, or copy the file again") from error


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message: the first ones, and how many more there are."""
    held = list(names)
    more = f" and {len(held) - limit} more" if len(held) > limit else ""
    return ", ".join(held[:limit]) + more


def _neighbour(path: Path) -> str:
    """What to do about a file that is not there: the name that was perhaps meant, or the folder that is missing too."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError:
        return "check the path"
    close = get_close_matches(path.name, names, n=1)
    return f"did you mean {close[0]}?" if close else "check the path; in a spec, a relative one counts from the spec's folder"
