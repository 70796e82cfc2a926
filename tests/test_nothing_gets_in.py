"""Nothing is unpickled, nothing is fetched, and what is sent to others says nothing of people, users or machines."""

from __future__ import annotations

import ast
import getpass
import io
import json
import pickle
import re
import shutil
import socket
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
import zarr
from problems import es, network, train_in, write_spec
from pydicom.dataset import FileDataset, FileMetaDataset

import es_cli
from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.data.files import ARRAYS, PICTURES
from es_cli.data.readers import open_array, read_geometry, read_npy_stream
from es_cli.data.stacks import open_stack
from es_cli.errors import EsError
from es_cli.networks.weights import read_state_dict
from es_cli.spec.schema import Source

PACKAGE = Path(es_cli.__file__).parent
UNPICKLERS = re.compile(r"(^|\.)(cPickle|_?pickle|dill|cloudpickle|joblib|shelve|marshal)($|\.)|\.(read_pickle|fromstring|unsafe_load|full_load)$")

# the other processes of a training on this machine, and a free port there for them to meet at
OF_A_TRAINING = {("training/launching.py", "subprocess.Popen"), ("training/launching.py", "socket.socket")}


def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node.func)}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def given(call: ast.Call, name: str, value: bool) -> bool:
    return any(one.arg == name and isinstance(one.value, ast.Constant) and one.value.value is value for one in call.keywords)


def test_no_module_imports_what_unpickles() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path.name}:{node.lineno}: {name}" for name in names if UNPICKLERS.search(name)]
    assert not wrong


def test_no_call_unpickles() -> None:
    wrong = []
    for where, call in calls():
        name = where.rpartition(" ")[2]
        loads = {"torch.load": given(call, "weights_only", True), "np.load": given(call, "allow_pickle", False), "numpy.load": given(call, "allow_pickle", False)}
        unsafe = name in {"yaml.load", "yaml.load_all", "torch.hub.load", "torch.hub.load_state_dict_from_url", "importlib.__import__", "__import__", "os.system"}
        if not loads.get(name, True) or unsafe or UNPICKLERS.search(name) or given(call, "allow_pickle", True) or given(call, "weights_only", False):
            wrong.append(where)
        if name.startswith("yaml.") and any(one.arg == "Loader" and ast.unparse(one.value) != "yaml.SafeLoader" for one in call.keywords):
            wrong.append(where)
        reaches = name.startswith(("subprocess.", "urllib.", "requests.", "http.", "socket.")) and (where.partition(":")[0], name) not in OF_A_TRAINING
        if reaches or given(call, "shell", True):
            wrong.append(where)
    assert not wrong, "\n".join(wrong)


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.mark, "w"))


@pytest.fixture
def mark(tmp_path: Path):
    path = tmp_path / "went-off"
    yield path
    assert not path.exists()


def pickles(mark: Path) -> dict[str, bytes]:
    """The bomb in each wrapping that somebody loads."""
    bare = pickle.dumps(Bomb(mark))
    by_torch, by_numpy, in_npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": Bomb(mark)}, by_torch)
    np.save(by_numpy, np.array([Bomb(mark)], object), allow_pickle=True)
    with zipfile.ZipFile(in_npz, "w") as archive:
        archive.writestr("a.npy", by_numpy.getvalue())
    return {"bare": bare, "old": pickle.dumps(Bomb(mark), protocol=0), "torch": by_torch.getvalue(), "numpy": by_numpy.getvalue(), "npz": in_npz.getvalue()}


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    for number, name in enumerate(("bare", "old")):
        pickle.loads(pickles(tmp_path / str(number))[name]).close()
        assert (tmp_path / str(number)).exists()


@pytest.mark.parametrize("suffix", [*ARRAYS, *PICTURES])
@pytest.mark.parametrize("kind", ["bare", "old", "torch", "numpy", "npz"])
def test_no_reader_unpickles(tmp_path: Path, mark: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickles(mark)[kind])
    (tmp_path / "a.hdr").write_bytes(pickles(mark)[kind])
    looks: list[Callable[[], object]] = [
        lambda: open_array(path), lambda: open_stack(Source(file=str(path)), pictures=True, seed=0).read([0]),
        lambda: open_array(path, "a"),
    ]  # fmt: skip
    for look in looks:
        with pytest.raises(EsError):
            look()
    with suppress(EsError):  # of formats that have none, there is none
        read_geometry(path)


@pytest.mark.parametrize("kind", ["bare", "old", "torch", "numpy", "npz"])
def test_no_other_door_unpickles(tmp_path: Path, mark: Path, kind: str) -> None:
    content = pickles(mark)[kind]
    for name in ("a.safetensors", "a.pth", "a.pt", "a.ckpt", "a.bin"):
        (tmp_path / name).write_bytes(content)
        for load in (load_checkpoint, read_state_dict):
            with pytest.raises(EsError):
                load(tmp_path / name)
    with pytest.raises(EsError):
        load_spec(tmp_path / "a.pth")
    with pytest.raises(EsError):
        list(read_npy_stream(io.BytesIO(content)))


def test_no_command_unpickles(inpainting: Path, mark: Path, capfd) -> None:
    folder = inpainting.parent
    run = folder / "run"
    model = train_in(run, load_spec(inpainting, ["training.steps=1"]))
    bomb = pickles(mark)["torch"]
    (folder / "bomb.safetensors").write_bytes(bomb)
    (folder / "bomb.pth").write_bytes(bomb)
    y, ckpt = str(folder / "test_y.npy"), str(folder / "bomb.safetensors")
    assert es(["reconstruct", "--ckpt", ckpt, y]) == es(["evaluate", "--ckpt", ckpt]) == es(["info", ckpt]) == 4
    assert es(["train", str(inpainting), "--init-from", ckpt, "-o", str(folder / "b")]) == 4
    assert es(["train", str(inpainting), f"model.backbone_net.weights={folder / 'bomb.pth'}", "-o", str(folder / "c")]) in {2, 3}
    assert es(["train", str(inpainting), f"physics.mask={{file: {folder / 'bomb.pth'}}}", "-o", str(folder / "d")]) == 3
    assert es(["reconstruct", "--ckpt", str(model), y, "--param", f"mask={folder / 'bomb.pth'}", "-o", str(folder / "x.npy")]) == 3
    for state in (path for path in run.rglob("*.safetensors") if path != model):
        state.write_bytes(bomb)
    assert es(["train", "--resume", str(run)]) == 4
    assert "Traceback" not in capfd.readouterr().err


def test_text_in_hdf5_is_not_unpickled(tmp_path: Path, mark: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"] = np.ones((2, 4, 4))
        file["y"].attrs["axes"] = np.void(pickles(mark)["bare"])
        file["subject"] = [pickles(mark)["old"].decode("latin-1")] * 2
    open_stack(Source(file=str(tmp_path / "a.h5"), key="y"), pictures=False, seed=0)
    read_geometry(tmp_path / "a.h5", "y")


OFFLINE = """
import socket, sys
def refuse(*address, **_):
    raise AssertionError(f"the network was reached for: {address}")
for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
from es_cli.cli.app import app
for arguments in (["train", "spec.yaml", "-o", "run"], ["evaluate", "--ckpt", "run/model.safetensors"], ["info", "run/model.safetensors"],
                  ["reconstruct", "--ckpt", "run/model.safetensors", "test_y.npy", "-o", "x.npy"], ["train", "--resume", "run"], ["check", "spec.yaml"],
                  ["list"], ["init", "--from", "train_y.npy", "-o", "new.yaml"], ["init", "mri"],
                  ["simulate", "spec.yaml", "--images", "test_x.npy", "-o", "simulated", "physics.mask=0.6"]):
    try:
        app(arguments, prog_name="es")
    except SystemExit as stopped:
        assert not stopped.code or (arguments[0], stopped.code) == ("check", 6), (arguments, stopped.code)
"""


def test_no_command_reaches_for_the_network(python, inpainting: Path) -> None:
    done = python(OFFLINE)
    assert done.returncode == 0, done.stderr.decode()
    assert all((inpainting.parent / name).exists() for name in ("x.npy", "new.yaml", "simulated"))


SECRETS = {"PatientName": "Secretname^Ada", "PatientID": "SECRETPID", "InstitutionName": "SECRETPLACE", "PatientBirthDate": "19010203", "StudyDescription": "SECRETSTUDY",
           "OperatorsName": "Secretnurse", "AccessionNumber": "SECRETACC", "DeviceSerialNumber": "SECRETSER"}  # fmt: skip


def scan(path: Path, values: np.ndarray, number: int) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
    held = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    held.Rows, held.Columns = values.shape
    held.BitsAllocated = held.BitsStored = 16
    held.HighBit, held.PixelRepresentation, held.SamplesPerPixel, held.PhotometricInterpretation = 15, 0, 1, "MONOCHROME2"
    held.SeriesInstanceUID, held.InstanceNumber, held.ImagePositionPatient = "1.2.3.777", number, [0, 0, number]
    held.ImageOrientationPatient, held.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
    held.PixelData = values.astype("<u2").tobytes()
    for name, value in SECRETS.items():
        setattr(held, name, value)
    held.save_as(path)


def test_what_is_sent_to_others_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Checkpoint, results, metrics, pictures and environment of a training on DICOM. The run's spec.yaml alone says where the data lie."""
    folder = tmp_path / "SECRETFOLDER" / "scans"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        scan(folder / f"SECRETFILE-{number}.dcm", rng.integers(0, 900, (16, 16)), number)
    spec = write_spec(
        tmp_path / "SECRETFOLDER" / "spec.yaml", physics={"name": "Denoising", "noise_model": {"name": "GaussianNoise", "sigma": 5.0}},
        data={"train": {"measurements": "scans"}}, losses=["SureGaussianLoss"], mask_generator=None, transforms={"group": "trivial"},
        model={"name": "ArtifactRemoval", "backbone_net": network(1)},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "SECRETUSER")
    monkeypatch.setattr(getpass, "getuser", lambda: "SECRETUSER")
    monkeypatch.setattr(socket, "gethostname", lambda: "SECRETHOST")
    arguments = ["training.steps=2", "training.validate_every=1", "training.preview=true", "training.ema=null", "losses.0={name: SureGaussianLoss, sigma: 5.0}"]
    assert es(["train", str(spec), *arguments, "-o", "run"]) == 0
    for name in ("x.nii", "x.h5", "x.tif", "x.npy", "x.npz"):
        assert es(["reconstruct", "--ckpt", "run/model.safetensors", str(folder), "-o", name]) == 0
    shutil.copy("run/model.safetensors", "model.safetensors")
    assert es(["info", "model.safetensors", "--json"]) == 0
    said = capfd.readouterr().out.splitlines()
    described = json.loads("\n".join(said[said.index("{") :]))
    assert described["spec"].get("data") is None
    marks = [b"ecret", b"ECRET", b"19010203", str(tmp_path).encode(), b"SECRETHOST", *(value.encode() for value in SECRETS.values())]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "SECRETFOLDER" not in path.parts]
    assert {"model.safetensors", "x.nii", "x.h5", "metrics.jsonl", "environment.json"} <= {path.name for path in written}
    for path in written:
        found = [mark for mark in marks if mark in path.read_bytes()]
        assert not found or path.name == "spec.yaml", f"{path.relative_to(tmp_path)} holds {found}"
    assert not any(value.encode() in (tmp_path / "run" / "spec.yaml").read_bytes() for value in SECRETS.values())
    keep_identifiers(folder)


def keep_identifiers(folder: Path) -> None:
    """Where they are asked for, and nowhere else."""
    reconstruct = ["reconstruct", "--ckpt", "run/model.safetensors", "--keep-identifiers", "--float"]
    for name in ("k.nii", "k.nii.gz", "k.h5", "k.zarr"):
        assert es([*reconstruct, str(folder), "-o", name]) == 0
        held = kept_in(Path(name))
        assert {key: held[key] for key in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")} == {
            key: SECRETS[key] for key in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
        }
        assert not {"OperatorsName", "DeviceSerialNumber"} & held.keys()
        assert np.array_equal(open_array(Path(name)), open_array(Path("x.npy"))) and read_geometry(Path(name)) is not None
    for refused, code in ((["-o", "k.npy"], 2), ([], 2), (["-o", "-"], 2)):
        assert es([*reconstruct, str(folder), *refused]) == code
    assert es([*reconstruct, "x.npy", "-o", "again.h5"]) == 3 and not Path("again.h5").exists()


def kept_in(path: Path) -> dict[str, str]:
    if ".nii" in path.name:
        (comment,) = nibabel.load(path).header.extensions
        return json.loads(comment.get_content())
    if path.suffix == ".zarr":
        return json.loads(zarr.open_array(path, mode="r").attrs["identifiers"])
    with h5py.File(path) as file:
        return json.loads(file["reconstruction"].attrs["identifiers"])
