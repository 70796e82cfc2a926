"""Hostile specs, checkpoints and arrays: seeds that work, mutations of them, and what `es` makes of each, judged by what it promises.

A case follows from a source of randomness alone, `random.Random` or hypothesis's; `fuzz.py` and tests/fuzz run them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml

CODES = {0, 2, 3, 4, 5, 6}  # documented ends of a command that nobody stops; 1 is a fault of es
LINES, SECONDS, BYTES = 10, 10.0, 2 << 30
KINDS = ("spec", "checkpoint", "npy", "npz", "h5", "mat", "nii", "nii.gz", "cfl", "dcm", "png", "jpg", "tif", "zarr", "zarr.zip")
SIZE = 16
SCALARS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 10**6, 10**9, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5, 0.3, 1e-300, 1e300, float("inf"), float("nan"), "", "x", "none",
    "from-data", "full", "random", "../../x", "/dev/zero", "/dev/null", "a\nb", "\x1b[31m", "é", "-x", "*", "~", "file.npy", "mask.npy", "train_y.npy", "x" * 3000, [], {},
    [1], [0, 0], [-1, 16, 16], [1, 10**5, 10**5], [[1]], {"name": "UNet"}, {"name": "os.system"}, {"file": "mask.npy"}, {"file": "/dev/zero"}, {"tensor": "physics.mask"}, {"x": {"y": 1}},
]  # fmt: skip
TOKENS = [b"", b"\0", b"\xff" * 8, b"\x7f" * 4, b"[" * 300, b"{" * 300, b"&a [*a]", b"!!python/object/apply:os.system", b"\xef\xbb\xbf", b"\t", b"\n", b"999999999999999999999", b"-1", b"NaN", b"..", b"\xed\xa0\x80"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended: `fault` says which promise it broke, empty: none."""

    code: int
    seconds: float
    peak: int  # bytes, of the whole process
    text: str
    fault: str


def make_seeds(folder: Path) -> None:
    """Specs, a checkpoint and an array in each format, in an empty folder. What a mutation starts from works as it is."""
    rng = np.random.default_rng(0)
    mask = (rng.random((SIZE, SIZE)) < 0.6).astype(np.float32)
    images = rng.random((6, 1, SIZE, SIZE), np.float32)
    for name, array in {"mask": mask, "train_y": images * mask, "test_y": images[:2] * mask, "test_x": images[:2]}.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "kspace.npy", (rng.random((4, SIZE, SIZE)) + 1j).astype(np.complex64))
    for number, spec in enumerate(_specs()):
        (folder / f"spec-{number}.yaml").write_text(yaml.safe_dump(spec))
    if _run(["train", str(folder / "spec-0.yaml"), "-o", str(folder / "run"), "-q"])[0] != 0:
        raise RuntimeError("the seed does not train")
    _arrays(folder, (images[:2] * mask)[:, 0])


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


def _arrays(folder: Path, y: np.ndarray) -> None:
    import h5py
    import scipy.io
    import zarr
    from PIL import Image

    from es_cli.data.writers import write_array

    whole = y[:, None]
    for suffix in (".npy", ".nii", ".nii.gz", ".cfl", ".tif"):
        write_array(folder / f"y{suffix}", y)
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
    model, out = seeds / "run" / "model.safetensors", str(folder / "out.npy")
    if kind == "spec":
        for name in ("mask", "train_y", "test_y", "test_x", "kspace"):
            os.link(seeds / f"{name}.npy", folder / f"{name}.npy")
        (folder / "spec.yaml").write_bytes(_spec(random, (seeds / f"spec-{random.randrange(3)}.yaml").read_text()))
        return ["train", str(folder / "spec.yaml"), "training.steps=1", "training.epochs=null", "training.preview=false", "-o", str(folder / "run"), "--device", "cpu"]
    if kind == "checkpoint":
        (folder / "m.safetensors").write_bytes(_checkpoint(random, model.read_bytes()))
        return random.choice([["info", str(folder / "m.safetensors")], ["reconstruct", "--ckpt", str(folder / "m.safetensors"), str(seeds / "test_y.npy"), "-o", out, "--device", "cpu"]])
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
    return ["reconstruct", "--ckpt", str(model), str(source), "-o", out, "--device", "cpu"]


def _spec(random: Random, text: str) -> bytes:
    if random.random() < 0.25:
        return _bytes(random, text.encode())
    value = yaml.safe_load(text)
    for _ in range(random.randint(1, 3)):
        _change(random, value)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


def _checkpoint(random: Random, raw: bytes) -> bytes:
    if random.random() < 0.3:
        return _bytes(random, raw)
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    described = json.loads(header["__metadata__"]["es"])
    for _ in range(random.randint(1, 3)):
        _change(random, header if random.random() < 0.2 else described)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["es"] = json.dumps(described)
    made = json.dumps(header).encode()
    return struct.pack("<Q", len(made)) + made + raw[8 + length :]


def _change(random: Random, value: Any) -> None:
    """Replace, leave out, add or copy something somewhere in nested mappings and lists."""
    places = list(_places(value))
    if not places:
        return
    holder, key = random.choice(places)
    kind = random.randrange(5)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice(["name", "file", "key", "weight", "x", f"{key}s", "params", "train", "group"])] = random.choice(SCALARS)
    elif kind == 2 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * random.choice([-1, 0, 2, 100, 10**6, 0.5])
    elif kind == 3:
        other, name = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif kind == 4 and key == "name":
        holder[key] = random.choice(_names())
    else:
        holder[key] = json.loads(json.dumps(random.choice(SCALARS)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _names() -> list[str]:
    from es_cli import catalog

    held = json.loads((Path(catalog.__file__).parent / "catalog.json").read_text())["entries"]
    return sorted({str(entry["name"]) for entry in held})


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


def run(arguments: list[str]) -> Outcome:
    """One command in this process, judged. Memory is what Linux says the process took at most."""
    _forget_peak()
    start = time.perf_counter()
    code, text = _run(arguments)
    seconds, peak = time.perf_counter() - start, _peak()
    lines = text.splitlines()
    faults = {
        f"exit code {code}": code not in CODES, "traceback": "Traceback" in text, f"{len(lines)} lines": len(lines) > LINES, "too slow": seconds > SECONDS,
        "too much memory": peak > BYTES,
    }  # fmt: skip
    return Outcome(code, seconds, peak, text, ", ".join(name for name, found in faults.items() if found))


def _run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error, with what libraries in C write there."""
    from es_cli.cli.app import app

    with _captured() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            app(arguments, prog_name="es")
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        except BaseException as error:
            code = 1
            sys.stderr.write(f"Traceback: {type(error).__name__}: {error}\n")
    return code, said()


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    import tempfile

    with tempfile.TemporaryFile() as errors, open(os.devnull, "w") as nowhere:
        kept, streams = os.dup(2), (sys.stdout, sys.stderr)
        os.dup2(errors.fileno(), 2)
        sys.stdout, sys.stderr = nowhere, io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), errors="backslashreplace", write_through=True)

        def said() -> str:
            errors.seek(0)
            return errors.read().decode(errors="replace")

        held: list[str] = []
        try:
            yield lambda: held[0] if held else ""
        finally:
            sys.stderr.flush()
            held.append(said())
            sys.stderr.close()
            sys.stdout, sys.stderr = streams
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def confined(extra: int = BYTES) -> Iterator[None]:
    """A machine of little memory: this process gets no more than `extra` bytes beside what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
