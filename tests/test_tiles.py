from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from operators import physics_part, save_arrays
from problems import network, smooth, train_in, write_spec

from es_cli.building.sizes import of_any_size, sized
from es_cli.catalog import load_spec
from es_cli.errors import DataError
from es_cli.experiment import Scaling
from es_cli.networks.footprint import bytes_at_most
from es_cli.reconstruct import Reconstructor
from es_cli.serving.large import _slices as slices_of
from es_cli.serving.large import cut_of, reconstruct_large
from es_cli.serving.limits import Limits
from es_cli.tiles import RAMP, Grid, Plan, Tiles, _starts, _weights, why_not

DEPTH = 3  # layers of 3 × 3 without pooling: a pixel reaches three others to each side
SMALL = {"name": "DnCNN", "in_channels": 1, "out_channels": 1, "depth": DEPTH, "nf": 4, "pretrained": None}
KERNEL = 1  # pixels that the 3 × 3 blur reaches


def trained(folder: Path, physics: dict, channels: int = 1, **changes) -> Reconstructor:
    """A network that was trained for a step on pictures of 16 × 16."""
    folder.mkdir(exist_ok=True)
    save_arrays(folder)
    np.save(folder / "images.npy", np.repeat(smooth(8, 16)[:, None], channels, 1))
    backbone = {**SMALL, "in_channels": channels, "out_channels": channels}
    spec = write_spec(
        folder / "spec.yaml",
        **{
            "physics": {**physics, "noise_model": {"name": "GaussianNoise", "sigma": 0.01}},
            "data": {"train": {"images": "images.npy"}, "validation": {"images": "images.npy"}, **changes.pop("data", {})},
            "losses": ["SupLoss"], "model": {"name": "ArtifactRemoval", "backbone_net": backbone, "mode": changes.pop("mode", "adjoint")},
            "training": {"steps": 1, "batch_size": 4, "preview": False},
            **changes,
        },
    )  # fmt: skip
    spec_ = load_spec(spec)
    return Reconstructor.load(train_in(folder / "run", spec_), "cpu")


OPERATORS = {
    "Denoising": ({"name": "Denoising"}, 1, DEPTH),
    "Inpainting": ({"name": "Inpainting", "mask": 0.6}, 1, DEPTH),
    "Demosaicing": ({"name": "Demosaicing"}, 3, DEPTH),
    "Blur": ("Blur", 1, DEPTH + KERNEL),
    "Blur-valid": ("Blur-valid", 1, DEPTH + KERNEL),
    "Downsampling": ({"name": "Downsampling", "factor": 2, "filter": "bilinear", "padding": "circular"}, 1, DEPTH + 2),
}


def whole(model: Reconstructor, y: np.ndarray, params: dict, size: tuple[int, int]) -> np.ndarray:
    """The image of a large measurement in one piece."""
    made = model.made
    operator = sized(of_any_size(made.operator), (made.operator.image.shape[0], *size))
    operator = replace(operator, measurement=replace(operator.measurement, free=0), image=replace(operator.image, free=0))
    return replace(made, operator=operator)(torch.from_numpy(y), params={name: torch.from_numpy(value) for name, value in params.items()})[0].numpy()


@pytest.mark.parametrize("name", OPERATORS)
def test_tiles_are_the_whole_image_beyond_what_the_network_sees(tmp_path, name):
    physics, channels, reach = OPERATORS[name]
    physics = physics_part(physics, tmp_path) if isinstance(physics, str) else physics
    model = trained(tmp_path, physics, channels)
    operator = model.made.operator
    grid, size = Grid.of(operator), (80, 100)
    measured = tuple((n - extra) // grid.factor for n, extra in zip(size, grid.extra, strict=True))
    y = np.random.default_rng(0).random((1, operator.measurement.shape[0], *measured), np.float32)
    given = {}
    if name == "Inpainting":
        given = {"mask": "from-data"}
        y *= np.random.default_rng(1).random(y.shape) < 0.6
    slices, _ = slices_of(model, lambda: y, None, "y")
    cut = cut_of(model, slices, 0, given, "y")
    tiles = Tiles(model, measured, cut)
    plan = tiles.plan(1 << 30, side=48)
    assert 0 < plan.reach <= reach + 1 and plan.reach < plan.margin and plan.side in (48, 49, 50)
    bands = list(tiles.bands(plan))
    assert [rows.start for rows, _ in bands][1:] == [rows.stop for rows, _ in bands][:-1] and bands[-1][0].stop == size[0]
    found = np.concatenate([band for _, band in bands], 1)
    _, params = cut(slice(0, measured[0]), slice(0, measured[1]))
    wanted = whole(model, y, params, size)
    # a circular operator goes on at the other side of the image, which a tile does not see
    edge = reach if name in {"Blur", "Downsampling"} else 0
    inner = (slice(None), slice(edge, size[0] - edge), slice(edge, size[1] - edge))
    assert found.shape == wanted.shape and np.abs(found - wanted)[inner].max() < 1e-5
    rough = np.concatenate([band for _, band in tiles.bands(Plan(plan.side, 0, 0))], 1)
    assert np.abs(rough - wanted)[inner].max() > 1e-5  # without a margin the seams are seen


def test_the_reach_that_is_measured_is_that_of_the_network(tmp_path):
    model = trained(tmp_path, {"name": "Denoising"}, test={"group": "trivial"})
    y = np.random.default_rng(0).random((1, 1, 64, 64), np.float32)
    tiles = Tiles(model, (64, 64), lambda rows, columns: (y[..., rows, columns], {}))
    assert tiles.plan(1 << 30, side=32).reach == DEPTH


def test_the_scale_of_a_tile_is_that_of_the_whole_image(tmp_path):
    model = trained(tmp_path, {"name": "Denoising"}, data={"scale": "per-sample"})
    y = np.random.default_rng(0).random((1, 1, 64, 96), np.float32) * np.linspace(0.1, 30, 96, dtype=np.float32)
    tiles = Tiles(model, (64, 96), lambda rows, columns: (y[..., rows, columns], {}))
    assert tiles.scale == pytest.approx(float(Scaling("per-sample").of(torch.from_numpy(y), model.made.operator.physics)), rel=1e-6)
    found = np.concatenate([band for _, band in tiles.bands(tiles.plan(1 << 30, side=48))], 1)
    assert np.abs(found - whole(model, y, {}, (64, 96))).max() < 1e-4 * y.max()


@pytest.mark.parametrize(("length", "size", "overlap"), [(100, 40, 10), (64, 64, 30), (65, 64, 30), (1000, 96, 20), (90, 20, 19)])
def test_tiles_cover_everything_and_count_for_one_together(length, size, overlap):
    starts = _starts(length, size, overlap)
    assert starts[0] == 0 and starts[-1] == length - size
    assert all(after - before <= max(1, size - overlap) for before, after in zip(starts, starts[1:], strict=False))
    total = np.zeros(length)
    for start, weight in zip(starts, _weights(starts, Plan(size, max(0, (overlap - RAMP) // 2), 0), length), strict=True):
        total[start : start + size] += weight
    assert np.allclose(total, 1)


def test_bytes_are_counted_as_long_as_a_tensor_lives():
    def compute():
        x = torch.ones(1000)
        for _ in range(5):
            x = x + 1
        return x

    assert bytes_at_most(compute) == 8000
    assert bytes_at_most(lambda: [torch.ones(1000) for _ in range(5)]) == 20000


def test_less_memory_makes_smaller_tiles_and_too_little_is_refused(tmp_path):
    model = trained(tmp_path, {"name": "Denoising"})
    y = np.zeros((1, 1, 2048, 2048), np.float32)
    tiles = Tiles(model, (2048, 2048), lambda rows, columns: (y[..., rows, columns], {}))
    sides = [tiles.plan(budget).side for budget in (1 << 24, 1 << 26, 1 << 40)]
    assert sides[0] < sides[1] < sides[2] == 1024
    with pytest.raises(DataError, match="too little for a tile"):
        tiles.plan(1 << 10)


@pytest.mark.parametrize("limits", [Limits(), Limits(memory=1 << 40)])
def test_global_operators_are_refused_with_the_reason(mri, limits):
    model = Reconstructor.load(train_in(mri.parent / "run", load_spec(mri, ["training.steps=1"])), "cpu")
    assert "mixes all pixels" in why_not(model)
    y = np.ones((32, 32), np.complex64) if limits == Limits() else np.load(mri.parent / "test_y.npy")
    with pytest.raises(DataError, match="mixes all pixels"):
        reconstruct_large(model, lambda: y, {}, "y.npy", limits, None, None)


def test_transformations_that_tear_neighbours_apart_are_refused(tmp_path):
    model = trained(tmp_path, {"name": "Denoising"}, transforms={"group": "shifts"}, losses=[{"name": "SupLoss"}, {"name": "EILoss", "weight": 0.1}], test={"group": "full"})
    assert "--test-rule one" in why_not(model)
    assert not why_not(Reconstructor.load(tmp_path / "run" / "model.safetensors", "cpu", test=load_spec(tmp_path / "spec.yaml", ["test={group: trivial}"]).test))


def test_an_unet_is_cut_where_it_pools(tmp_path):
    model = trained(tmp_path, {"name": "Denoising"}, model={"name": "ArtifactRemoval", "backbone_net": network(1)})
    y = np.random.default_rng(0).random((1, 1, 96, 128), np.float32)
    tiles = Tiles(model, (96, 128), lambda rows, columns: (y[..., rows, columns], {}))
    found = np.concatenate([band for _, band in tiles.bands(tiles.plan(1 << 30, side=64))], 1)
    assert np.abs(found - whole(model, y, {}, (96, 128))).max() < 1e-5
