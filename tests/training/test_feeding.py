"""Batches are the same however they come, and reading ahead ends when training does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from problems import train_in

from es_cli.catalog import load_spec
from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements
from es_cli.data.stacks import ArrayStack
from es_cli.errors import DataError
from es_cli.experiment import build_experiment
from es_cli.training import feeding as module
from es_cli.training.feeding import AHEAD, Ahead, Feed, Kept, feeding, keep

CPU = torch.device("cpu")
SAMPLES, SHAPE = 7, (1, 6, 6)


class Own:
    """A parameter that each sample has of its own, or all share; `at` remembers by which thread it was read."""

    def __init__(self, each):
        self.values = np.random.default_rng(1).random((SAMPLES if each else 1, *SHAPE), np.float32)
        self.each, self.threads = each, []

    def read(self, at, y):
        self.threads.append(threading.current_thread())
        return self.values[at] if self.each else self.values


def data(truth=True, broken=None, each=True):
    rng = np.random.default_rng(0)
    y, x = rng.random((SAMPLES, *SHAPE), np.float32), rng.random((SAMPLES, *SHAPE), np.float32)
    if broken is not None:
        y[broken] = np.nan
    names = [f"sample {i}" for i in range(SAMPLES)]
    layout = Layout(SHAPE, pair=False)
    index = np.array([3, 0, 6, 5, 1, 2])  # a part of the samples, in an order of its own
    return Measurements(ArrayStack(y, names), layout, index, ArrayStack(x, names) if truth else None, layout if truth else None, {"mask": Own(each)})


def equal(one, other):
    (y, x, params), (y2, x2, params2) = one, other
    same_x = x is x2 is None if x is None else torch.equal(x, x2)
    return torch.equal(y, y2) and same_x and params.keys() == params2.keys() and all(torch.equal(params[name], params2[name]) for name in params)


ORDER = {1: [4, 0, 5], 2: [1], 3: [2, 2, 3], 4: [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_kept_and_read_ahead_are_what_is_read(truth, each, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4 * 36 * 4)  # so that several pieces make the whole, and the last is a small one
    direct, kept = data(truth, each=each), Kept(data(truth, each=each), CPU)
    ahead = Ahead(data(truth, each=each), ORDER.__getitem__, 4, CPU)
    for step, positions in ORDER.items():
        wanted = direct.batch(positions)
        assert equal(kept.batch(positions, CPU), wanted) and equal(ahead.get(step), wanted)
    ahead.close()


def test_batches_are_read_ahead_by_another_thread_which_ends():
    asked = []
    source = data()
    ahead = Ahead(source, lambda step: asked.append(step) or ORDER[step], 4, CPU)
    ahead.get(1)
    assert asked == [1, 1 + AHEAD - 1, 1 + AHEAD]
    ahead.settle()
    assert len(source.params["mask"].threads) == 1 + AHEAD
    ahead.get(2)
    ahead.get(3)
    assert asked == [1, 2, 3, 4]  # and none beyond the last
    ahead.close()
    (reader,) = set(source.params["mask"].threads)
    assert reader is not threading.current_thread() and not reader.is_alive()


def test_a_damaged_sample_is_reported_at_its_step():
    ahead = Ahead(data(broken=2), ORDER.__getitem__, 4, CPU)  # sample 2 is the last position
    ahead.settle()
    with pytest.raises(DataError, match="sample 2 holds NaN"):
        ahead.get(1)
    assert ahead.get(2)[0].shape == (1, *SHAPE)
    ahead.close()


def test_only_what_fits_is_kept():
    size = 6 * 3 * 36 * 4  # six samples of y, x and mask
    assert keep(data(), CPU, room=size) is not None and keep(data(), CPU, room=size - 1) is None
    assert keep(data(truth=False), CPU, room=size - 1) is not None


def test_a_cpu_reads_each_batch_when_its_step_begins():
    source = data()
    with feeding(source, source, ORDER.__getitem__, 4, CPU) as feed:
        assert equal(feed.get(3), source.batch(ORDER[3])) and feed.held_out is source
    assert set(source.params["mask"].threads) == {threading.current_thread()}


@pytest.mark.parametrize("room", [0, 1 << 40], ids=["read ahead", "kept"])
def test_on_a_gpu_data_are_kept_where_they_fit_and_read_ahead_where_not(room, monkeypatch):
    """As a GPU is treated, on fake tensors: what comes out lies there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (room, room))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode(allow_non_fake_inputs=True), feeding(data(), data(), ORDER.__getitem__, 4, device) as feed:
        y, x, params = feed.get(1)
        assert {one.device.type for one in (y, x, params["mask"])} == {"cuda"} and y.shape == x.shape == (3, *SHAPE)
        assert isinstance(feed.held_out, Kept if room else Measurements)


@pytest.mark.parametrize("way", ["kept", "read ahead"])
def test_a_run_has_the_same_bytes_whichever_way_its_data_come(way, inpainting, monkeypatch):
    from contextlib import contextmanager

    from es_cli.training import loop

    @contextmanager
    def forced(train, held_out, positions, last, device):
        if way == "kept":
            kept = Kept(train, device)
            yield Feed(lambda step: kept.batch(positions(step), device), Kept(held_out, device))
            return
        ahead = Ahead(train, positions, last, device)
        yield Feed(ahead.get, held_out, ahead.settle)
        ahead.close()

    spec = load_spec(inpainting, ["training.steps=11", "data.scale=per-sample"])
    plain = train_in(inpainting.parent / "plain", spec).read_bytes()
    monkeypatch.setattr(loop, "feeding", forced)
    assert train_in(inpainting.parent / "other", spec).read_bytes() == plain


def test_samples_with_masks_of_their_own_are_the_same_too(inpainting):
    np.save(inpainting.parent / "masks.npy", np.repeat(np.load(inpainting.parent / "mask.npy")[None], 20, 0))
    spec = load_spec(inpainting, ["data.train.params={mask: masks.npy}"])
    source = build_experiment(spec, CPU).train
    assert equal(Kept(source, CPU).batch([5, 2], CPU), source.batch([5, 2]))
    own = build_experiment(load_spec(inpainting, ["data.train.params={mask: from-data}"]), CPU).train
    assert equal(Kept(own, CPU).batch([5, 2], CPU), own.batch([5, 2]))


@pytest.mark.cuda
@pytest.mark.parametrize("share", [0.25, 0.0], ids=["kept", "read ahead"])
def test_batches_on_cuda_are_those_of_the_cpu(share, monkeypatch):
    monkeypatch.setattr(module, "SHARE", share)
    source, device = data(), torch.device("cuda")
    with feeding(source, source, ORDER.__getitem__, 4, device) as feed:
        for step, positions in ORDER.items():
            y, x, params = feed.get(step)
            assert y.is_cuda and equal((y.cpu(), x.cpu(), {name: value.cpu() for name, value in params.items()}), source.batch(positions))
