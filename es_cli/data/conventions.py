"""HDF5 files whose arrays have agreed names, so that a spec need not name them: fastMRI's, and the data sets that deepinv writes.

fastMRI (https://github.com/facebookresearch/fastMRI): a file is a volume of one subject with `kspace` (slices, H, W) or (slices, coils, H, W)
and, where they are public, images `reconstruction_esc` (one coil) or `reconstruction_rss`, (slices, H, W).
deepinv (`deepinv.datasets.generate_dataset`): `x_PART`, `y_PART` and parameters `NAME_PART` of the operator for PART train, test and val.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from es_cli.data.archives import Hdf5
from es_cli.data.files import listed, suffix_of
from es_cli.errors import DataError

KSPACE = "kspace"
RECONSTRUCTIONS = ("reconstruction_esc", "reconstruction_rss")  # deepinv's order: files of one coil hold both
PARTS = {"train": "train", "test": "test", "validation": "val"}


def holds_samples(path: Path) -> bool:
    """Whether the names in a file say that it holds many samples, as fastMRI's and deepinv's do. Raises DataError where it is broken."""
    held = Hdf5(path).names() if suffix_of(path) in {".h5", ".hdf5"} else {}
    return _is_fastmri(held) or bool(_parts(held))


def default_key(path: Path, images: bool = False, part: str | None = None) -> str | None:
    """The key that is meant where none is given; None where the names say nothing. `part` is train, validation or test; None: not known.

    Raises DataError where a file of fastMRI's holds no images, or where a set of deepinv's holds several parts and `part` does not say which.
    """
    if suffix_of(path) not in {".h5", ".hdf5"}:
        return None
    held = Hdf5(path).names()
    if _is_fastmri(held):
        if not images:
            return KSPACE
        found = [name for name in RECONSTRUCTIONS if name in held]
        if not found:
            raise DataError("this fastMRI file holds no images", where=str(path), hint=f"it holds {listed(held)}; the test set's are not public")
        return found[0]
    letter = "x" if images else "y"
    parts = _parts(held)
    if not parts:
        return None
    if part is not None and PARTS[part] in parts:
        return f"{letter}_{PARTS[part]}"
    if part is None and len(parts) == 1:
        return f"{letter}_{parts[0]}"
    what = "has several parts" if part is None else f"has no part for {part}"
    hint = f"name one: {{file: {path.name}, key: {letter}_{parts[0]}}}; it holds {listed(held)}"
    raise DataError(f"this data set of deepinv's {what}", where=str(path), hint=hint)


def parameter_keys(path: Path, key: str) -> dict[str, str]:
    """The operator's parameters that a set of deepinv's holds beside `y_PART`: name → key, such as mask → mask_train; none in other files."""
    letter, _, part = key.partition("_")
    if suffix_of(path) not in {".h5", ".hdf5"} or letter != "y" or part not in PARTS.values():
        return {}
    ending = f"_{part}"
    return {name.removesuffix(ending): name for name in Hdf5(path).names() if name.endswith(ending) and name.removesuffix(ending) not in {"x", "y"}}


def _is_fastmri(held: Collection[str]) -> bool:
    return KSPACE in held and bool({"ismrmrd_header", *RECONSTRUCTIONS} & set(held))


def _parts(held: Collection[str]) -> list[str]:
    return [name for name in PARTS.values() if f"y_{name}" in held]
