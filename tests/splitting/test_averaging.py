"""Test rules against deepinv's adapted model and against plain loops over the same splits and elements."""

from __future__ import annotations

import pytest
import torch
from deepinv.loss import EquivariantSplittingLoss
from deepinv.models import ArtifactRemoval
from deepinv.physics import MRI, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator
from deepinv.transform import Reflect, Rotate

from es_cli.splitting.averaging import ONE_CALL, TestRule, average, images_at_once, moments
from es_cli.splitting.folds import Folds
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.masks import draw_split, leave_out, sampling_mask
from es_cli.splitting.parameters import with_parameters
from es_cli.splitting.virtual import split_operator, virtual_operator
from es_cli.streams import stream_seed


class Recording(torch.nn.Module):
    """A network that is neither linear nor equivariant, and remembers how many images went through it at once."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.batches = []

    def forward(self, x, sigma=None):
        self.batches.append(len(x))
        return x + torch.tanh(self.conv(x))


def problem(kind, batch=3):
    rng = torch.Generator().manual_seed(3)
    mask = (torch.rand(8, 8, generator=rng) < 0.6).float()
    physics = MRI(mask=mask) if kind == "MRI" else Inpainting((1, 8, 8), mask=mask[None])
    x = torch.rand(batch, 2 if kind == "MRI" else 1, 8, 8, generator=rng)
    return physics, physics.A(x), ArtifactRemoval(Recording(x.shape[1]))


def splitter(y):
    return BernoulliSplittingMaskGenerator(tuple(y.shape[1:]), split_ratio=0.7)


def images(network, y, physics, group, masks_and_elements):
    """T_g f(M₁y, M₁A T_g) for each pair, one after another: (pairs, B, C, H, W)."""
    made = []
    for mask, element in masks_and_elements:
        g = Batch([element])
        operator = virtual_operator(split_operator(physics, mask, y), g, group.orthogonal)
        made.append(g.act(network(mask * y, operator)))
    return torch.stack(made)


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
def test_splits_times_group_equal_deepinvs_adapted_model_in_evaluation_mode(kind):
    physics, y, network = problem(kind)
    group, rule = named_group("D4", y.shape), TestRule(3, tuple(named_group("D4", y.shape).elements()))
    masks = [draw_split(splitter(y), (1, *y.shape[1:]), sampling_mask(physics), stream_seed(9, "test-split", j)).expand_as(y) for j in range(3)]
    theirs = EquivariantSplittingLoss(
        mask_generator=splitter(y),
        transform=Rotate(n_trans=1, multiples=90, positive=True) * Reflect(n_trans=1, dim=[-1]),
        eval_transform=Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1]),
        eval_n_samples=3,
    ).adapt_model(network)
    drawn = iter(masks)
    theirs.mask_generator.step = lambda *args, **kwargs: {"mask": next(drawn)}
    network.backbone_net.batches.clear()
    expected = theirs.eval()(y, physics)
    assert sum(network.backbone_net.batches) == 3 * 8 * len(y)
    with torch.no_grad():
        assert torch.allclose(average(network, y, physics, rule, group, splitter(y), seed=9), expected, atol=1e-5)
    assert rule.network_calls == 24


@pytest.mark.parametrize("kind", ["Inpainting", "MRI"])
def test_complementary_splits_times_group_equal_a_plain_loop(kind):
    physics, y, network = problem(kind)
    group = named_group("C4", y.shape)
    rule = TestRule(4, tuple(group.elements()), complementary=True)
    full = sampling_mask(physics)
    masks = [leave_out(splitter(y), (1, *y.shape[1:]), full, Folds([stream_seed(9, "test-folds")], k, 4)) for k in range(4)]
    assert torch.equal(sum(full - mask for mask in masks), full.expand_as(masks[0])), "each entry is left out of one"
    expected = images(network, y, physics, group, [(mask, g) for mask in masks for g in group.elements()])
    for bound in (1, 7, 9, 64):
        assert torch.allclose(average(network, y, physics, rule, group, splitter(y), seed=9, max_batch=bound), expected.mean(0), atol=1e-5)
    alone = average(network, y[1:2], physics, rule, group, splitter(y), seed=9)
    assert torch.allclose(alone, expected.mean(0)[1:2], atol=1e-5), "whatever batch a sample comes in"


def test_the_papers_rule_draws_a_new_element_for_each_split():
    """Ten splits with one random g each: 10 network calls, not 10 × 8 (METHOD.md section 1)."""
    physics, y, network = problem("MRI")
    group, rule = named_group("D4", y.shape), TestRule(10, draws=1)
    drawn = [group.sample(1, stream_seed(2, "test-group", j))[0] for j in range(10)]
    masks = [draw_split(splitter(y), (1, *y.shape[1:]), sampling_mask(physics), stream_seed(2, "test-split", j)) for j in range(10)]
    assert len({element.label for element in drawn}) > 3 and rule.network_calls == 10
    expected = images(network, y, physics, group, zip(masks, drawn, strict=True)).mean(0)
    assert torch.allclose(average(network, y, physics, rule, group, splitter(y), seed=2, max_batch=12), expected, atol=1e-5)


@pytest.mark.parametrize("complementary", [False, True])
def test_each_sample_is_split_under_the_mask_that_it_has_of_its_own(complementary):
    physics, y, network = problem("Inpainting")
    masks = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(4)) < 0.7).float()
    own, group = with_parameters(physics, {"mask": masks}), named_group("C4", y.shape)
    rule = TestRule(3, tuple(group.elements()), complementary=complementary)
    together = average(network, y, own, rule, group, splitter(y), max_batch=21)
    for i in range(3):
        one = with_parameters(physics, {"mask": masks[i : i + 1]})
        assert torch.allclose(together[i : i + 1], average(network, y[i : i + 1], one, rule, group, splitter(y)), atol=1e-5)


@pytest.mark.parametrize("bound", [1, 9, 12, 1000])
def test_variance_is_that_of_the_images_of_all_pairs_however_they_are_grouped(bound):
    physics, y, network = problem("Inpainting")
    group = named_group("D4", y.shape)
    rule = TestRule(3, tuple(group.elements()), complementary=True)
    masks = [leave_out(splitter(y), (1, *y.shape[1:]), physics.mask, Folds([stream_seed(0, "test-folds")], k, 3)) for k in range(3)]
    # far from 0, where a difference of two large sums would keep no digits
    network.backbone_net.register_forward_hook(lambda module, given, made: made + 100)
    made = images(network, y, physics, group, [(mask, g) for mask in masks for g in group.elements()]).double()
    found = moments(network, y, physics, rule, group, splitter(y), max_batch=bound)
    assert torch.allclose(found.mean.double(), made.mean(0), atol=1e-4)
    assert torch.allclose(found.variance.double(), made.var(0, unbiased=False), rtol=1e-2, atol=1e-5) and found.variance.max() > 1e-3


def test_one_call_has_no_variance():
    physics, y, network = problem("Inpainting")
    found = moments(network, y, physics, ONE_CALL, named_group("trivial", y.shape))
    assert torch.equal(found.mean, network(y, physics)) and torch.equal(found.variance, torch.zeros_like(found.mean))


@pytest.mark.parametrize("splits", [None, 1, 5, 20])
def test_however_many_pairs_there_are_no_more_than_the_bound_go_through_the_network_at_once(splits):
    physics, y, network = problem("MRI")
    group = named_group("D4", y.shape)
    rule = TestRule(splits, tuple(group.elements()), repeats=2)
    average(network, y, physics, rule, group, splitter(y), max_batch=13)
    batches = network.backbone_net.batches
    assert max(batches) == 12 and sum(batches) == rule.network_calls * len(y) and len(batches) == -(-rule.network_calls // 4)
    batches.clear()
    average(network, y, physics, rule, group, splitter(y), max_batch=2)
    assert set(batches) == {len(y)}, "a batch is never taken apart"


@pytest.mark.parametrize(("shape", "wanted"), [((3, 64, 64), 32), ((1, 512, 512), 2), ((2, 2048, 2048), 1), ((2, 16, 256, 256), 1)])
def test_large_images_go_through_the_network_a_few_at_a_time(shape, wanted):
    assert images_at_once(shape, 32) == wanted
