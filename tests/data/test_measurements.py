"""The data set: batches with the parameters of their own samples, and what is held out."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from es_cli.data.layout import Layout
from es_cli.data.measurements import Measurements, WholeArray, hold_out
from es_cli.data.parameters import OwnZeros, Parameter, open_parameter
from es_cli.data.stacks import ArrayStack, open_stack
from es_cli.errors import DataError
from es_cli.spec.component import ArrayFile
from es_cli.spec.schema import Source

COUNT = 10
LAYOUT = Layout((1, 8, 8), pair=False)


@pytest.fixture
def data(tmp_path: Path) -> Measurements:
    """Ten samples; sample i is i + 1 everywhere its mask is 1, and its sigma is i + 1."""
    masks = np.random.default_rng(0).random((COUNT, 8, 8)) < 0.5
    number = np.arange(1, COUNT + 1, dtype=np.float32)
    np.save(tmp_path / "masks.npy", masks)
    np.save(tmp_path / "sigma.npy", number)
    names = [str(i) for i in range(COUNT)]
    y = ArrayStack(masks * number[:, None, None], names)
    params = {
        name: open_parameter(ArrayFile(file=str(tmp_path / file)), Parameter(name, shape), COUNT)
        for name, file, shape in (("mask", "masks.npy", (1, 8, 8)), ("sigma", "sigma.npy", ()))
    }
    return Measurements(y, LAYOUT, np.arange(COUNT), params=params)


def assert_own(data: Measurements, positions: list[int]) -> None:
    y, x, params = data.batch(positions)
    assert x is None and y.shape == (len(positions), 1, 8, 8)
    assert params["sigma"].tolist() == [key + 1 for key in data.keys(positions)]
    assert y.amax((1, 2, 3)).tolist() == params["sigma"].tolist()
    assert (params["mask"] == (y > 0)).all()


def test_a_batch_has_the_parameters_of_its_samples_in_any_order(data):
    assert_own(data, [7, 0, 3, 3])


def test_subsets_and_what_is_held_out_keep_their_parameters(data):
    assert_own(data.subset(np.array([9, 2, 4])), [2, 0])
    train, validation = hold_out(data, 0.3, seed=0)
    assert len(train) == 7 and len(validation) == 3
    assert_own(train, list(range(7)))
    assert_own(validation, [1, 2])
    assert_own(data.without_ground_truth(), [1])


def test_masks_of_a_subset_are_read_off_its_own_measurements(data):
    own = Measurements(data.y, LAYOUT, data.index, params={"mask": OwnZeros(Parameter("mask", (1, 8, 8)), data.y.names)})
    part = own.subset(np.array([6, 1]))
    assert (part.batch([0, 1])[2]["mask"] == data.batch([6, 1])[2]["mask"]).all()


def test_a_parameter_that_all_samples_share_is_read_once(tmp_path, data):
    np.save(tmp_path / "one.npy", np.eye(8))
    stored = open_parameter(ArrayFile(file=str(tmp_path / "one.npy")), Parameter("mask", (1, 8, 8)), COUNT)
    shared = Measurements(data.y, LAYOUT, data.index, params={"mask": stored}).subset(np.array([4, 5, 6]))
    assert shared.batch([0, 2])[2]["mask"].shape == (1, 1, 8, 8)


def test_masks_that_are_larger_than_memory_stay_on_disk(tmp_path):
    count, path = 1 << 18, tmp_path / "masks.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (count, 64, 64), "fortran_order": False, "descr": "<f4"})
        start = file.tell()
        file.truncate(start + 4 * count * 64 * 64)  # sparse: 4 GB that take no room
        file.seek(start + 4 * 200_000 * 64 * 64)
        file.write(np.ones(3, np.float32).tobytes())
    tracemalloc.start()
    stored = open_parameter(ArrayFile(file=str(path)), Parameter("mask", (1, 64, 64)), count)
    read = stored.read(np.array([200_000]), np.empty(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.sum() == 3 and peak < 200 << 20
    with pytest.raises(DataError, match=r"masks\.npy\[7\]: the mask is 0 everywhere"):
        stored.read(np.array([7]), np.empty(0))


def test_one_measurement_is_a_data_set_that_validates_itself(tmp_path):
    np.save(tmp_path / "y.npy", np.ones((8, 8)))
    whole = WholeArray(open_stack(Source(file=str(tmp_path / "y.npy")), pictures=False, seed=0))
    data = Measurements(whole, LAYOUT, np.arange(1))
    train, validation = hold_out(data, 0.1, seed=0)
    assert len(train) == len(validation) == 1
    assert train.batch([0])[0].shape == (1, 1, 8, 8)
