"""Files that claim what they do not hold, name other files, or unpack to more than a machine has: refused with little memory taken."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import nibabel
import numcodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from es_cli.data.formats.base import FREE_CLAIM
from es_cli.data.formats.packed import unpacks_to
from es_cli.data.readers import open_array
from es_cli.data.stacks import open_stack
from es_cli.errors import DataError
from es_cli.spec.schema import Source

MUCH = 160 << 20  # bytes
MIB = 1 << 20


def refused(path: Path, word: str) -> None:
    """As an array and as a stack, without the memory for what is claimed."""
    for opened in (lambda: open_array(path), lambda: open_stack(Source(file=str(path)), pictures=False, seed=0).read([0])):
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=word) as caught:
                opened()
            assert str(path.parent) in caught.value.fault.where
            assert tracemalloc.get_traced_memory()[1] < FREE_CLAIM
        finally:
            tracemalloc.stop()


def zeros(count: int, window: int) -> bytes:
    """`count` zeros by deflate; `window` as in zlib."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(count // MIB)) + packer.flush()


def npy(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ("(1000000, 1250000)", "cut short"), ("(-2, -4)", "claims the shape"), ("(" + "1, " * 70 + ")", "claims the shape"), ("(0, 10000000000000)", "empty"),
        ("(0, 99999999999999999999999)", "claims the shape"), ("(0, 999999999, 999999999, 999999999)", "claims the shape"), ("(9" + "9" * 40 + ",)", "claims the shape"),
    ],
)  # fmt: skip
def test_npy_of_an_absurd_shape(tmp_path: Path, shape: str, word: str) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape) + bytes(64))
    refused(tmp_path / "a.npy", word)


def test_npz_that_unpacks_to_more_than_it_can_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w", force_zip64=True) as member:
        member.write(npy(f"({MUCH // 4096}, 32, 32)"))
        for _ in range(MUCH // MIB):
            member.write(bytes(MIB))
    refused(tmp_path / "a.npz", "claims")


def test_masks_that_pack_well_are_read(tmp_path: Path) -> None:
    mask = np.zeros((40, 256, 256), np.float32)
    mask[:, :, ::4] = 1
    np.savez_compressed(tmp_path / "a.npz", mask)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("mask", data=mask, compression="gzip", chunks=(1, 256, 256))
    assert open_array(tmp_path / "a.npz").shape == open_array(tmp_path / "a.h5").shape == mask.shape


def external(file: h5py.File) -> None:
    file.create_dataset("y", (4, 8, 8), "u1", external=[("secret.bin", 0, 256)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 8, 8), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "y", (4, 8, 8))
    file.create_virtual_dataset("y", layout)


def linked(file: h5py.File) -> None:
    file["y"] = h5py.ExternalLink("secret.h5", "y")


def plugin(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((1, 8, 8))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    h5py.h5d.create(file.id, b"y", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 8, 8)), created)


def terabytes(file: h5py.File) -> None:
    file.create_dataset("y", (1_000_000, 1_250_000), "f8", chunks=(1, 1000))


def one_chunk(file: h5py.File) -> None:
    file.create_dataset("y", (2, 20_000, 20_000), "f4", chunks=(2, 20_000, 20_000), compression="gzip")


def fat_chunk(file: h5py.File) -> None:
    held = file.create_dataset("y", (1, 8, 8), "f4", chunks=(1, 8, 8), compression="gzip")
    held.id.write_direct_chunk((0, 0, 0), zeros(16 * MIB, 15))


def owners(file: h5py.File) -> None:
    file["y"] = np.ones((4, 8, 8))
    file.create_dataset("subject", (4,), "S2147483647", chunks=(1,))


def deep(file: h5py.File) -> None:
    group: h5py.Group = file
    for _ in range(600):
        group = group.create_group("g")
    group["y"] = np.ones((4, 8, 8))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (external, "other files"), (virtual, "other files"), (linked, "no array"), (plugin, "filter 32015"), (terabytes, "claims 10000000000000 bytes"),
        (one_chunk, "claims 3200000000 bytes"), (fat_chunk, "a chunk of 256 bytes"), (deep, "names of more than"),
    ],
)  # fmt: skip
def test_hdf5(tmp_path: Path, make: Callable[[h5py.File], None], word: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(256))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["y"] = np.ones((4, 8, 8), np.float32)
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        make(file)
    refused(tmp_path / "a.h5", word)


def test_hdf5_with_owners_of_absurd_length(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        owners(file)
    with pytest.raises(DataError, match="claims 2147483647 bytes"):
        open_stack(Source(file=str(tmp_path / "a.h5"), key="y"), pictures=False, seed=0)


def described(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    plain = {"zarr_format": 2, "shape": [4, 8, 8], "chunks": [4, 8, 8], "dtype": "<f4", "compressor": None, "fill_value": 0, "order": "C", "filters": None}
    (folder / ".zarray").write_text(json.dumps(plain | changes))
    return folder


@pytest.mark.parametrize(
    ("codec", "chunk"),
    [
        ({"id": "zlib", "level": 1}, lambda: zeros(MUCH, 15)),
        ({"id": "zstd", "level": 1}, lambda: numcodecs.Zstd().encode(bytes(MUCH))),
        ({"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1}, lambda: numcodecs.Blosc("zstd").encode(bytes(MUCH))),
    ],
    ids=["zlib", "zstd", "blosc"],
)
def test_zarr_whose_chunk_unpacks_to_more_than_it_can_hold(tmp_path: Path, codec: dict, chunk: Callable[[], bytes]) -> None:
    (described(tmp_path / "a.zarr", compressor=codec) / "0.0.0").write_bytes(chunk())
    refused(tmp_path / "a.zarr", "claims")


def test_zarr_of_absurd_shapes(tmp_path: Path) -> None:
    refused(described(tmp_path / "a.zarr", shape=[10**12, 8, 8], chunks=[1, 8, 8]), "claims")
    refused(described(tmp_path / "b.zarr", chunks=[10**9, 10**6, 10**6]), "claims")
    refused(described(tmp_path / "c.zarr", attributes="x" * (17 << 20)), "bytes of description")


def test_zarr_whose_files_lie_elsewhere(tmp_path: Path) -> None:
    np.ones((4, 8, 8), np.float32).tofile(tmp_path / "secret")
    (described(tmp_path / "a.zarr") / "0.0.0").symlink_to(tmp_path / "secret")
    refused(tmp_path / "a.zarr", "leads out")


def test_zip_of_a_zarr_whose_members_unpack_to_more_than_they_can_hold(tmp_path: Path) -> None:
    held = described(tmp_path / "a.zarr") / ".zarray"
    for name, content in {"chunk": {"0.0.0": bytes(MUCH)}, "text": {".zattrs": " " * (17 << 20)}}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(held, ".zarray")
            for member, values in content.items():
                archive.writestr(member, values)
        refused(tmp_path / f"{name}.zarr.zip", "claims" if name == "chunk" else "bytes of description")


def test_nifti_packed_beyond_reason(tmp_path: Path) -> None:
    header = bytearray(nibabel.Nifti1Image(np.zeros((8, 8, 4), np.uint8), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<8h", header, 40, 3, 8192, 8192, MUCH // 8192**2 + 1, 1, 1, 1, 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(bytes(header)) + b"".join(packer.compress(bytes(MIB)) for _ in range(MUCH // MIB)) + packer.flush()
    (tmp_path / "a.nii.gz").write_bytes(packed)
    refused(tmp_path / "a.nii.gz", "claims")
    struct.pack_into("<8h", header, 40, 3, 8, 8, 4, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, float(MUCH))  # where the values begin
    (tmp_path / "b.nii.gz").write_bytes(zlib.compress(bytes(header), wbits=31))
    refused(tmp_path / "b.nii.gz", "claims")


def test_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((13_000, 13_000), np.uint8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "claims 169000000 bytes")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9_000, 9_000), np.uint16), compression="zlib")
    refused(tmp_path / "a.tif", "claims 162000000 bytes")
    Image.new("L", (8, 8)).save(tmp_path / "x.eps")
    os.rename(tmp_path / "x.eps", tmp_path / "eps.png")
    refused(tmp_path / "eps.png", "cannot identify")


def test_tiff_that_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    parts = "".join(f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>' for z, name in enumerate(["a.tif", "../secret.tif"]))
    pixels = f'<Pixels ID="P" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1">{parts}</Pixels>'
    text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">{pixels}</Image></OME>'
    tifffile.imwrite(tmp_path / "inside" / "a.tif", np.zeros((8, 8), np.uint16), description=text, metadata=None)
    tifffile.imwrite(tmp_path / "secret.tif", np.full((8, 8), 777, np.uint16))
    assert open_array(tmp_path / "inside" / "a.tif").max() == 0


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".mat", ".nii", ".cfl", ".dcm", ".png", ".tif", ".zarr.zip"])
def test_pipes_and_devices_under_a_suffix(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="pipe or a device"):
        open_array(tmp_path / f"a{suffix}")
    os.mkfifo(tmp_path / f"b{suffix}")
    with pytest.raises(DataError, match="pipe or a device"):
        open_array(tmp_path / f"b{suffix}")


def test_header_of_a_cfl_that_is_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.cfl").write_bytes(bytes(512))
    os.mkfifo(tmp_path / "a.hdr")
    refused(tmp_path / "a.cfl", "header of the .cfl is missing")


def test_more_samples_than_can_have_a_name(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        file.write(npy(f"({1 << 33}, 1)", "|u1"))
        file.truncate(file.tell() + (1 << 33))  # a hole
    with pytest.raises(DataError, match="would hold 8589934592 samples"):
        open_stack(Source(file=str(tmp_path / "a.npy")), pictures=False, seed=0)


def test_what_unpacks_is_known_beforehand() -> None:
    values = os.urandom(1000) + bytes(9000)
    for codec in (numcodecs.Zstd(), numcodecs.Blosc("zstd"), numcodecs.Zlib(), numcodecs.GZip()):
        assert unpacks_to(bytes(codec.encode(values)), 100) == len(values)
    assert unpacks_to(bytes(numcodecs.Zstd().encode(bytes(70_000))), 0) == 70_000
    assert unpacks_to(b"plain numbers", 100) == 13


def test_pages_that_follow_each_other_in_a_circle(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.uint16), metadata=None)
    held = bytearray((tmp_path / "a.tif").read_bytes())
    start = struct.unpack_from("<I", held, 4)[0]
    count = struct.unpack_from("<H", held, start)[0]
    struct.pack_into("<I", held, start + 2 + 12 * count, start + 8)  # the middle of a tag, from where tifffile counts pages without end
    (tmp_path / "a.tif").write_bytes(held)
    with suppress(DataError):
        assert open_array(tmp_path / "a.tif").shape[-2:] == (8, 8)
