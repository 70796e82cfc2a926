"""Files with agreed names: fastMRI's volumes and deepinv's own data sets need no key, and where one is needed they say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepinv
import h5py
import numpy as np
import pytest
import torch

from es_cli.data.conventions import parameter_keys
from es_cli.data.readers import array_header, open_array
from es_cli.data.stacks import JoinedStack, Stack, open_stack
from es_cli.errors import DataError
from es_cli.spec.schema import Source

RNG = np.random.default_rng(9)


def opened(file: Path | str, pictures: bool = False, part: str | None = None, **options: Any) -> Stack:
    return open_stack(Source.model_validate({"file": str(file), **options}), pictures=pictures, seed=0, part=part)


def fastmri(path: Path, *shape: int, images: tuple[str, ...] = ("reconstruction_rss",)) -> dict[str, np.ndarray]:
    """A file as fastMRI has them: k-space, its root of sums of squares, a header in XML, and whose it is as an attribute."""
    held = {"kspace": (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)}
    held |= {name: RNG.random((shape[0], 4, 4)).astype(np.float32) for name in images}
    with h5py.File(path, "w") as file:
        for name, array in held.items():
            file[name] = array
        file["ismrmrd_header"] = "<?xml version='1.0'?>"
        file.attrs["patient_id"] = "0cd1"
    return held


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 2, 8, 6)])
def test_one_volume_of_fastmri(tmp_path: Path, shape: tuple[int, ...]) -> None:
    held = fastmri(tmp_path / "a.h5", *shape)
    np.testing.assert_array_equal(open_array(tmp_path / "a.h5"), held["kspace"])
    assert array_header(tmp_path / "a.h5") == (shape, np.dtype(np.complex64))
    np.testing.assert_array_equal(opened(tmp_path / "a.h5").read([2, 0]), held["kspace"][[2, 0]])
    np.testing.assert_array_equal(opened(tmp_path / "a.h5", pictures=True).read([1]), held["reconstruction_rss"][1:2])
    np.testing.assert_array_equal(opened(tmp_path / "a.h5", key="reconstruction_rss").read([1]), held["reconstruction_rss"][1:2])


def test_images_of_one_coil_come_before_sums_of_squares(tmp_path: Path) -> None:
    held = fastmri(tmp_path / "a.h5", 3, 8, 6, images=("reconstruction_rss", "reconstruction_esc"))
    np.testing.assert_array_equal(opened(tmp_path / "a.h5", pictures=True).read([0]), held["reconstruction_esc"][:1])


def test_a_folder_of_fastmri(tmp_path: Path) -> None:
    held = [fastmri(tmp_path / f"{name}.h5", n, 2, 8, 6) for name, n in [("a", 3), ("b", 1), ("c", 2)]]
    for pictures, key in [(False, "kspace"), (True, "reconstruction_rss")]:
        stack = opened(tmp_path, pictures)
        assert isinstance(stack, JoinedStack) and len(stack) == 6
        assert stack.groups is not None and stack.groups.tolist() == [0, 0, 0, 1, 2, 2]
        np.testing.assert_array_equal(stack.read([5, 3, 0]), np.stack([held[2][key][1], held[1][key][0], held[0][key][0]]))
    cropped = opened(tmp_path, True, crop=2)
    assert cropped.sample_shape == (1, 2, 2) and cropped.groups is not None and cropped.groups.tolist() == [0, 0, 0, 1, 2, 2]


def test_volumes_of_fastmri_that_differ(tmp_path: Path) -> None:
    fastmri(tmp_path / "a.h5", 3, 8, 6)
    fastmri(tmp_path / "b.h5", 3, 8, 5)
    stack = opened(tmp_path)
    assert stack.shapes == [(8, 6)] * 3 + [(8, 5)] * 3
    assert stack.read([5, 3]).shape == (2, 8, 5) and stack.read([0]).shape == (1, 8, 6)
    with pytest.raises(DataError, match=r"b.h5\[0\]: the samples have 2 shapes: 3 of \(8, 6\) \(a.h5\[0\], …\), 3 of \(8, 5\)"):
        stack.read([0, 3])


def test_volumes_of_fastmri_whose_images_are_not_public(tmp_path: Path) -> None:
    fastmri(tmp_path / "a.h5", 3, 8, 6, images=())
    assert len(opened(tmp_path / "a.h5")) == 3
    with pytest.raises(DataError, match="holds no images"):
        opened(tmp_path / "a.h5", pictures=True)


class Pictures(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, count: int, seed: int) -> None:
        self.held = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.held[index]


def deepinv_set(folder: Path, **parts: Any) -> Path:
    """A data set as deepinv writes it, with a mask for each sample."""
    physics = deepinv.physics.Inpainting((1, 6, 6), mask=0.5)
    generator = deepinv.physics.generator.BernoulliSplittingMaskGenerator((1, 6, 6), split_ratio=0.5)
    made = deepinv.datasets.generate_dataset(
        parts.pop("train", None), physics, str(folder), physics_generator=generator, verbose=False, **{f"{name}_dataset": data for name, data in parts.items()}
    )
    return Path(str(made))


def test_parts_of_a_set_of_deepinv(tmp_path: Path) -> None:
    path = deepinv_set(tmp_path, train=Pictures(5, 0), test=Pictures(3, 1), val=Pictures(2, 2))
    for part, name, count in [("train", "train", 5), ("test", "test", 3), ("validation", "val", 2)]:
        library = deepinv.datasets.HDF5Dataset(str(path), split=name, load_physics_generator_params=True)
        y, x = opened(path, part=part), opened(path, pictures=True, part=part)
        keys = parameter_keys(path, f"y_{name}")
        assert len(y) == len(x) == count and keys == {"mask": f"mask_{name}"}
        masks = opened(path, key=keys["mask"])
        for i in range(count):
            theirs = library[i]
            for ours, wanted in [(x, theirs[0]), (y, theirs[1]), (masks, theirs[2]["mask"])]:
                np.testing.assert_array_equal(ours.read([i])[0], wanted.numpy())
        library.close()


def test_a_set_of_deepinv_with_several_parts_is_not_guessed(tmp_path: Path) -> None:
    path = deepinv_set(tmp_path, train=Pictures(2, 0), test=Pictures(2, 1))
    for pictures, key in [(False, "y_train"), (True, "x_train")]:
        with pytest.raises(DataError, match="several parts") as caught:
            opened(path, pictures)
        assert f"key: {key}}}" in caught.value.fault.hint and "y_test" in caught.value.fault.hint
    with pytest.raises(DataError, match="several parts"):
        open_array(path)
    with pytest.raises(DataError, match="no part for validation"):
        opened(path, part="validation")
    assert open_array(path, "y_test").shape == (2, 1, 6, 6)


def test_a_set_of_deepinv_with_one_part(tmp_path: Path) -> None:
    path = deepinv_set(tmp_path, test=Pictures(2, 1))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(open_array(path), file["y_test"][()])
    assert parameter_keys(path, "x_test") == {} and parameter_keys(tmp_path / "y.npy", "y_test") == {}


def test_sets_of_several_operators(tmp_path: Path) -> None:
    for folder in "ab":
        deepinv_set(tmp_path / folder, train=Pictures(3, 0))
    stack = opened(tmp_path / "*" / "*.h5", part="train")
    assert stack.sample_shape == (1, 6, 6) and stack.groups is not None and stack.groups.tolist() == [0, 0, 0, 1, 1, 1]


def test_other_files_keep_their_rules(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = file["y"] = np.zeros((2, 3, 4))
    with pytest.raises(DataError, match="kspace, y"):
        open_array(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["y"] = np.ones((2, 3, 4))
    assert opened(tmp_path / "b.h5", part="test").sample_shape == (3, 4)
