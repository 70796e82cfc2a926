"""A few steps of conjugate gradients against closed forms and dense solutions."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import MRI

from es_cli.splitting.conjugate_gradients import conjugate_gradients, least_squares, proximal
from es_cli.splitting.group import Batch, named_group
from es_cli.splitting.operators import split_operator
from es_cli.splitting.tomography import Tomography
from es_cli.splitting.unrolled import DataConsistentMoDL
from es_cli.splitting.virtual import virtual_operator


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masked_mri():
    mask = (draw(9, 9) > 0).float()
    physics = MRI(mask=mask)
    y = physics.A(draw(3, 2, 9, 9))
    return split_operator(physics, (draw(3, 1, 9, 9, seed=1) > -0.5).float(), y), y


def test_enough_steps_solve_a_dense_system_and_more_do_no_harm():
    matrix = draw(12, 8).double()
    normal = matrix.mT @ matrix
    right = draw(3, 8, seed=1).double()
    wanted = torch.linalg.solve(normal, right.mT).mT
    for steps in (8, 200):
        made = conjugate_gradients(lambda v: v @ normal, right, torch.zeros(3, 8, dtype=torch.float64), steps)
        assert torch.allclose(made, wanted, atol=1e-6)


@pytest.mark.parametrize("gamma", [3.0, torch.tensor([0.5, 3.0, 20.0]).view(3, 1, 1, 1)], ids=["one weight", "one for each sample"])
def test_the_proximal_step_is_that_of_the_closed_form_and_so_is_its_gradient(gamma):
    physics, y = masked_mri()
    z, w = draw(3, 2, 9, 9, seed=2).requires_grad_(), draw(3, 2, 9, 9, seed=3)
    exact, near = physics.prox_l2(z, y, gamma), proximal(physics, z, y, gamma, 6)
    assert torch.allclose(near, exact, atol=1e-4)
    gradients = [torch.autograd.grad(one, z, w)[0] for one in (exact, near)]
    assert torch.allclose(*gradients, atol=1e-3)


def test_each_sample_is_solved_for_itself():
    """Also where another one of the batch has nothing left to improve."""
    physics = Tomography(angles=5, img_width=9, normalize=True)
    y, start = physics.A(draw(3, 1, 9, 9)), draw(3, 1, 9, 9, seed=1)
    start[1] = draw(3, 1, 9, 9)[1]
    together = least_squares(physics, y, start, 3)
    assert torch.allclose(together[1], start[1], atol=1e-5)
    for i in range(3):
        assert torch.allclose(together[i], least_squares(physics, y[i : i + 1], start[i : i + 1], 3)[0], atol=1e-5)


def test_modl_by_conjugate_gradients_is_modl_by_the_closed_form_in_the_frame_of_a_virtual_operator_too():
    physics, y = masked_mri()
    virtual = virtual_operator(physics, Batch(named_group("D4", (2, 9, 9)).draw(3, 1)), True)
    denoiser = torch.nn.Conv2d(2, 2, 3, padding=1)

    class Network(torch.nn.Module):
        def forward(self, x, sigma=None):
            return denoiser(x)

    exact, near, start = (DataConsistentMoDL(Network(), 2, **given) for given in ({}, {"solver_steps": 8}, {"start": "pinv"}))
    for operator in (physics, virtual):
        assert torch.allclose(near(y, operator), exact(y, operator), atol=1e-4)
    # what the pseudoinverse of masked Fourier samples is: their adjoint
    assert torch.allclose(start(y, physics), exact(y, physics), atol=1e-5)


def test_modl_from_the_pseudoinverse_of_tomography_starts_there():
    physics = Tomography(angles=6, img_width=12, normalize=True)
    y = physics.A(draw(2, 1, 12, 12))
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x, sigma=None):
            seen.append(x.detach())
            return x

    DataConsistentMoDL(Network(), 1, start="pinv", solver_steps=2)(y, physics)
    assert torch.equal(seen[0], physics.A_dagger(y))


@pytest.mark.parametrize(("given", "message"), [({"start": "zero"}, "start must be adjoint or pinv"), ({"solver_steps": 0}, "solver_steps must be 1 or more")])
def test_what_modl_cannot_do_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DataConsistentMoDL(torch.nn.Identity(), 1, **given)
