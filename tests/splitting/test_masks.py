from __future__ import annotations

import pytest
import torch
from deepinv.physics import BlurFFT, Demosaicing, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator, GaussianMaskGenerator, MultiplicativeSplittingMaskGenerator

from es_cli.splitting.masks import LineSplittingMaskGenerator, draw_split, sampling_mask

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


def test_one_observed_entry_is_given_to_the_network():
    """deepinv keeps 0 of 1 (METHOD.md trap 6)."""
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
