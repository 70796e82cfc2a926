from __future__ import annotations

import pytest
import torch
from deepinv.physics import BlurFFT, Demosaicing, Inpainting
from deepinv.physics.generator import (
    Artifact2ArtifactSplittingMaskGenerator,
    BernoulliSplittingMaskGenerator,
    GaussianMaskGenerator,
    GaussianSplittingMaskGenerator,
    MultiplicativeSplittingMaskGenerator,
    Phase2PhaseSplittingMaskGenerator,
)
from operators import made

from es_cli.building.mask_generator import build_splitter
from es_cli.errors import SpecError
from es_cli.spec.component import as_component
from es_cli.splitting.generators import AngleSplittingMaskGenerator, LineSplittingMaskGenerator
from es_cli.splitting.masks import Splitter, draw_split, sampling_mask, split_axes

SHAPE = (5, 2, 8, 8)


def observed(fraction=0.5):
    return (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < fraction).float().expand(1, 2, 8, 8)


@pytest.mark.parametrize("pixelwise", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 1.0])
def test_bernoulli_keeps_its_fraction_of_what_was_observed_and_never_leaves_a_side_empty(ratio, pixelwise):
    mask = observed()
    split = draw_split(BernoulliSplittingMaskGenerator(SHAPE[1:], ratio, pixelwise=pixelwise), SHAPE, mask, 1)
    count = int(mask.sum()) if not pixelwise else int(mask[:, :1].sum())
    wanted = min(max(int(ratio * count), 1), count - 1)
    kept = split if not pixelwise else split[:, :1]
    assert kept.flatten(1).sum(1).tolist() == [wanted] * SHAPE[0]
    assert ((mask - split) >= 0).all()
    if pixelwise:
        assert torch.equal(split[:, 0], split[:, 1])


def test_trap_6_one_observed_entry_is_given_to_the_network():
    """deepinv keeps 0 of 1 (METHOD.md)."""
    mask = torch.zeros(1, 2, 8, 8)
    mask[:, :, 3, 3] = 1
    assert torch.equal(draw_split(BernoulliSplittingMaskGenerator(SHAPE[1:], 0.9), SHAPE, mask, 0), mask.expand(SHAPE))


def test_random_ratio_is_drawn_for_each_sample_between_its_bounds():
    generator = BernoulliSplittingMaskGenerator(
        (1, 40, 40), 0.9, random_split_ratio=True, min_split_ratio=0.5, max_split_ratio=1.0
    )
    kept = draw_split(generator, (64, 1, 40, 40), None, 0).flatten(1).mean(1)
    assert kept.min() >= 0.49 and kept.max() < 1 and kept.std() > 0.1 and abs(kept.mean() - 0.75) < 0.06


def test_every_site_is_kept_equally_often():
    generator = BernoulliSplittingMaskGenerator((1, 4, 4), 0.5)
    kept = draw_split(generator, (4000, 1, 4, 4), None, 0).mean(0)
    assert (kept - 0.5).abs().max() < 0.04


def test_pixels_of_a_bayer_pattern_are_split_whole():
    physics = Demosaicing((3, 8, 8))
    split = draw_split(BernoulliSplittingMaskGenerator((3, 8, 8), 0.5), (2, 3, 8, 8), sampling_mask(physics), 0)
    assert split.flatten(1).sum(1).tolist() == [32, 32]


@pytest.mark.parametrize("dim", [-1, -2])
def test_lines_are_split_whole_and_the_centre_stays_with_the_network(dim):
    lines = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1.0])
    mask = (lines if dim == -1 else lines[:, None]).expand(1, 2, 8, 8).contiguous()
    generator = LineSplittingMaskGenerator((2, 8, 8), split_ratio=0.5, center_lines=2, dim=dim)
    split = draw_split(generator, SHAPE, mask, 0)
    kept = split.transpose(dim, -1)[:, 0, 0]
    assert torch.equal(split.transpose(dim, -1), kept[:, None, None].expand(SHAPE))
    assert (kept[:, 3:5] == 1).all() and (kept[:, [1, 6]] == 0).all()
    assert kept.sum(1).tolist() == [4.0] * SHAPE[0]  # the two of the centre and half of the other four


def test_deepinvs_generators_follow_our_seed():
    mask = observed(0.9)
    inner = GaussianMaskGenerator((2, 8, 8), acceleration=2, center_fraction=0.0)
    generator = MultiplicativeSplittingMaskGenerator((1, 8, 8), inner)
    once, again = draw_split(generator, SHAPE, mask, 3), draw_split(generator, SHAPE, mask, 3)
    assert torch.equal(once, again) and once.shape == torch.Size(SHAPE)
    assert any(not torch.equal(once, draw_split(generator, SHAPE, mask, seed)) for seed in (4, 5, 6))
    assert ((mask - once) >= 0).all()


def test_singular_values_are_no_sampling_mask():
    """`physics.mask` of BlurFFT holds singular values (METHOD.md trap 10)."""
    assert sampling_mask(BlurFFT((1, 8, 8), filter=torch.ones(1, 1, 3, 3) / 9)) is None
    assert sampling_mask(Inpainting((1, 8, 8), mask=torch.ones(1, 8, 8))) is not None


# for each operator: along which axes of one measurement a split varies
VARIES = {
    "Inpainting": (1, 2), "Demosaicing": (1, 2), "Denoising": (1, 2), "MRI": (1, 2), "MRI-3D": (1, 2, 3), "MultiCoilMRI": (2, 3),
    "MultiCoilMRI-3D": (2, 3, 4), "DynamicMRI": (1,), "CompressedSensing": (0,), "CompressedSensing-channels": (0, 1), "SensingMatrix": (0,),
    "SinglePixelCamera": (1, 2), "SinglePixelCamera-random": (0, 1), "Tomography": (2,), "Tomography-fan": (2,), "Blur": (1, 2),
    "Downsampling": (1, 2), "ComposedLinearPhysics": (1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIES)
def test_by_default_a_split_follows_the_physics(name, tmp_path):
    operator = made(name, tmp_path)
    splitter, part = build_splitter(None, operator, 0, torch.device("cpu"))
    full = sampling_mask(operator.physics)
    shape = (3, *operator.measurement.shape)
    split = draw_split(splitter, shape, full, 5)
    assert splitter.axes == tuple(axis + 1 for axis in VARIES[name])
    for axis in range(1, len(shape)):
        if axis not in splitter.axes:
            # along the other axes, whatever is measured shares its side
            full_here = torch.ones(shape) if full is None else full.expand(shape)
            shared = split.amax(axis, keepdim=True).expand_as(split) * full_here
            assert torch.equal(shared, split)
    ratio = split.sum() / (torch.ones(shape) if full is None else full.expand(shape)).sum()
    assert (0.5 < ratio < 0.7) if "Tomography" in name else (0.74 < ratio < 0.91)
    assert part.name == ("AngleSplittingMaskGenerator" if "Tomography" in name else "BernoulliSplittingMaskGenerator")


@pytest.mark.parametrize("ratio", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("pattern", ["bernoulli", "interleaved"])
def test_trap_13_angles_are_split_whole_along_the_last_axis(pattern, ratio):
    """y of Tomography is (B, 1, detectors, angles)."""
    generator = AngleSplittingMaskGenerator((1, 6, 10), ratio, pattern=pattern)
    split = draw_split(generator, (4, 1, 6, 10), None, 2)
    assert torch.equal(split, split[:, :, :1].expand_as(split))
    assert split[:, 0, 0].sum(1).tolist() == [min(max(int(ratio * 10), 1), 9)] * 4
    assert not torch.equal(split[0], split[1]) and set(split.unique().tolist()) == {0, 1}


def test_interleaved_angles_are_as_even_as_they_can_be():
    split = draw_split(AngleSplittingMaskGenerator((1, 1, 20), 0.75, pattern="interleaved"), (50, 1, 1, 20), None, 0)[:, 0, 0]
    for kept in split:
        predicted = torch.nonzero(kept == 0).flatten()
        assert set(torch.diff(predicted).tolist()) == {4}
    assert (split.mean(0) - 0.75).abs().max() < 0.25  # every angle has its turn
    uneven = draw_split(AngleSplittingMaskGenerator((1, 1, 10), 0.6, pattern="interleaved"), (1, 1, 1, 10), None, 0).flatten()
    assert set(torch.diff(torch.nonzero(uneven == 0).flatten()).tolist()) == {2, 3}


def test_interleaving_skips_angles_that_were_not_measured():
    mask = torch.ones(1, 1, 1, 12)
    mask[..., ::3] = 0
    split = draw_split(AngleSplittingMaskGenerator((1, 1, 12), 0.5, pattern="interleaved"), (1, 1, 1, 12), mask, 3).flatten()
    assert split[mask.flatten() > 0].tolist() in ([1, 0] * 4, [0, 1] * 4) and not split[mask.flatten() == 0].any()


def test_trap_6_central_lines_alone_are_enough_for_the_network():
    """One line outside the centre is left: it is predicted, and the centre is what the network gets."""
    mask = torch.zeros(1, 2, 8, 8)
    mask[..., 3:5] = mask[..., 7:] = 1
    split = draw_split(LineSplittingMaskGenerator((2, 8, 8), 0.9, center_lines=2), SHAPE, mask, 0)
    assert (split[..., 3:5] == 1).all() and not split[..., 7].any()


@pytest.mark.parametrize("generator", [
    MultiplicativeSplittingMaskGenerator((2, 8, 8), GaussianMaskGenerator((2, 8, 8), acceleration=2, center_fraction=0.0)),
    GaussianSplittingMaskGenerator((2, 8, 8), 0.0, center_block=0),
    GaussianMaskGenerator((2, 8, 8), acceleration=4, center_fraction=0.0),
    GaussianMaskGenerator((2, 8, 8), acceleration=1),
], ids=["either", "nothing", "seldom", "everything"])  # fmt: skip
def test_trap_6_no_generator_of_deepinv_leaves_a_side_empty(generator):
    """Of the 100 samples drawn here many, or all, have an empty side as deepinv draws them."""
    mask = torch.zeros(1, 2, 8, 8)
    mask[:, :, 4, [1, 6]] = 1
    split = draw_split(Splitter(generator, (2, 3)), (100, 2, 8, 8), mask, 1)
    assert (split.flatten(1).sum(1) == 2).all(), "one of two points, with its real and imaginary part"
    assert (split <= mask).all() and len(split[:, 0, 4, 1].unique()) == 2


def test_trap_6_empty_sides_are_repaired_under_masks_of_their_own():
    masks = torch.zeros(3, 1, 4, 4)
    masks[0, 0, 1, 1] = masks[2] = 1
    masks[1, 0, 0, :2] = 1
    everything = GaussianMaskGenerator((1, 4, 4), acceleration=1)
    split = draw_split(everything, (3, 1, 4, 4), masks, 1)
    assert split.flatten(1).sum(1).tolist() == [1, 1, 15], "one entry stays with the network, and two are shared out"


def test_trap_14_an_inner_generator_with_two_channels_splits_rgb():
    inner = GaussianMaskGenerator((2, 8, 8), acceleration=2, center_fraction=0.0)
    generator = MultiplicativeSplittingMaskGenerator((3, 8, 8), inner)
    mask = observed()[:, :1].expand(1, 3, 8, 8)
    split = draw_split(generator, (5, 3, 8, 8), mask, 0)
    assert split.shape == (5, 3, 8, 8) and torch.equal(split[:, :1].expand_as(split), split)
    assert not torch.equal(split[0], split[1])


def test_trap_27_splits_are_drawn_for_a_whole_batch_at_once_where_the_data_are(monkeypatch):
    """deepinv loops over the samples, and on the CPU."""
    generator, shape = BernoulliSplittingMaskGenerator((2, 8, 8), 0.9), (32, 2, 8, 8)
    sizes = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: sizes.append((tuple(size[0]), kwargs["device"])) or rand(*size, **kwargs))
    draw_split(generator, shape, torch.ones(1, 2, 8, 8), 0)
    assert sizes == [((32, 64), torch.device("cpu"))]


@pytest.mark.parametrize("name", ["MultiCoilMRI", "MRI-3D", "MultiCoilMRI-3D", "DynamicMRI"])
@pytest.mark.parametrize(
    "part",
    [
        {"name": "LineSplittingMaskGenerator", "split_ratio": 0.5},
        {"name": "GaussianMaskGenerator", "acceleration": 2},
        {"name": "GaussianSplittingMaskGenerator", "split_ratio": 0.6, "center_block": 2},
        {"name": "MultiplicativeSplittingMaskGenerator", "split_generator": {"name": "RandomMaskGenerator", "acceleration": 2}},
    ],
    ids=lambda part: part["name"],
)
def test_generators_of_k_space_fit_coils_volumes_and_frames(name, part, tmp_path):
    operator = made(name, tmp_path)
    splitter, _ = build_splitter(as_component(part), operator, 0, torch.device("cpu"))
    full = sampling_mask(operator.physics)
    split = draw_split(splitter, (3, *operator.measurement.shape), full, 1)
    rest = full - split
    assert ((rest == 0) | (rest == 1)).all() and split.flatten(1).any(1).all() and rest.flatten(1).any(1).all()
    assert torch.equal(split, split[:, :1].expand_as(split))
    if "Coil" in name:
        assert torch.equal(split, split[:, :, :1].expand_as(split))
    if part["name"].startswith("Line"):
        columns = split.amax(tuple(range(1, split.ndim - 1)))
        assert torch.equal(split, columns.view(3, *[1] * (split.ndim - 2), -1) * full.expand_as(split)), "whole columns"


@pytest.mark.parametrize("generator", [Phase2PhaseSplittingMaskGenerator((2, 4, 8, 8)), Artifact2ArtifactSplittingMaskGenerator((2, 4, 8, 8), 2)])
def test_generators_of_frames_split_dynamic_mri(generator, tmp_path):
    operator = made("DynamicMRI", tmp_path)
    full = sampling_mask(operator.physics)
    split = draw_split(Splitter(generator, split_axes(operator.physics, 5)), (3, 2, 4, 8, 8), full, 0)
    frames = split.flatten(3).any(-1)[:, 0].sum(1)
    assert frames.tolist() == [2, 2, 2] and (split <= full).all()


REFUSED = [
    ("MRI", {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.5, "pixelwise": False}, "real and imaginary part"),
    ("MRI", {"name": "BernoulliSplittingMaskGenerator", "split_ratio": 0.5, "img_size": [2, 8, 8]}, r"\[2, 16, 16\]"),
    ("MRI", {"name": "GaussianMaskGenerator", "img_size": [2, 12, 12]}, r"\[2, 16, 16\]"),
    ("MRI", {"name": "AngleSplittingMaskGenerator"}, "angles of a sinogram"),
    ("MRI", {"name": "SigmaGenerator"}, "draws sigma, not a mask"),
    ("MRI", {"name": "LineSplittingMaskGenerator", "center_lines": 16}, "the 16 central lines are all"),
    ("MRI", {"name": "LineSplittingMaskGenerator", "dim": -4}, "no axis -4"),
    ("MRI", {"name": "Phase2PhaseSplittingMaskGenerator"}, r"\(2, 16, 16\)"),
    ("SensingMatrix", {"name": "GaussianSplittingMaskGenerator", "split_ratio": 0.5}, "at least of shape|no split"),
    ("SensingMatrix", {"name": "LineSplittingMaskGenerator", "dim": -2}, "no axis -2"),
    ("Tomography", {"name": "GaussianMaskGenerator", "img_size": [1, 23, 7]}, r"\[1, 23, 12\]"),
]


@pytest.mark.parametrize(("name", "part", "message"), REFUSED)
def test_a_generator_that_contradicts_the_measurement_says_what_is_wanted(name, part, message, tmp_path):
    operator = made(name, tmp_path)
    with pytest.raises(SpecError, match=message):
        build_splitter(as_component(part), operator, 0, torch.device("cpu"))


def test_one_site_cannot_be_split(tmp_path):
    from es_cli.building.forward_operator import build_operator
    from es_cli.data.stacks import ArrayStack

    images = ArrayStack(torch.zeros(1, 1, 8, 8).numpy(), ["x"])
    one_angle = build_operator(as_component({"name": "Tomography", "angles": 1, "normalize": False}), images, True, 0)
    with pytest.raises(SpecError, match="only one entry of each measurement"):
        build_splitter(None, one_angle, 0, torch.device("cpu"))
