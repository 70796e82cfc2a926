"""Hostile specs, checkpoints, runs and arrays: seeds that work, and mutations of them; `judging.py` says what `es` makes of each.

A case follows from a source of randomness alone, `random.Random` or hypothesis's; `fuzz.py` and tests/fuzz run them.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from judging import run

ARRAYS = ("npy", "npz", "h5", "mat", "nii", "nii.gz", "cfl", "dcm", "png", "jpg", "tif", "zarr", "zarr.zip")
KINDS = ("spec", "checkpoint", "run", *ARRAYS)
SIZE = 16
MODEL = "model.safetensors"
CHANGES = (1, 1, 1, 2, 3)  # how many are made of a spec, drawn from these
SCALARS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 10**6, 10**9, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5, 0.3, 1e-300, 1e300, float("inf"), float("nan"), "", "x", "none",
    "from-data", "full", "random", "../../x", "/dev/zero", "/dev/null", "a\nb", "\x1b[31m", "é", "-x", "*", "~", "file.npy", "mask.npy", "train_y.npy", "x" * 3000, [], {},
    [1], [0, 0], [-1, 16, 16], [1, 10**5, 10**5], [[1]], {"name": "UNet"}, {"name": "os.system"}, {"file": "mask.npy"}, {"file": "/dev/zero"}, {"tensor": "physics.mask"}, {"x": {"y": 1}},
]  # fmt: skip
TOKENS = [b"", b"\0", b"\xff" * 8, b"\x7f" * 4, b"[" * 300, b"{" * 300, b"&a [*a]", b"!!python/object/apply:os.system", b"\xef\xbb\xbf", b"\t", b"\n", b"999999999999999999999", b"-1", b"NaN", b"..", b"\xed\xa0\x80"]


def make_seeds(folder: Path) -> None:
    """Specs, runs with their checkpoints and an array in each format, in an empty folder. What a mutation starts from works as it is."""
    rng = np.random.default_rng(0)
    mask = (rng.random((SIZE, SIZE)) < 0.6).astype(np.float32)
    images = rng.random((6, 1, SIZE, SIZE), np.float32)
    for name, array in {"mask": mask, "train_y": images * mask, "test_y": images[:2] * mask, "test_x": images[:2]}.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "kspace.npy", (rng.random((4, SIZE, SIZE)) + 1j).astype(np.complex64))
    for number, spec in enumerate(_specs()):
        (folder / f"spec-{number}.yaml").write_text(yaml.safe_dump(spec))
    for number in (0, 1):
        if run(["train", str(folder / f"spec-{number}.yaml"), "-o", str(folder / f"run-{number}"), "-q"]).code != 0:
            raise RuntimeError("the seed does not train")
    _arrays(folder, (images[:2] * mask)[:, 0], np.load(folder / "kspace.npy")[:2])


def _specs() -> Iterator[dict[str, Any]]:
    network = {"name": "UNet", "in_channels": 1, "out_channels": 1, "channels_per_scale": [2, 4], "batch_norm": False}
    training = {"steps": 1, "batch_size": 2, "preview": False, "optimizer": {"name": "AdamW", "lr": 0.001}}
    first = {
        "name": "seed", "seed": 0, "physics": {"name": "Inpainting", "mask": {"file": "mask.npy"}}, "transforms": {"group": "D4"}, "training": training,
        "data": {"train": {"measurements": "train_y.npy"}, "test": {"measurements": "test_y.npy", "images": "test_x.npy"}, "validation": 0.3, "scale": "none"},
        "mask_generator": {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.7}, "losses": ["EquivariantSplittingLoss"],
        "model": {"name": "ArtifactRemoval", "backbone_net": network}, "test": {"splits": "none", "group": "full"},
    }  # fmt: skip
    yield first
    two = {**network, "in_channels": 2, "out_channels": 2}
    yield {**first, "physics": {"name": "MRI", "mask": "from-data"}, "data": {"train": {"measurements": {"file": "kspace.npy"}}}, "transforms": "none",
           "model": {"name": "DataConsistentMoDL", "num_iter": 1, "denoiser": two}}  # fmt: skip
    noisy = {"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 0.1}}
    yield {**first, "physics": noisy, "data": {"train": {"images": {"sample": "terrain", "crop": SIZE}}}, "losses": [{"name": "SureGaussianLoss", "sigma": 0.1, "weight": 1.0}]}


def _arrays(folder: Path, y: np.ndarray, kspace: np.ndarray) -> None:
    import h5py
    import scipy.io
    import zarr
    from PIL import Image

    from es_cli.data.writers import write_array

    whole = y[:, None]
    for suffix in (".npy", ".nii", ".nii.gz", ".tif"):
        write_array(folder / f"y{suffix}", y)
    write_array(folder / "y.cfl", kspace)
    np.savez_compressed(folder / "y.npz", y=whole)
    scipy.io.savemat(folder / "y.mat", {"y": whole}, do_compression=True)
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", data=whole, chunks=(1, 1, SIZE, SIZE), compression="gzip")
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG")):
        Image.fromarray((255 * y[0]).astype(np.uint8)).save(folder / f"y{suffix}", kind)
    zarr.create_array(store=str(folder / "y.zarr"), data=whole, chunks=(1, 1, SIZE, SIZE))
    with zipfile.ZipFile(folder / "y.zarr.zip", "w") as archive:
        for path in sorted((folder / "y.zarr").rglob("*")):
            archive.write(path, path.relative_to(folder / "y.zarr"))
    _dicom(folder / "y.dcm", (1000 * y[0]).astype(np.uint16))


def _dicom(path: Path, values: np.ndarray) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    held = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    held.Rows, held.Columns, held.BitsAllocated, held.BitsStored, held.HighBit = *values.shape, 16, 16, 15
    held.PixelRepresentation, held.SamplesPerPixel, held.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    held.RescaleSlope, held.RescaleIntercept, held.PixelSpacing, held.InstanceNumber = 0.001, 0, [1, 1], 1
    held.PixelData = values.tobytes()
    held.save_as(path)


def command(random: Random, kind: str, seeds: Path, folder: Path) -> list[str]:
    """Write a mutated file of a kind into an empty folder, and give the command line that reads it."""
    if kind == "spec":
        for name in ("mask", "train_y", "test_y", "test_x", "kspace"):
            os.link(seeds / f"{name}.npy", folder / f"{name}.npy")
        (folder / "spec.yaml").write_bytes(_spec(random, seeds / f"spec-{random.randrange(3)}.yaml"))
        return ["train", str(folder / "spec.yaml"), "training.steps=1", "training.epochs=null", "training.preview=false", "-o", str(folder / "run"), "--device", "cpu"]
    if kind == "checkpoint":
        number, file = random.randrange(2), folder / "m.safetensors"
        file.write_bytes(_tensors(random, (seeds / f"run-{number}" / MODEL).read_bytes(), "es"))
        measured = seeds / ("kspace.npy" if number else "test_y.npy")
        return ["info", str(file)] if random.random() < 0.3 else _reconstruct(file, measured, folder)
    if kind == "run":
        return _stopped_run(random, seeds / f"run-{random.randrange(2)}", folder / "run")
    return _reconstruct(seeds / f"run-{int(kind == 'cfl')}" / MODEL, _array(random, kind, seeds, folder), folder)


def whole(kind: str, seeds: Path, folder: Path) -> list[str]:
    """The command line that reads an array of a kind as it is."""
    return _reconstruct(seeds / f"run-{int(kind == 'cfl')}" / MODEL, seeds / f"y.{kind}", folder)


def _reconstruct(model: Path, source: Path, folder: Path) -> list[str]:
    return ["reconstruct", "--ckpt", str(model), str(source), "-o", str(folder / "out.npy"), "--device", "cpu"]


def _stopped_run(random: Random, seed: Path, folder: Path) -> list[str]:
    """A run of which one file was changed, to go on by a step."""
    shutil.copytree(seed, folder)
    name = random.choice([*["state/state.safetensors"] * 6, "spec.yaml", "metrics.jsonl", MODEL])
    if name.startswith("state"):
        (folder / "state" / "previous.safetensors").unlink(missing_ok=True)  # or else that one would be used
    raw = (folder / name).read_bytes()
    changed = _tensors(random, raw, "es-state") if name.startswith("state") else _spec(random, folder / name) if name == "spec.yaml" else _bytes(random, raw)
    (folder / name).write_bytes(changed)
    return ["train", "--resume", str(folder), "training.steps=2", "--device", "cpu"]


def _array(random: Random, kind: str, seeds: Path, folder: Path) -> Path:
    """A changed array in a file or a folder."""
    source = folder / f"y.{kind}"
    if kind == "zarr":
        shutil.copytree(seeds / "y.zarr", source)
        target = random.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    else:
        shutil.copy(seeds / f"y.{kind}", source)
        target = source
    if kind == "cfl":
        shutil.copy(seeds / "y.hdr", folder / "y.hdr")
        target = random.choice([source, folder / "y.hdr"])
    target.write_bytes(_bytes(random, target.read_bytes()))
    return source


def _spec(random: Random, path: Path) -> bytes:
    if random.random() < 0.2:
        return _bytes(random, path.read_bytes())
    value = json.loads(_parsed(path.read_text()))
    for _ in range(random.choice(CHANGES)):
        _change(random, value)
    return yaml.dump(value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True).encode()


@lru_cache
def _parsed(text: str) -> str:
    return json.dumps(yaml.safe_load(text))


def _tensors(random: Random, raw: bytes, name: str) -> bytes:
    """A safetensors file with something changed: bytes, its header, or what its metadata of this name say, after which a checksum beside them is left out."""
    if random.random() < 0.3:
        return _bytes(random, raw)
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    described = json.loads(header["__metadata__"][name])
    header["__metadata__"].pop("sha256", None)
    for _ in range(random.choice(CHANGES)):
        _change(random, header if random.random() < 0.2 else described)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"][name] = json.dumps(described)
    made = json.dumps(header).encode()
    return struct.pack("<Q", len(made)) + made + raw[8 + length :]


def _change(random: Random, value: Any) -> None:
    """Replace, leave out, add or copy something somewhere in nested mappings and lists; half of the time something of the same kind stands there then."""
    places = list(_places(value))
    numbers = [(holder, key) for holder, key in places if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool)]
    names = [(holder, key) for holder, key in places if key == "name" and isinstance(holder[key], str)]
    kind = random.randrange(8)
    if kind in {0, 1} and numbers:
        holder, key = random.choice(numbers)
        holder[key] = random.choice([holder[key] * factor for factor in (-1, 0, 2, 100, 10**6, 0.5)] + [holder[key] + 1, holder[key] - 1])
    elif kind in {2, 3} and names:
        holder, key = random.choice(names)
        holder[key] = random.choice(_names(_kind_of(holder[key]) if kind == 2 else ""))
    elif places:
        _break(random, places, kind)


def _break(random: Random, places: list[tuple[Any, Any]], kind: int) -> None:
    holder, key = random.choice(places)
    if kind == 4 and isinstance(holder, dict):
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[random.choice(["name", "file", "key", "weight", "x", f"{key}s", "params", "train", "group"])] = random.choice(SCALARS)
    elif kind == 6:
        other, name = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    else:
        holder[key] = json.loads(json.dumps(random.choice(SCALARS)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


@lru_cache
def _entries() -> list[tuple[str, str]]:
    from es_cli import catalog

    return [(str(entry["name"]), str(entry["kind"])) for entry in json.loads((Path(catalog.__file__).parent / "catalog.json").read_text())["entries"]]


def _kind_of(name: str) -> str:
    return next((kind for held, kind in _entries() if held == name), "")


@lru_cache
def _names(kind: str) -> list[str]:
    """What the catalogue holds of a kind, "": of any."""
    return sorted({name for name, of in _entries() if kind in ("", of)})


def _bytes(random: Random, raw: bytes) -> bytes:
    """Bytes flipped, cut, repeated, replaced by numbers that are too large, or followed by others; mostly near the beginning."""
    held = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        size = len(held)
        place = random.randrange(max(1, min(size, 400) if random.random() < 0.7 else size))
        kind = random.randrange(7)
        if kind == 0 and size:
            held[place] ^= 1 << random.randrange(8)
        elif kind == 1 and size:
            held[place] = random.randrange(256)
        elif kind == 2:
            del held[place : place + random.choice([1, 4, 100, size])]
        elif kind == 3:
            held[place:place] = random.choice(TOKENS)
        elif kind == 4:
            wide = random.choice(["<h", "<i", "<q", ">i", "<f", "<d"])
            number: Any = random.choice([0, 1, -1, 127, -128, 32767]) if wide[1] in "hiq" else random.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
            packed = struct.pack(wide, number if wide[1] != "q" else random.choice([2**62, -1, 2**40]))
            held[place : place + len(packed)] = packed
        elif kind == 5:
            held[place:place] = held[place : place + random.choice([1, 16, 500])]
        else:
            held += random.choice(TOKENS)
    return bytes(held)
