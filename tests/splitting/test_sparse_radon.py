"""The Radon transform as a sparse matrix is deepinv's."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import Denoising
from operators import random

from es_cli.splitting import sparse_radon
from es_cli.splitting.sparse_radon import with_sparse_radon
from es_cli.splitting.tomography import Tomography

FAN = {"fan_beam": True, "fan_parameters": {"n_detector_pixels": 20}}


@pytest.mark.parametrize("options", [{}, {"circle": True}, {"parallel_computation": False}, {"normalize": True}, FAN, {"adjoint_via_backprop": False}])
def test_images_sinograms_and_pseudoinverse_are_those_of_deepinv(options):
    physics = Tomography(**{"angles": 9, "img_width": 17, "circle": False, "normalize": False, **options})
    fast = with_sparse_radon(physics)
    assert fast is not physics and fast.radon is with_sparse_radon(physics).radon
    x = random((2, 17, 17), batch=3)
    y = physics.A(x)
    assert torch.allclose(fast.A(x), y, atol=1e-5 * float(y.abs().max()))
    z = random(y.shape[1:], seed=1, batch=3)
    back = fast.A_adjoint(z)
    assert float((fast.A(x) * z).sum()) == pytest.approx(float((x * back).sum()), rel=1e-3)
    if options.get("adjoint_via_backprop", True):
        wanted = physics.A_adjoint(z)
        assert torch.allclose(back, wanted, atol=1e-5 * float(wanted.abs().max()))
        wanted = physics.A_dagger(y)
        assert torch.allclose(fast.A_dagger(y), wanted, atol=1e-3 * float(wanted.abs().max()))


def test_what_is_no_tomography_or_too_large_stays_as_it_is(monkeypatch):
    assert isinstance(with_sparse_radon(Denoising()), Denoising)
    monkeypatch.setattr(sparse_radon, "MOST_WEIGHTS", 100)
    physics = Tomography(angles=9, img_width=16, normalize=False)
    assert with_sparse_radon(physics) is physics
