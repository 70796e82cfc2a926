from __future__ import annotations

import functools
import math

import pytest
import torch
from deepinv.physics import MRI
from deepinv.transform import Reflect, Rotate, RotateViaShear, Shift, Transform
from properties import assert_adjoint, assert_proximal, assert_undone

from es_cli.catalog import load_spec
from es_cli.errors import SpecError
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.rotations import rotation
from es_cli.splitting.transforms import GroupTransform, TransformGroup, defects, transform_group
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
    assert len({tuple(element.act(x).flatten().tolist()) for element in drawn}) == 24


def test_draws_are_uniform_and_follow_the_seed():
    group = named_group("D4", (1, 4, 4))
    labels = [e.label for e in group.draw(800, seed=1)]
    assert labels == [e.label for e in group.draw(800, seed=1)] != [e.label for e in group.draw(800, seed=2)]
    assert all(60 < labels.count(e.label) < 140 for e in group.elements())


def test_deepinv_transforms_are_seeded_by_us():
    """deepinv's own generators ignore torch.manual_seed (METHOD.md trap 22)."""
    x = torch.rand(1, 1, 8, 8)
    group = TransformGroup([Shift(), Reflect(dim=[-1])], (1, 8, 8))
    once, again, other = (group.draw(4, seed) for seed in (3, 3, 4))
    assert [e.label for e in once] == [e.label for e in again] != [e.label for e in other]
    for element in once:
        assert_undone(element, x)


GROUPS = ["D4", "reflections", "shifts", "rotations"]
SHAPES = [(6, 2, 9, 9), (6, 2, 3, 9, 9)]


@pytest.mark.parametrize("shape", SHAPES, ids=["pictures", "volumes"])
@pytest.mark.parametrize("name", GROUPS)
def test_batch_gives_each_sample_its_own_element(name, shape):
    x = torch.rand(shape)
    elements = named_group(name, shape).draw(6, seed=4)
    batch = Batch(elements)
    assert len({element.label for element in elements}) > 2
    for way in ("act", "inverse"):
        alone = torch.cat([getattr(element, way)(x[i : i + 1]) for i, element in enumerate(elements)])
        # bit for bit where pixels are moved; shears of a batch may be summed in another order
        assert torch.allclose(getattr(batch, way)(x), alone, atol=0 if name != "rotations" else 1e-5, rtol=0)


@pytest.mark.parametrize("transforms", [None, [Shift()]], ids=["D4", "deepinv"])
def test_batch_gives_each_run_of_samples_its_own_element(transforms):
    x = torch.rand(4, 1, 5, 5)
    group = named_group("D4", x.shape) if transforms is None else TransformGroup(transforms, x.shape[1:])
    a, b = group.sample(8, 0)[:2] if transforms else group.elements()[1:3]
    batch = Batch([a, b], run=2)
    assert torch.equal(batch.act(x), torch.cat([a.act(x[:2]), b.act(x[2:])]))
    assert torch.equal(batch.inverse(batch.act(x)), x)


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_orthogonal_and_undone(name, size):
    """The inverse is the adjoint, and gradients are those of an orthogonal map."""
    x, z = torch.randn(2, 5, 1, size, size, generator=torch.Generator().manual_seed(0))
    batch = Batch(named_group(name, x.shape).draw(5, seed=1))
    assert (batch.inverse(batch.act(x)) - x).norm() < 1e-5 * x.norm()
    scale = x.norm() * z.norm()
    assert abs((batch.act(x) * z).sum() - (x * batch.inverse(z)).sum()) < 1e-5 * scale
    pulled = torch.autograd.functional.vjp(batch.act, x, z)[1]
    assert torch.allclose(pulled, batch.inverse(z), atol=1e-5)


def test_rotations_are_deepinvs_shears_and_quarter_turns():
    x = torch.rand(1, 2, 15, 15)
    for angle in (10.0, -30.0, 44.0):
        assert torch.allclose(rotation(angle).act(x), RotateViaShear().transform(x, theta=torch.tensor([angle])), atol=1e-5)
    assert torch.allclose(rotation(100.0).act(x), rotation(10.0).act(torch.rot90(x, 1, (-2, -1))), atol=1e-5)
    assert torch.equal(rotation(180.0).act(x), torch.rot90(x, 2, (-2, -1)))
    assert rotation(0.0).label == "identity"


def test_rotations_at_test_are_equally_spaced_and_hold_the_identity():
    elements = named_group("rotations", (1, 9, 9)).representatives(8, seed=0)
    assert [element.parameter for element in elements] == [0, 45, 90, 135, 180, 225, 270, 315]


@pytest.mark.parametrize("size", [32, 33])
def test_rotations_turn_pictures_around_their_centre(size):
    """On even and odd sizes: a spot off the centre goes where the angle says."""
    axis = torch.arange(size) - (size - 1) / 2

    def spot(right, down):
        return torch.exp(-((axis - right) ** 2 + (axis[:, None] - down) ** 2) / 8)[None, None]

    for degrees in (30.0, 75.0, 200.0):
        turn = math.radians(degrees)
        wanted = spot(8 * math.cos(turn), -8 * math.sin(turn))
        assert (rotation(degrees).act(spot(8.0, 0.0)) - wanted).abs().max() < 0.01


def test_rotations_of_what_is_not_square_are_refused():
    with pytest.raises(SpecError, match="crop the images to squares"):
        named_group("rotations", (1, 9, 7))


def test_one_element_for_a_whole_batch_where_the_spec_says_so():
    group = named_group("shifts", (1, 9, 9))
    group.per_batch = True
    assert len({element.label for element in group.draw(6, seed=0)}) == 1
    assert len({element.label for element in group.sample(6, seed=0)}) > 1


def test_reflect_has_no_dims(tmp_path):
    """deepinv takes it in silence (METHOD.md trap 17)."""
    spec = tmp_path / "spec.yaml"
    spec.write_text("physics: Denoising\ndata: {train: {images: photos}}\nmodel: UNet\ntransforms: {train: [{name: Reflect, dims: [-1]}]}\n")
    with pytest.raises(SpecError, match="Reflect has no parameter dims"):
        load_spec(spec)


def test_a_transform_that_is_not_undone_is_refused_with_what_would_work():
    """Rotations by interpolation are neither undone nor orthogonal, shears on odd sizes are (METHOD.md traps 18 and 19)."""
    refused = functools.partial(transform_group, paths=["transforms.train.0"])
    with pytest.raises(SpecError, match=r"Rotate .* % of a random image .*use group: rotations or D4"):
        refused([Rotate(multiples=15, interpolation_mode="bilinear")], (1, 16, 16))
    with pytest.raises(SpecError, match="use group: rotations or D4"):
        refused([RotateViaShear()], (1, 16, 16))
    with pytest.raises(SpecError, match="crop to squares"):
        refused([Rotate(multiples=90)], (1, 16, 12))
    assert refused([RotateViaShear()], (1, 17, 17)).orthogonal
    assert refused([Rotate(multiples=90)], (1, 16, 16)).orthogonal


class Louder(Transform):
    """Undone by its inverse, but not orthogonal."""

    def _get_params(self, x):
        return {"power": torch.randint(1, 4, (self.n_trans,), generator=self.rng)}

    def _transform(self, x, power=(), **kwargs):
        return torch.cat([x * 2.0 ** int(one) for one in power])


def test_a_transform_that_is_undone_but_not_orthogonal_is_taken_for_what_it_is():
    group = transform_group([Louder(), Reflect(dim=[-1])], (1, 8, 8), ["a", "b"])
    assert not group.orthogonal
    measured = defects(group, (1, 8, 8))
    assert measured.round_trip == 0 and measured.adjoint > 0.5


def test_three_shifts_are_three():
    """deepinv's `iterate_params` makes nine of them (METHOD.md trap 20)."""
    assert len(TransformGroup([Shift(n_trans=3)], (1, 8, 8)).elements()) == 3
    assert len(TransformGroup([Shift(n_trans=3), Reflect(n_trans=4)], (1, 8, 8)).elements()) == 12


@pytest.mark.parametrize("per_batch", [False, True])
def test_group_is_a_transform_for_losses_of_deepinv(per_batch):
    x = torch.rand(4, 1, 9, 9)
    group = named_group("rotations", x.shape)
    group.per_batch = per_batch
    transform = GroupTransform(group)
    params = transform.get_params(x)
    elements = group.draw(4, int(params["seed"]))
    assert torch.equal(transform(x, **params), Batch(elements).act(x))
    assert torch.allclose(transform.inverse(transform(x, **params), **params), x, atol=1e-5)
    assert not torch.equal(transform(x), transform(x))


@pytest.mark.parametrize("name", ["D4", "shifts", "rotations"])
def test_virtual_mri_is_an_operator_with_a_true_adjoint_and_a_closed_form_prox(name):
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(9, 9, generator=rng) < 0.5).float()
    physics = MRI(mask=mask)
    y = physics.A(torch.rand(2, 2, 9, 9, generator=rng))
    split = split_operator(physics, (torch.rand(2, 1, 9, 9, generator=rng) < 0.7).float(), y)
    virtual = VirtualOperator(split, Batch(named_group(name, (2, 9, 9)).draw(2, 5)), orthogonal=True)
    z = torch.rand(2, 2, 9, 9, generator=rng)
    prox = virtual.prox_l2(z, y, 3.0)
    assert_proximal(virtual, prox, z, y, 3.0)
    slow = super(VirtualOperator, virtual).prox_l2(z, y, 3.0, max_iter=100, tol=1e-8)
    assert torch.allclose(prox, slow, atol=1e-4)
    single = VirtualOperator(physics, Batch(named_group(name, (2, 9, 9)).draw(1, 5)), orthogonal=True)
    assert_adjoint(single, (2, 9, 9), (2, 9, 9))


def test_split_of_3d_mri_stays_3d():
    """deepinv drops `three_d` (METHOD.md trap 9)."""
    physics = MRI(mask=torch.ones(4, 4, 4), three_d=True, img_size=(4, 4, 4))
    y = physics.A(torch.rand(1, 2, 4, 4, 4))
    assert split_operator(physics, torch.ones_like(y), y).three_d
