"""DICOM: a series is a stack in the order of its places, in the file's units; nobody's name is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import dataset, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from es_cli.data.geometry import Geometry
from es_cli.data.readers import array_header, open_array, read_geometry
from es_cli.data.stacks import Stack, open_stack
from es_cli.data.writers import write_array
from es_cli.errors import DataError, OutputError
from es_cli.spec.schema import Source

PIXELS = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5) - 30  # slices, rows, columns
TILTED = [1, 0, 0, 0, 0.8, -0.6]  # rows and columns of an oblique slice
NORMAL = np.cross(TILTED[:3], TILTED[3:])


def save_series(folder: Path, order: tuple[int, ...] = (2, 0, 3, 1), gap: float = 2.5, **tags: Any) -> Path:
    """Files named in another order than their slices lie in."""
    for name, number in enumerate(order):
        place = np.array([10.0, -20.0, 5.0]) + gap * number * NORMAL
        options = {"ImagePositionPatient": place.round(6).tolist(), "ImageOrientationPatient": TILTED, "PixelSpacing": [0.5, 0.75], "InstanceNumber": 9 - number}
        save(folder / f"{name}.dcm", PIXELS[number], **(options | {"RescaleSlope": 2, "RescaleIntercept": -1000} | tags))
    return folder


def opened(file: Path | str, **options: Any) -> Stack:
    return open_stack(Source.model_validate({"file": str(file), **options}), pictures=False, seed=0)


def refused(path: Path, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        open_array(path)
    assert caught.value.fault.where and caught.value.fault.hint and caught.value.exit_code == 3


def test_a_series_is_ordered_by_place_and_rescaled(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct")
    expected = PIXELS * np.float32(2) - 1000
    got = open_array(folder)
    assert got.dtype == np.float32 and array_header(folder) == ((4, 6, 5), np.dtype(np.float32))
    np.testing.assert_array_equal(got, expected)
    for file in [folder, folder / "*.dcm"]:
        stack = opened(file)
        np.testing.assert_array_equal(stack.read([3, 0, 0]), expected[[3, 0, 0]])
        assert stack.names[0].endswith("1.dcm") and stack.groups is None


def test_without_places_the_number_orders(tmp_path: Path) -> None:
    for name, number in enumerate([2, 0, 1]):
        save(tmp_path / f"{name}.dcm", PIXELS[number], InstanceNumber=number + 1)
    got = open_array(tmp_path)
    assert got.dtype == np.int16  # nothing rescales it
    np.testing.assert_array_equal(got, PIXELS[:3])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_one_file_is_a_stack_of_one(tmp_path: Path, dtype: str) -> None:
    pixels = PIXELS[1].astype(dtype)
    got = open_array(save(tmp_path / "a.dcm", pixels))
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, pixels[None])


def test_frames_of_one_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", PIXELS, NumberOfFrames=4)
    np.testing.assert_array_equal(open_array(path), PIXELS)
    assert opened(path).names[2].endswith("a.dcm[2]")


def test_frames_that_are_rescaled_one_by_one(tmp_path: Path) -> None:
    groups = []
    for slope in [1, 2, 3, 4]:
        scale, group = Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = slope, 5
        group.PixelValueTransformationSequence = Sequence([scale])
        groups.append(group)
    path = save(tmp_path / "a.dcm", PIXELS, NumberOfFrames=4, PerFrameFunctionalGroupsSequence=Sequence(groups))
    np.testing.assert_array_equal(open_array(path), PIXELS * np.arange(1, 5, dtype=np.float32)[:, None, None] + 5)


def test_geometry_of_an_oblique_series_survives_as_nifti(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct")
    geometry = read_geometry(folder)
    assert geometry is not None and geometry.axes == ("z", "y", "x") and geometry.dtype == "int16"
    np.testing.assert_allclose(geometry.voxel_size or (), (0.75, 0.5, 2.5), rtol=1e-6)
    write_array(tmp_path / "a.nii", open_array(folder), geometry)
    image = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.asarray(image.dataobj), (PIXELS * np.float32(2) - 1000).T)
    np.testing.assert_allclose(image.header.get_zooms(), (0.75, 0.5, 2.5), rtol=1e-6)
    # where DICOM puts the voxel of column 4, row 3, slice 2, to the left and to the back positive
    place = np.array([10.0, -20.0, 5.0]) + 4 * 0.75 * np.array(TILTED[:3]) + 3 * 0.5 * np.array(TILTED[3:]) + 2 * 2.5 * NORMAL
    np.testing.assert_allclose(image.affine @ [4, 3, 2, 1], [-place[0], -place[1], place[2], 1], atol=1e-5)
    made = read_geometry(tmp_path / "a.nii")
    assert made is not None and made.space == geometry.space == "scanner" and made.axes == geometry.axes
    np.testing.assert_allclose(made.affine, geometry.affine, atol=1e-5)


def test_geometry_of_one_slice(tmp_path: Path) -> None:
    options = {"PixelSpacing": [0.5, 0.75], "SliceThickness": 3}
    geometry = read_geometry(save(tmp_path / "a.dcm", PIXELS[0], **options))
    assert geometry == Geometry("dicom", "int16", ("z", "y", "x"), (3.0, 0.5, 0.75))
    geometry = read_geometry(save(tmp_path / "b.dcm", PIXELS[0]))
    assert geometry is not None and geometry.voxel_size is None


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct", order=(0, 1, 3))
    assert open_array(folder).shape == (3, 6, 5)
    with pytest.raises(DataError, match="2.5 to 5 mm apart"):
        read_geometry(folder)


def test_no_identity_is_kept(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct")
    write_array(tmp_path / "a.nii", open_array(folder), read_geometry(folder))
    stack = opened(folder)
    for text in [repr(read_geometry(folder)), repr(vars(stack)), repr(vars(stack.file)), (tmp_path / "a.nii").read_bytes().decode("latin1")]:  # type: ignore[union-attr]
        assert not any(secret in text for secret in ["Doe", "Jane", "P-17", "1.2.3"])


@pytest.mark.parametrize(("patients", "groups"), [(["A", "A", "B"], [0, 0, 1]), (["A", "A", "A"], [0, 1, 2]), (["A", "", "B"], [0, 1, 2])])
def test_no_patient_is_split(tmp_path: Path, patients: list[str], groups: list[int]) -> None:
    for number, patient in enumerate(patients):
        save_series(tmp_path / str(number), SeriesInstanceUID=f"1.2.{number}", PatientID=patient)
    stack = opened(tmp_path / "*" / "*.dcm")
    assert stack.groups is not None and stack.groups.tolist() == [group for group in groups for _ in range(4)]
    np.testing.assert_array_equal(stack.read([5, 11]), PIXELS[[1, 3]] * np.float32(2) - 1000)


def test_two_series_in_one_folder(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"{number}.dcm", PIXELS[number], SeriesInstanceUID=f"1.2.{number}")
    refused(tmp_path, "2 series, which begin with 0.dcm and 1.dcm")


def test_slices_of_two_shapes(tmp_path: Path) -> None:
    save(tmp_path / "a.dcm", PIXELS[0])
    save(tmp_path / "b.dcm", PIXELS[0][:4])
    refused(tmp_path, r"shape \(4, 5\), but a.dcm of the same series has \(6, 5\)")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_packed_pixels(tmp_path: Path, syntax: str) -> None:
    made = dataset(PIXELS[1])
    made.compress(RLELossless)
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    if syntax == RLELossless:
        np.testing.assert_array_equal(open_array(tmp_path / "a.dcm"), PIXELS[1:2])
    elif pydicom.pixels.get_decoder(syntax).is_available:
        refused(tmp_path / "a.dcm", "not a whole")
    else:
        refused(tmp_path / "a.dcm", "no decoder is installed")


def test_files_without_pixels(tmp_path: Path) -> None:
    made = dataset(PIXELS[0])
    del made.PixelData
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    refused(tmp_path / "a.dcm", "no pixels")
    del made.Rows
    made.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    refused(tmp_path / "b.dcm", "no pixels")
    refused(save(tmp_path / "c.dcm", PIXELS[0], SamplesPerPixel=3), "colour")


def test_more_pixels_claimed_than_held(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.dcm", PIXELS[0], Rows=60000, Columns=60000), "claims 7200000000 bytes")
    refused(save(tmp_path / "b.dcm", PIXELS[0], Rows=7), "not a whole")
    refused(save(tmp_path / "c.dcm", PIXELS[0], NumberOfFrames=2_000_000_000), "claims")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, part: float) -> None:
    path = save(tmp_path / "a.dcm", np.zeros((30, 30), np.uint16))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(path, "not a whole|no pixels")


def test_random_damage_is_answered_and_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, rng, answers = save_series(tmp_path, order=(0,)) / "0.dcm", np.random.default_rng(5), 0
    content = path.read_bytes()
    for _ in range(80):
        damaged = bytearray(content)
        for place in rng.integers(128, len(content), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_array(path)
            read_geometry(path)
        except DataError:
            answers += 1
    assert answers > 0
    assert capfd.readouterr().err == ""


def test_dicom_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"write \.nii"):
        write_array(tmp_path / "a.dcm", PIXELS)
    with pytest.raises(DataError, match="keys"):
        opened(save(tmp_path / "a.dcm", PIXELS[0]), key="x")
    with pytest.raises(DataError, match="without a key"):
        open_array(tmp_path / "a.dcm", "x")
