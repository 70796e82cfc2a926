"""Every operator that a spec can name: made again exactly, split correctly, and turned by T_g with its closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deepinv.loss import SplittingLoss
from deepinv.models import ArtifactRemoval
from deepinv.physics import MRI, BlurFFT, GaussianNoise, Inpainting, LinearPhysics, MultiCoilMRI
from deepinv.physics.generator import GaussianMaskGenerator
from operators import MASK, OPERATORS, made, random
from properties import assert_adjoint, assert_proximal

from es_cli.building.forward_operator import build_operator, rebuild_operator
from es_cli.building.mask_generator import build_splitter
from es_cli.data.stacks import ArrayStack
from es_cli.spec.component import as_component
from es_cli.splitting.averaging import TestRule, average
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.masks import draw_split
from es_cli.splitting.operators import MaskedOperator, sampling_mask, split_operator, with_mask, with_noise
from es_cli.splitting.sensing import SensingMatrix
from es_cli.splitting.tomography import Tomography
from es_cli.splitting.virtual import VirtualOperator

CLOSED = [name for name in OPERATORS if name.split("-")[0] in {"Inpainting", "Demosaicing", "Denoising", "MRI", "DynamicMRI", "CompressedSensing", "SensingMatrix", "SinglePixelCamera"}]


def split_of(operator, seed=1):
    """(split, its complement, their masks, y) of two samples."""
    splitter, _ = build_splitter(None, operator, 0, torch.device("cpu"))
    y = operator.physics.A(random(operator.image.shape))
    full = sampling_mask(operator.physics)
    mask = draw_split(splitter, y.shape, full, seed)
    rest = (1 if full is None else full) - mask
    return split_operator(operator.physics, mask, y), split_operator(operator.physics, rest, y), mask, rest, y


@pytest.mark.parametrize("name", OPERATORS)
def test_the_arrays_of_a_checkpoint_make_the_same_operator_again(name, tmp_path):
    operator = made(name, tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    again = rebuild_operator(operator.part, operator.image.shape, {key: value.clone() for key, value in operator.arrays.items()})
    x, y = random(operator.image.shape), random(operator.measurement.shape)
    assert torch.equal(operator.physics.A(x), again.physics.A(x))
    assert torch.equal(operator.physics.A_adjoint(y), again.physics.A_adjoint(y))
    assert (again.measurement, again.image) == (operator.measurement, operator.image)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_split_and_its_complement_are_the_whole_operator(name, tmp_path):
    operator = made(name, tmp_path)
    first, second, mask, rest, y = split_of(operator)
    x = random(operator.image.shape)
    assert torch.allclose(first.A(x) + second.A(x), operator.physics.A(x), atol=1e-5)
    assert torch.equal(first.A(x), mask * first.A(x)) and torch.equal(second.A(x), rest * second.A(x))
    assert all(side.flatten(1).any(1).all() for side in (mask, rest))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_split_and_its_virtual_operator_have_true_adjoints(name, tmp_path):
    operator = made(name, tmp_path)
    first = split_of(operator)[0]
    one = with_mask(first, sampling_mask(first)[:1])
    g = Batch(named_group("D4", operator.image.shape).draw(1, 5))
    for physics in (operator.physics, one, VirtualOperator(one, g, orthogonal=True)):
        assert_adjoint(physics, operator.image.shape, operator.measurement.shape, tolerance=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_prox_of_a_virtual_split_solves_its_normal_equations(name, tmp_path):
    """METHOD.md trap 15. In closed form where there is one, else by deepinv's solver to a tolerance that is set tighter here."""
    operator = made(name, tmp_path)
    operator.physics.max_iter, operator.physics.tol = 300, 1e-7
    first, _, mask, _, y = split_of(operator)
    g = Batch(named_group("D4", operator.image.shape).draw(2, 5))
    z = random(operator.image.shape, seed=7)
    assert len(g.elements) == 2 and len(mask) == 2
    virtual = VirtualOperator(first, g, orthogonal=True)
    assert_proximal(virtual, virtual.prox_l2(z, mask * y, 2.0), z, mask * y, 2.0, tolerance=2e-3)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_have_the_values_and_gradients_of_conjugate_gradients(name, tmp_path):
    operator = made(name, tmp_path)
    first, _, mask, _, y = split_of(operator)
    g = Batch(named_group("D4", operator.image.shape).draw(2, 5))
    virtual = VirtualOperator(first, g, orthogonal=True)
    results = []
    for solve in (virtual.prox_l2, lambda *a: LinearPhysics.prox_l2(virtual, *a, max_iter=200, tol=1e-8)):
        z, gamma = random(operator.image.shape, seed=7).requires_grad_(), torch.tensor(2.0, requires_grad=True)
        value = solve(z, mask * y, gamma)
        results.append((value, *torch.autograd.grad((value * random(operator.image.shape, seed=8)).sum(), (z, gamma))))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", [n for n in OPERATORS if "Sensing" in n or "random" in n])
def test_pseudoinverse_of_split_compressed_sensing_is_that_of_its_dense_matrix(name, tmp_path):
    operator = made(name, tmp_path)
    first, _, mask, _, y = split_of(operator)
    for i in range(2):
        one = with_mask(first, mask[i : i + 1])
        basis = torch.eye(operator.image.shape[0] * operator.image.shape[1] * operator.image.shape[2]).view(-1, *operator.image.shape)
        dense = torch.stack([one.A(e[None]).flatten() for e in basis], 1)
        expected = torch.linalg.pinv(dense, rtol=1e-5) @ (mask * y)[i].flatten()
        assert torch.allclose(first.A_dagger(mask * y)[i].flatten(), expected, atol=1e-3)


def test_a_stack_joins_what_its_operators_measure_and_its_noise_is_where_something_is_measured(tmp_path):
    operator = made("StackedLinearPhysics", tmp_path)
    stack, x = operator.physics, random(operator.image.shape)
    inpainting, downsampling = stack.physics_list
    assert torch.equal(stack.A(x), torch.cat([inpainting.A(x).flatten(1), downsampling.A(x).flatten(1)], 1))
    sampled = sampling_mask(stack)
    assert sampled.shape == (1, 256 + 64) and torch.equal(sampled[0, :256].view(16, 16), torch.from_numpy(MASK)) and sampled[0, 256:].all()
    noisy = with_noise(stack, GaussianNoise(sigma=0.1))(x) - stack.A(x)
    assert torch.equal(noisy != 0, sampled.expand_as(noisy) != 0)


def test_dependent_rows_of_a_matrix_do_not_break_its_pseudoinverse():
    rows = random((4,), batch=3)
    physics = SensingMatrix(torch.cat([rows, rows]), (1, 2, 2))
    x = random((1, 2, 2))
    y = physics.A(x)
    assert torch.allclose(physics.A(physics.A_dagger(y)), y, atol=1e-4)
    assert torch.allclose(physics.A_dagger(y).flatten(1), y @ torch.linalg.pinv(physics.matrix, rtol=1e-5).mT, atol=1e-4)


def test_one_gamma_for_each_sample():
    physics, z = SensingMatrix(random((16,), batch=5), (1, 4, 4)), random((1, 4, 4), seed=1)
    y, gammas = physics.A(random((1, 4, 4))), torch.tensor([0.5, 3.0])
    mask = (random((5,), seed=2) > 0).float()
    for operator in (physics, MaskedOperator(physics, mask)):
        together = operator.prox_l2(z, y, gammas)
        for i in range(2):
            alone = with_mask(operator, mask[i : i + 1]) if operator is not physics else physics
            assert torch.allclose(together[i], alone.prox_l2(z[i : i + 1], y[i : i + 1], float(gammas[i]))[0], atol=1e-5)


@pytest.mark.parametrize("name", ["Tomography", "Tomography-number", "Tomography-fan"])
def test_filtered_back_projection_of_a_split_makes_up_for_the_angles_that_it_lacks(name, tmp_path):
    """A disc looks the same from everywhere: every other angle makes it as bright as all of them do."""
    operator = made(name, tmp_path)
    physics = operator.physics
    disc = ((torch.linspace(-1, 1, 16)[:, None] ** 2 + torch.linspace(-1, 1, 16) ** 2) < 0.3).float().expand(2, 1, 16, 16)
    y = physics.A(disc)
    mask = torch.zeros_like(y)
    mask[..., ::2] = 1
    whole, part = physics.A_dagger(y), split_operator(physics, mask, y).A_dagger(y)
    assert (physics.A(whole) - y).norm() < 0.5 * (physics.A(physics.fbp(y)) - y).norm()
    assert 0.85 < (part * disc).sum() / (whole * disc).sum() < 1.15


def test_tomography_without_refinement_is_filtered_back_projection():
    physics = Tomography(angles=7, img_width=12, normalize=True, refine_steps=0)
    y = physics.A(random((1, 12, 12)))
    assert torch.equal(physics.A_dagger(y), physics.fbp(y))
    with pytest.raises(ValueError, match="refine_steps must be 0 or more"):
        Tomography(angles=7, img_width=12, refine_steps=-1)


def test_refined_back_projection_agrees_with_whole_and_split_as_well_as_any_image_can():
    """Against dense least squares; a split of no angle at all is nothing."""
    physics = Tomography(angles=4, img_width=6, normalize=True, refine_steps=300)
    dense = torch.stack([physics.A(one.view(1, 1, 6, 6)).flatten() for one in torch.eye(36)], 1).double()
    y = torch.randn(2, 1, 9, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(y)
    mask[..., 1:] = 1
    for operator, kept in ((physics, torch.ones_like(mask)), (MaskedOperator(physics, mask), mask)):
        rows = kept[0].flatten()[:, None] * dense
        wanted = rows @ torch.linalg.pinv(rows, rtol=1e-5) @ y.flatten(1).double().mT
        assert (operator.A(operator.A_dagger(y)).flatten(1).mT - wanted).norm() < 0.01 * wanted.norm()
    assert not MaskedOperator(physics, torch.zeros_like(y)).A_dagger(y).any()


def test_trap_9_split_mri_keeps_three_d(tmp_path):
    operator = made("MRI-3D", tmp_path)
    first, _, mask, _, y = split_of(operator)
    x = random(operator.image.shape)
    assert type(first) is MRI and first.three_d
    assert torch.allclose(first.A(x), mask * operator.physics.A(x), atol=1e-5)


def test_trap_9_points_of_a_volume_are_split_each_for_itself(tmp_path):
    """deepinv keeps the mask (1, D, H, W), as if the slices were channels."""
    operator = made("MRI-3D", tmp_path)
    assert sampling_mask(operator.physics).shape == (1, 1, 4, 8, 8)
    mask = split_of(operator)[2]
    given, measured = mask[:, 0], sampling_mask(operator.physics)[:, 0].expand(2, 4, 8, 8)
    assert given.flatten(1).sum(1).tolist() == [int(0.9 * float(one.sum())) for one in measured]


def test_trap_10_singular_values_are_no_sampling_mask(tmp_path):
    blur = made("BlurFFT", tmp_path).physics
    assert isinstance(blur, BlurFFT) and sampling_mask(blur) is None
    virtual = VirtualOperator(blur, Batch(named_group("D4", (1, 16, 16)).draw(1, 5)), True)
    assert not hasattr(virtual, "mask")
    assert sampling_mask(made("SinglePixelCamera-random", tmp_path).physics) is None


def test_trap_10_boolean_masks_become_numbers(tmp_path):
    """They crash in deepinv's `1 - mask`."""
    np.save(tmp_path / "mask.npy", MASK > 0)
    part = as_component({"name": "MRI", "mask": {"file": str(tmp_path / "mask.npy")}})
    operator = build_operator(part, ArrayStack(np.zeros((1, 2, 16, 16), np.float32), ["x"]), pictures=True, seed=0)
    rest = split_of(operator)[3]
    assert rest.dtype == operator.physics.mask.dtype == torch.float32 and rest.any()


@pytest.mark.parametrize("name", ["MultiCoilMRI", "MultiCoilMRI-3D"])
def test_trap_11_split_multi_coil_mri_is_multi_coil_mri(name, tmp_path):
    operator = made(name, tmp_path)
    first, _, mask, _, y = split_of(operator)
    assert type(first) is MultiCoilMRI and first.three_d == operator.physics.three_d
    assert torch.equal(first.coil_maps, operator.physics.coil_maps)
    assert torch.equal(mask, mask[:, :1, :1].expand_as(mask)), "real and imaginary part and all coils share a split"


def test_trap_11_split_tomography_has_a_mask_and_a_pseudoinverse(tmp_path):
    first, _, mask, _, y = split_of(made("Tomography", tmp_path))
    assert torch.equal(first.mask, mask) and first.img_size is None or first.img_size == (1, 16, 16)
    assert first.A_dagger(y).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("name", [n for n in OPERATORS if "Sensing" in n])
def test_trap_12_compressed_sensing_splits_single_entries_by_default(name, tmp_path):
    operator = made(name, tmp_path)
    _, _, mask, rest, y = split_of(operator)
    assert mask.shape == y.shape and 0.8 < mask.mean() < 0.95
    assert rest.flatten(1).any(1).all()


@pytest.mark.parametrize("name", ["MRI", "SensingMatrix", "MultiCoilMRI", "DynamicMRI", "Tomography"])
def test_trap_15_virtual_operators_keep_mask_and_image_size(name, tmp_path):
    """VarNet and others read both off the physics."""
    operator = made(name, tmp_path)
    first = split_of(operator)[0]
    virtual = VirtualOperator(first, Batch(named_group("D4", operator.image.shape).draw(2, 5)), True)
    assert torch.equal(virtual.mask, first.mask) and virtual.img_size == first.img_size


@pytest.mark.parametrize("name", ["Inpainting", "MRI", "MultiCoilMRI", "DynamicMRI", "CompressedSensing", "Tomography", "Blur"])
def test_trap_16_updating_a_split_leaves_the_operator_as_it_was(name, tmp_path):
    operator = made(name, tmp_path)
    operator.physics.noise_model = GaussianNoise(sigma=0.1)
    first = split_of(operator)[0]
    virtual = VirtualOperator(first, Batch(named_group("D4", operator.image.shape).draw(2, 5)), True)
    mask = first.mask.clone()
    twin = with_noise(operator.physics, GaussianNoise(sigma=0.5))
    for physics in (virtual, first, twin):
        physics.update(sigma=torch.tensor(0.7), mask=torch.zeros_like(physics.mask) if hasattr(physics, "mask") else None)
        assert float(physics.noise_model.sigma) == pytest.approx(0.7)
    assert not virtual.mask.any() and mask.any()
    assert float(operator.physics.noise_model.sigma) == pytest.approx(0.1)
    assert sampling_mask(operator.physics) is None or sampling_mask(operator.physics).any()


def test_trap_16_a_split_of_one_batch_does_not_go_stale_for_the_next(tmp_path):
    operator = made("MultiCoilMRI", tmp_path)
    for batch in (3, 2):
        y = operator.physics.A(random(operator.image.shape, batch=batch))
        full = sampling_mask(operator.physics)
        split = split_operator(operator.physics, full.expand_as(y), y)
        assert torch.allclose(split.A_adjoint(y), operator.physics.A_adjoint(y), atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_average_over_splits_and_group_does_not_depend_on_the_memory_it_takes(name, tmp_path):
    operator = made(name, tmp_path)
    splitter, _ = build_splitter(None, operator, 0, torch.device("cpu"))
    group = named_group("reflections", operator.image.shape)
    y = operator.physics.A(random(operator.image.shape))
    network = ArtifactRemoval(torch.nn.Identity())
    network.backbone_net.forward = lambda x, sigma=None: torch.tanh(x.flip(-1)) + x
    rule = TestRule(2, tuple(group.elements()))
    whole, thrifty = (average(network, y, operator.physics, rule, group, splitter, max_batch=size) for size in (64, 1))
    assert torch.allclose(whole, thrifty, atol=1e-4)


def test_updating_a_virtual_operator_leaves_its_split_as_it_was():
    split = Inpainting((1, 4, 4), mask=torch.ones(1, 1, 4, 4))
    virtual = VirtualOperator(split, Batch(named_group("D4", (1, 4, 4)).draw(1, 5)), True)
    virtual.update(mask=torch.zeros(1, 1, 4, 4))
    assert not virtual.mask.any() and split.mask.all()


def test_splits_are_those_of_deepinv_where_deepinvs_are_right():
    physics = MultiCoilMRI(mask=torch.ones(8, 8), coil_maps=torch.randn(3, 8, 8, dtype=torch.complex64))
    x = random((2, 8, 8))
    y = physics.A(x)
    mask = GaussianMaskGenerator((2, 8, 8), acceleration=2).step(batch_size=2)["mask"]
    y_theirs, theirs = SplittingLoss.split(mask, y, physics)
    ours = split_operator(physics, mask[:, :, None].expand_as(y), y)
    assert torch.allclose(ours.A(x), theirs.A(x), atol=1e-5) and torch.allclose(ours.A_adjoint(y), theirs.A_adjoint(y_theirs), atol=1e-5)
