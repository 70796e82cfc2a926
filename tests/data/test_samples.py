"""The pictures that ship with es's dependencies."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from es_cli.data.samples import PARTS, pictures
from es_cli.data.stacks import open_stack
from es_cli.errors import DataError
from es_cli.spec.schema import Source

NAMES = ["photo", "terrain", "brain"]


@pytest.mark.parametrize("name", NAMES)
def test_range_and_shape(name: str) -> None:
    (whole,) = pictures(name, None)
    assert whole.dtype == np.float32
    assert whole.shape[0] == (3 if name == "photo" else 1)
    assert whole.min() >= 0 and 0.9 < whole.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_disjoint_regions_of_the_whole(name: str) -> None:
    (whole,), (train,), (test,) = pictures(name, None), pictures(name, "train"), pictures(name, "test")
    axis = next(i for i in (1, 2) if train.shape[i] != whole.shape[i])
    assert train.shape[axis] + test.shape[axis] <= whole.shape[axis]
    np.testing.assert_array_equal(train, whole.take(range(train.shape[axis]), axis))
    start = int(PARTS["test"][0] * whole.shape[axis])
    assert start >= train.shape[axis]
    np.testing.assert_array_equal(test, whole.take(range(start, whole.shape[axis]), axis))
    assert min(test.shape[1:]) >= 64


@pytest.mark.parametrize("name", NAMES)
def test_as_a_source(name: str) -> None:
    source = Source.model_validate({"sample": name, "part": "train", "crop": 32, "crops_per_image": 7})
    stack = open_stack(source, pictures=True, seed=3)
    assert len(stack) == 7 and tuple(stack.sample_shape[1:]) == (32, 32)
    np.testing.assert_array_equal(stack.read([5]), open_stack(source, pictures=True, seed=3).read([5]))


def test_without_the_files_of_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match="sample pictures"):
        pictures("photo", None)
    (tmp_path / "sample_data").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        pictures("photo", None)
