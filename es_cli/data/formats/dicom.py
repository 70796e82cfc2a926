"""DICOM, through pydicom: a file, or a series of files in the order of their places. Arrays are (z, y, x): slices, rows, columns.

Values are float32 in the file's units (HU for CT) where it rescales them, else the integers as stored. Only the tags below are read:
names, dates and institutions never enter, unless `identifiers.py` is asked for them; the patient's number is compared within one reading, so that no patient is split, and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.data.files import series_files
from es_cli.data.formats.base import ArrayReader, check_claim, decoding, imported
from es_cli.data.geometry import Geometry, as_affine
from es_cli.data.npy import DAMAGED, Header
from es_cli.errors import DataError

TAGS = [
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "InstanceNumber", "SeriesInstanceUID", "PatientID", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
UNEVEN = 0.02  # of the distance between slices, that distances may differ by
TO_RAS = np.array([-1.0, -1.0, 1.0])  # DICOM counts to the left and to the back


@dataclass(frozen=True)
class _Slice:
    """One file: how many frames of what shape it holds, and where it lies, mm in DICOM's axes."""

    path: Path
    frames: int
    shape: tuple[int, int]
    stored: np.dtype
    rescaled: bool
    series: str = field(repr=False)
    patient: str = field(repr=False)
    number: int
    position: np.ndarray | None
    orientation: np.ndarray | None
    pixel: tuple[float, float] | None  # mm between rows, and between columns
    step: float | None

    @property
    def along(self) -> float | None:
        """The place on the normal of the slices."""
        if self.position is None or self.orientation is None:
            return None
        return float(np.cross(self.orientation[:3], self.orientation[3:]) @ self.position)


class DicomSeries(ArrayReader):
    """One series: a .dcm, a folder of them, or the files given."""

    def __init__(self, path: Path, slices: Sequence[_Slice] | None = None) -> None:
        super().__init__(path)
        self._slices = None if slices is None else list(slices)

    @property
    def by_rows(self) -> bool:
        return True

    @property
    def names(self) -> list[str]:
        """What to call each sample: its file, and its frame where the file holds several."""
        return [f"{one.path}[{frame}]" if one.frames > 1 else str(one.path) for one in self._ordered() for frame in range(one.frames)]

    @property
    def first(self) -> Path:
        """The file of the first slice."""
        return self._ordered()[0].path

    @property
    def patient(self) -> str:
        return self._ordered()[0].patient

    def header(self, key: str | None) -> Header:
        slices = self._ordered(key)
        dtype = np.dtype(np.float32) if any(one.rescaled for one in slices) else np.result_type(*{one.stored for one in slices})
        return Header((sum(one.frames for one in slices), *slices[0].shape), dtype, "C", 0)

    def read(self, key: str | None) -> np.ndarray:
        return self.read_rows(key, list(range(self.header(key).shape[0])))

    def read_rows(self, key: str | None, rows: list[int]) -> np.ndarray:
        slices, header = self._ordered(key), self.header(key)
        places = [(one, frame) for one in slices for frame in range(one.frames)]
        out = np.empty((len(rows), *header.shape[1:]), header.dtype)
        held: tuple[Path, np.ndarray] | None = None
        for place, row in enumerate(rows):
            one, frame = places[row]
            if held is None or held[0] != one.path:
                held = (one.path, _pixels(one))
            out[place] = held[1][frame]
        return out

    def geometry(self, key: str | None) -> Geometry:
        slices, header = self._ordered(key), self.header(key)
        axes, first = ("z", "y", "x"), slices[0]
        if first.pixel is None:
            return Geometry("dicom", str(first.stored), axes)
        step = first.step or 0.0
        if len(slices) > 1 and all(one.along is not None for one in slices):
            step = _even_step(slices, self.path)
        spacing = (step, *first.pixel)
        if first.position is None or first.orientation is None or not step or (header.shape[0] > 1 and len(slices) == 1):
            return Geometry("dicom", str(first.stored), axes, spacing)
        along_x, along_y = first.orientation[:3], first.orientation[3:]
        along_z = np.cross(along_x, along_y)
        if len(slices) > 1:  # sheared where the gantry was tilted
            along_z = (slices[-1].position - first.position) / (len(slices) - 1) / step
        columns = [along_x * first.pixel[1], along_y * first.pixel[0], along_z * step, first.position]
        affine = np.vstack([np.stack(columns, 1) * TO_RAS[:, None], [0, 0, 0, 1]])
        return Geometry("dicom", str(first.stored), axes, spacing, as_affine(affine), "scanner")

    def _ordered(self, key: str | None = None) -> list[_Slice]:
        if key is not None:
            raise DataError("a DICOM file holds one array, without a key", where=str(self.path), hint="leave key out")
        if self._slices is None:
            held = find_series(series_files(self.path) or [self.path])
            if len(held) > 1:
                names = " and ".join(series._ordered()[0].path.name for series in held[:2])
                hint = "keep one series in a folder, or name its files with a glob"
                raise DataError(f"the folder holds {len(held)} series, which begin with {names}", where=str(self.path), hint=hint)
            self._slices = held[0]._slices
        assert self._slices is not None
        return self._slices


def find_series(paths: Iterable[Path]) -> list[DicomSeries]:
    """The series that files belong to, ordered by their first files; slices by place, else by number, else by name.

    Raises DataError where a file holds no pixels, or slices of one series differ in shape.
    """
    held: dict[str, list[_Slice]] = {}
    for path in paths:
        one = _look(path)
        held.setdefault(one.series or str(path), []).append(one)
    made = []
    for slices in held.values():
        first = slices[0]
        if all(one.along is not None for one in slices):
            slices.sort(key=lambda one: (one.along, one.number))
        else:
            slices.sort(key=lambda one: one.number)
        for one in slices:
            if one.shape != first.shape:
                what = f"shape {one.shape}, but {first.path.name} of the same series has {first.shape}"
                raise DataError(what, where=str(one.path), hint="take what is no slice out, such as a scout image")
        made.append(DicomSeries(first.path, slices))
    return made


def patients_of(series: Sequence[DicomSeries]) -> list[int]:
    """A group number for each series: of the patient where several are told apart, else of the series."""
    names = [one.patient for one in series]
    if len(set(names)) > 1 and all(names):
        return np.unique(names, return_inverse=True)[1].tolist()
    return list(range(len(series)))


def _look(path: Path) -> _Slice:
    """What a file says of its pixels and their place. Raises DataError where it has none, or colours."""
    pydicom = imported("pydicom", path)
    with decoding(path):
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        shape, frames = (int(tags.get("Rows") or 0), int(tags.get("Columns") or 0)), int(tags.get("NumberOfFrames") or 1)
        if min(*shape, frames) < 1:
            raise DataError("holds no pixels", where=str(path), hint="take what is no image out: reports, structures, DICOMDIR")
        if int(tags.get("SamplesPerPixel") or 1) != 1:
            raise DataError("holds colour pictures, not measured values", where=str(path), hint="export it as .png")
        bits = int(tags.get("BitsAllocated") or 0)
        if bits not in {1, 8, 16, 32, 64}:
            raise DataError(f"claims pixels of {bits} bits", where=str(path), hint=DAMAGED)
        stored = np.dtype(f"{'i' if int(tags.get('PixelRepresentation') or 0) else 'u'}{max(bits, 8) // 8}")
        check_claim(frames * shape[0] * shape[1] * stored.itemsize, path.stat().st_size, str(path))
        groups = _groups(tags)
        spacing = _numbers(_tag(tags, groups, "PixelMeasuresSequence", "PixelSpacing"), 2) or _numbers(tags.get("ImagerPixelSpacing"), 2)
        position = _numbers(_tag(tags, groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
        orientation = _numbers(_tag(tags, groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        gap = _tag(tags, groups, "PixelMeasuresSequence", "SpacingBetweenSlices") or _tag(tags, groups, "PixelMeasuresSequence", "SliceThickness")
        return _Slice(
            path=path,
            frames=frames,
            shape=shape,
            stored=stored,
            rescaled="ModalityLUTSequence" in tags or _tag(tags, groups, "PixelValueTransformationSequence", "RescaleSlope") is not None,
            series=str(tags.get("SeriesInstanceUID") or ""),
            patient=str(tags.get("PatientID") or ""),
            number=int(tags.get("InstanceNumber") or 0),
            position=None if position is None else np.array(position),
            orientation=None if orientation is None else np.array(orientation),
            pixel=None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1]),
            step=None if gap is None else abs(float(gap)),
        )


def _pixels(one: _Slice) -> np.ndarray:
    """(frames, rows, columns), rescaled. Raises DataError where the file holds fewer pixels than it claims, or needs another decoder."""
    pydicom = imported("pydicom", one.path)
    with decoding(one.path):
        tags = pydicom.dcmread(one.path)
        if "PixelData" not in tags:
            raise DataError("holds no pixels", where=str(one.path), hint="take what is no image out: reports, structures, DICOMDIR")
        syntax = tags.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not pydicom.pixels.get_decoder(syntax).is_available:
            what = f"its pixels are packed as {syntax.name}, for which no decoder is installed"
            raise DataError(what, where=str(one.path), hint="pip install 'pylibjpeg[all]', or unpack it with dcmdjpeg or gdcmconv --raw")
        pixels = tags.pixel_array.reshape(one.frames, *one.shape)
        groups = [_groups(tags, frame) for frame in range(one.frames)]
        if "ModalityLUTSequence" in tags:
            return np.asarray(pydicom.pixels.apply_modality_lut(pixels, tags))
        if not one.rescaled:
            return pixels
        lines = [[_tag(tags, group, "PixelValueTransformationSequence", name) for name in ("RescaleSlope", "RescaleIntercept")] for group in groups]
        return np.stack([frame * float(slope or 1) + float(shift or 0) for frame, (slope, shift) in zip(pixels, lines, strict=True)])


def _groups(tags: Any, frame: int = 0) -> list[Any]:
    """Where an enhanced file keeps what a plain one keeps at its top: with the frame, or with all frames."""
    frames, shared = tags.get("PerFrameFunctionalGroupsSequence") or [], tags.get("SharedFunctionalGroupsSequence") or []
    return [*frames[frame : frame + 1], *shared[:1]]


def _tag(tags: Any, groups: list[Any], sequence: str, name: str) -> Any:
    for group in groups:
        held = group.get(sequence) or []
        if len(held) and name in held[0]:
            return held[0].get(name)
    return tags.get(name)


def _numbers(value: Any, count: int) -> list[float] | None:
    """`count` finite numbers of a tag; None where it is absent or says something else."""
    try:
        numbers = [float(n) for n in value]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _even_step(slices: Sequence[_Slice], path: Path) -> float:
    """mm between neighbours. Raises DataError where slices are missing or lie on one another."""
    places = np.array([one.along for one in slices], np.float64)
    steps = np.diff(places)
    step = float(steps.mean())
    if step <= 0 or np.abs(steps - step).max() > UNEVEN * step:
        worst = int(np.argmax(np.abs(steps - step)))
        what = f"slices lie {steps.min():.3g} to {steps.max():.3g} mm apart"
        raise DataError(what, where=str(slices[worst].path), hint="a slice is missing or there twice; without voxel size, write .npy")
    return step
