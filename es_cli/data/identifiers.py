"""Who was measured, as DICOM headers say: read and written where a user asks for it, and never otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from es_cli.data.files import check_file
from es_cli.data.formats.base import decoding, imported
from es_cli.data.formats.dicom import DicomSeries
from es_cli.data.readers import reader_of
from es_cli.errors import DataError

KEPT = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "InstitutionName", "AccessionNumber", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "StudyDescription", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "Modality",
)  # fmt: skip
ATTRIBUTE = "identifiers"  # of the array in .h5 and .zarr; in .nii it is a comment after the header
PLACES = (".h5", ".hdf5", ".zarr", ".nii", ".nii.gz")
LONGEST = 1024  # characters of one value


def read_identifiers(path: Path) -> dict[str, str]:
    """Keyword → value of KEPT in a DICOM file or a folder of one series, of its first slice; what a header lacks is left out. Raises DataError."""
    reader = reader_of(check_file(path))
    if not isinstance(reader, DicomSeries):
        raise DataError("only DICOM files have identifiers to keep", where=str(path), hint="leave --keep-identifiers out")
    first = reader.first
    with decoding(first):
        held = imported("pydicom", first).dcmread(first, stop_before_pixels=True, specific_tags=list(KEPT))
        found = {name: " ".join(str(held[name].value).split())[:LONGEST] for name in KEPT if name in held}
    return {name: value for name, value in found.items() if value}


def as_text(identifiers: Mapping[str, str]) -> str:
    """One line of JSON."""
    return json.dumps(dict(identifiers), sort_keys=True)
