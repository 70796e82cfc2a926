"""Checkpoints that people send each other: what they claim is checked before it is believed, and nothing is fetched or run for them."""

from __future__ import annotations

import json
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import es, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.checkpoint import load_checkpoint
from es_cli.data.tensors import HEADER_LIMIT
from es_cli.errors import CheckpointError, DataError
from es_cli.networks.weights import read_state_dict
from es_cli.reconstruct import Reconstructor

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A small checkpoint of es."""
    folder = tmp_path_factory.mktemp("trained")
    np.save(folder / "mask.npy", np.eye(16, dtype=np.float32) + np.eye(16, k=1, dtype=np.float32))
    np.save(folder / "train_y.npy", np.load(folder / "mask.npy") * np.random.default_rng(0).random((8, 1, 16, 16), np.float32))
    spec = write_spec(folder / "spec.yaml", data={"train": {"measurements": "train_y.npy"}})
    return train_in(folder / "run", load_spec(spec, ["training.steps=1"])).read_bytes()


def parts_of(raw: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(raw: bytes, change: Change) -> bytes:
    header, body = parts_of(raw)
    text = change(header) or json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + body


def with_description(raw: bytes, change: Change) -> bytes:
    def rewrite(header: dict[str, Any]) -> None:
        described = json.loads(header["__metadata__"]["es"])
        change(described)
        header["__metadata__"]["es"] = json.dumps(described)

    return with_header(raw, rewrite)


def refused(path: Path, content: bytes, word: str) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=word):
            Reconstructor.load(path, "cpu")
        assert tracemalloc.get_traced_memory()[1] < 3 * HEADER_LIMIT
    finally:
        tracemalloc.stop()


def first(header: dict[str, Any]) -> str:
    return next(key for key in header if key.startswith("model."))


def doubled(header: dict[str, Any]) -> str:
    key = first(header)
    return f"{json.dumps(header)[:-1]}, {json.dumps(key)}: {json.dumps(header[key])}}}"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda h: h[first(h)].update(shape=[10**6, 10**6, 10]), "not a whole"), (lambda h: h[first(h)].update(data_offsets=[0, 10**15]), "not a whole"),
        (lambda h: h[first(h)].update(shape=[-1, -1]), "not a whole"), (lambda h: h[first(h)].update(dtype="PICKLE"), "not a whole"),
        (lambda h: h.update({"evil": h.pop(first(h))}), "none of es"), (lambda h: h["__metadata__"].update(other="x" * HEADER_LIMIT), "bytes of header"),
        (doubled, "stands twice"), (lambda h: "[" * 100_000, "not a whole"), (lambda h: h["__metadata__"].update(es="[" * 100_000), "cannot be read"),
        (lambda h: h["__metadata__"].update(es=h["__metadata__"]["es"][:-1] + ', "scale": 2}'), "stands twice"),
        (lambda h: h["__metadata__"].update(es=h["__metadata__"]["es"].replace('"none"', "NaN")), "cannot be read"),
        (lambda h: h["__metadata__"].update(es=h["__metadata__"]["es"].replace('"format":3', '"format":' + "9" * 5000)), "cannot be read"),
    ],
)  # fmt: skip
def test_headers(whole: bytes, tmp_path: Path, change: Change, word: str) -> None:
    refused(tmp_path / "m.safetensors", with_header(whole, change), word)


@pytest.mark.parametrize("content", [b"", struct.pack("<Q", 2**63), b"\x80\x04cos\nsystem\n."])
def test_what_is_no_header(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path / "m.safetensors", content, "not a whole")


def test_tensors_of_another_type_than_the_network_has(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("es_cli.checkpoint._fingerprint", lambda tensors: parts_of(whole)[0]["__metadata__"]["es"].split('"fingerprint":"')[1][:64])
    refused(tmp_path / "m.safetensors", with_header(whole, lambda h: h[first(h)].update(dtype="I32")), "of another type")


def network(change: Change) -> Change:
    return lambda described: change(described["spec"]["model"]["backbone_net"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (network(lambda n: n.update(channels_per_scale=[64, 128, 256, 512, 1024, 2048, 4096])), "far larger"),
        (network(lambda n: n.update(channels_per_scale=[10**4, 10**4])), "far larger"), (network(lambda n: n.update(in_channels=10**9)), "more than any network or solver takes"),
        (lambda d: d["spec"]["model"].update(backbone_net={"name": "DnCNN", "depth": 10**3, "in_channels": 1, "out_channels": 1}), "do not fit its network"),
        (lambda d: d["spec"]["model"].update(backbone_net={"name": "DnCNN", "depth": 10**7, "in_channels": 1, "out_channels": 1}), "more than any network or solver takes"),
        (lambda d: d["measurement"].update(image_shape=[1, 10**5, 10**5]), "image_shape"), (lambda d: d["measurement"].update(sizes=[[1, 10**5, 10**5]]), "sizes"),
        (lambda d: d["spec"]["test"].update(splits=10**9), "network calls"), (lambda d: d.update(format=True), "cannot be read"),
        (lambda d: d.update(format=-1), "cannot be read"), (lambda d: d["spec"].update(name="../../x"), "cannot name a folder"),
    ],
)  # fmt: skip
def test_sizes_that_the_file_does_not_fill(whole: bytes, tmp_path: Path, change: Change, word: str) -> None:
    refused(tmp_path / "m.safetensors", with_description(whole, change), word)


@pytest.mark.parametrize("pretrained", [{}, {"pretrained": "download"}])
def test_a_checkpoint_fetches_nothing(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: dict[str, str]) -> None:
    reached: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: reached.append(address) or [])
    part = {"name": "DnCNN", "in_channels": 1, "out_channels": 1, **pretrained}
    refused(tmp_path / "m.safetensors", with_description(whole, lambda d: d["spec"]["model"].update(backbone_net=part)), "do not fit its network")
    assert not reached


def test_a_network_of_the_size_of_its_file_is_built(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(whole)
    assert Reconstructor.load(tmp_path / "m.safetensors", "cpu").made.network is not None
    assert all(value.dtype in {torch.float32, torch.int64} for value in load_checkpoint(tmp_path / "m.safetensors").tensors.values())


def test_foreign_weights_with_a_header_without_end(tmp_path: Path) -> None:
    text = b"{" + b" " * HEADER_LIMIT
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(DataError, match="bytes of header"):
        read_state_dict(tmp_path / "w.safetensors")


def test_info_of_a_hostile_description_stays_on_its_lines(whole: bytes, tmp_path: Path, capfd) -> None:
    (tmp_path / "m.safetensors").write_bytes(with_description(whole, lambda d: d.update(versions={"\x1b[31m\nexit code 0": "x" * 10_000})))
    assert es(["info", str(tmp_path / "m.safetensors")]) == 0
    out, _ = capfd.readouterr()
    assert "\x1b" not in out and len(out.splitlines()) < 40
