from __future__ import annotations

import pytest
import torch
from deepinv.physics import MRI
from deepinv.transform import Reflect, Rotate, Shift
from properties import assert_adjoint, assert_proximal, assert_undone

from es_cli.errors import SpecError
from es_cli.splitting.group import Batch, TransformGroup, named_group
from es_cli.splitting.virtual import VirtualOperator, split_operator

SIZES = {"trivial": 1, "C4": 4, "D4": 8, "reflections": 4}


@pytest.mark.parametrize("name", SIZES)
def test_finite_groups_have_their_elements_once_and_undo_them_exactly(name):
    x = torch.arange(2 * 3 * 5 * 5.0).view(2, 3, 5, 5)
    elements = named_group(name, x.shape).elements()
    images = [element.act(x) for element in elements]
    assert len(elements) == SIZES[name] == len({tuple(image.flatten().tolist()) for image in images})
    for element in elements:
        assert_undone(element, x)


def test_d4_is_deepinvs_rotations_times_reflections():
    x = torch.rand(1, 1, 6, 6)
    theirs = Rotate(n_trans=4, multiples=90, positive=True) * Reflect(n_trans=2, dim=[-1])
    expected = {tuple(theirs.transform(x, **p).flatten().tolist()) for p in theirs.iterate_params(theirs.get_params(x))}
    assert {tuple(e.act(x).flatten().tolist()) for e in named_group("D4", x.shape).elements()} == expected


def test_quarter_turns_of_images_that_are_not_square_are_refused():
    """deepinv runs on with an error of 58 % (METHOD.md trap 18)."""
    with pytest.raises(SpecError, match="reflections or shifts"):
        named_group("D4", (1, 4, 6))
    assert named_group("reflections", (1, 4, 6)).size == 4


def test_shifts_are_drawn_from_the_whole_torus_and_undone():
    x = torch.rand(1, 1, 4, 6)
    drawn = named_group("shifts", x.shape).draw(200, seed=0)
    for element in drawn[:10]:
        assert_undone(element, x)
    assert len({element.label for element in drawn}) == 24


def test_draws_are_uniform_and_follow_the_seed():
    group = named_group("D4", (1, 4, 4))
    labels = [e.label for e in group.draw(800, seed=1)]
    assert labels == [e.label for e in group.draw(800, seed=1)] != [e.label for e in group.draw(800, seed=2)]
    assert all(60 < labels.count(e.label) < 140 for e in group.elements())


def test_deepinv_transforms_are_seeded_by_us():
    """deepinv's own generators ignore torch.manual_seed (METHOD.md trap 22)."""
    x = torch.rand(1, 1, 8, 8)
    group = TransformGroup(Shift() * Reflect(dim=[-1]), (1, 8, 8), orthogonal=True)
    once, again, other = (group.draw(4, seed) for seed in (3, 3, 4))
    assert [e.label for e in once] == [e.label for e in again] != [e.label for e in other]
    for element in once:
        assert_undone(element, x)


def test_batch_gives_each_run_of_samples_its_own_element():
    x = torch.rand(4, 1, 5, 5)
    a, b = named_group("D4", x.shape).elements()[1:3]
    batch = Batch([a, b], run=2)
    assert torch.equal(batch.act(x), torch.cat([a.act(x[:2]), b.act(x[2:])]))
    assert torch.equal(batch.inverse(batch.act(x)), x)


@pytest.mark.parametrize("name", ["D4", "shifts"])
def test_virtual_mri_is_an_operator_with_a_true_adjoint_and_a_closed_form_prox(name):
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(8, 8, generator=rng) < 0.5).float()
    physics = MRI(mask=mask)
    y = physics.A(torch.rand(2, 2, 8, 8, generator=rng))
    split = split_operator(physics, (torch.rand(2, 1, 8, 8, generator=rng) < 0.7).float(), y)
    virtual = VirtualOperator(split, Batch(named_group(name, (2, 8, 8)).draw(2, 5)), orthogonal=True)
    z = torch.rand(2, 2, 8, 8, generator=rng)
    prox = virtual.prox_l2(z, y, 3.0)
    assert_proximal(virtual, prox, z, y, 3.0)
    slow = super(VirtualOperator, virtual).prox_l2(z, y, 3.0, max_iter=100, tol=1e-8)
    assert torch.allclose(prox, slow, atol=1e-4)
    single = VirtualOperator(physics, Batch(named_group(name, (2, 8, 8)).draw(1, 5)), orthogonal=True)
    assert_adjoint(single, (2, 8, 8), (2, 8, 8))


def test_split_of_3d_mri_stays_3d():
    """deepinv drops `three_d` (METHOD.md trap 9)."""
    physics = MRI(mask=torch.ones(4, 4, 4), three_d=True, img_size=(4, 4, 4))
    y = physics.A(torch.rand(1, 2, 4, 4, 4))
    assert split_operator(physics, torch.ones_like(y), y).three_d
