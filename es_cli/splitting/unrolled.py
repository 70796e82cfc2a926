"""Unrolled networks: a few iterations of an optimization algorithm around a denoiser, trained from end to end."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

from deepinv.models import Reconstructor
from deepinv.optim import ADMM, DRS, FISTA, HQS, PGD, BaseOptim
from deepinv.optim.data_fidelity import L2
from deepinv.optim.optim_iterators import HQSIteration
from deepinv.optim.prior import PnP
from deepinv.physics import LinearPhysics
from torch import Tensor, nn

from es_cli.splitting.conjugate_gradients import proximal
from es_cli.splitting.virtual import VirtualOperator

ALGORITHMS = {"HQS": HQS, "PGD": PGD, "FISTA": FISTA, "ADMM": ADMM, "DRS": DRS}
NEEDS_GRADIENT = {"PGD", "FISTA"}
TRAINABLE = {"stepsize", "g_param", "lambda_reg", "beta"}


class DataConsistentMoDL(BaseOptim):
    """MoDL as published: each iteration applies the denoiser and then returns to the measurements.

    `deepinv.models.MoDL` has the two steps the other way round, so that its image leaves the denoiser and need not agree with what was
    measured, and starts with equal trust in both. Source: Aggarwal et al., MoDL, IEEE TMI 2019, eq. 11.

    :param torch.nn.Module denoiser: the network that is applied in every iteration, with the same weights.
    :param int num_iter: number of unrolled iterations.
    :param float data_weight: weight of data consistency before training; it is trained.
    :param str start: the image that the first iteration denoises: adjoint, or pinv for the pseudoinverse, which tomography needs.
    :param int solver_steps: conjugate gradient steps of each return to the measurements, from the denoised image; None: the operator's own solution,
        which is exact, and slow where the operator has no closed form (multi-coil MRI, tomography, blur).
    """

    def __init__(
        self, denoiser: nn.Module, num_iter: int = 3, data_weight: float = 10.0, start: Literal["adjoint", "pinv"] = "adjoint", solver_steps: int | None = None
    ) -> None:
        if start not in ("adjoint", "pinv"):
            raise ValueError(f"start must be adjoint or pinv, got {start}")
        if solver_steps is not None and solver_steps < 1:
            raise ValueError(f"solver_steps must be 1 or more, or left out, got {solver_steps}")
        super().__init__(
            HQSIteration(g_first=True),
            max_iter=num_iter,
            trainable_params=["stepsize"],
            data_fidelity=L2(),
            prior=PnP(denoiser=denoiser),
            params_algo={"stepsize": [data_weight] * num_iter, "g_param": [0.01] * num_iter, "lambda_reg": [1.0] * num_iter},
            unfold=True,
            g_first=True,
            custom_init=_pseudoinverse if start == "pinv" else None,
        )
        self.solver_steps = solver_steps

    def forward(self, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        """The image (B, C, H, W) from y (B, …)."""
        return super().forward(y, physics if self.solver_steps is None else _FewSteps(physics, self.solver_steps), **kwargs)


def _pseudoinverse(y: Tensor, physics: Any) -> Tensor:
    return physics.A_dagger(y)


class _FewSteps(LinearPhysics):
    """An operator whose proximal step is a few steps of conjugate gradients from where it starts."""

    def __init__(self, physics: Any, steps: int) -> None:
        super().__init__()
        self.physics, self.steps = physics, steps

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A(x, **kwargs)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A_adjoint(y, **kwargs)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.physics.A_dagger(y, **kwargs)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """γ/2 ‖A x − y‖² + ½ ‖x − z‖², nearly minimised; in the frame of A where A is turned by an orthogonal T_g, which is moved once then."""
        if isinstance(self.physics, VirtualOperator) and self.physics.orthogonal:
            g = self.physics.g
            return g.inverse(proximal(self.physics.physics, g.act(z), y, gamma, self.steps))
        return proximal(self.physics, z, y, gamma, self.steps)


class Unrolled(Reconstructor):
    """One of deepinv's algorithms, unrolled: each iteration a step towards the measurements and one through the denoiser.

    With a denoiser that is equivariant the whole is equivariant in y and A. ValueError for what the algorithm does not know.

    :param torch.nn.Module denoiser: the network that is applied in every iteration.
    :param str algorithm: HQS, ADMM and DRS solve for the measurements in each iteration, PGD and FISTA make a step along the gradient.
    :param int num_iter: number of unrolled iterations.
    :param bool shared: whether all iterations apply the same weights; if not, each has a copy of its own that starts from the same.
    :param float stepsize: stepsize of each iteration before training; for HQS, ADMM and DRS the weight of the measurements.
    :param float sigma_denoiser: noise level that the denoiser is told before training, for denoisers that ask for one.
    :param bool g_first: whether the denoiser comes first in an iteration, so that the last step is that towards the measurements; not for PGD and FISTA.
    :param Sequence[str] trainable_params: which of stepsize, g_param (the noise level), lambda_reg and beta are trained, one value for each iteration.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        algorithm: Literal["HQS", "PGD", "FISTA", "ADMM", "DRS"] = "HQS",
        num_iter: int = 3,
        shared: bool = True,
        stepsize: float = 1.0,
        sigma_denoiser: float = 0.01,
        g_first: bool = False,
        trainable_params: Sequence[str] = ("stepsize", "g_param"),
    ) -> None:
        super().__init__()
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm}")
        if g_first and algorithm in NEEDS_GRADIENT:
            raise ValueError(f"{algorithm} with g_first follows the gradient of the prior, and a denoiser has none; use HQS, ADMM or DRS")
        unknown = set(trainable_params) - TRAINABLE
        if unknown:
            raise ValueError(f"trainable_params takes {', '.join(sorted(TRAINABLE))}, got {', '.join(sorted(unknown))}")
        copies = [denoiser] if shared else [denoiser, *(copy.deepcopy(denoiser) for _ in range(num_iter - 1))]
        self.algorithm = ALGORITHMS[algorithm](
            data_fidelity=L2(),
            prior=[PnP(denoiser=one) for one in copies],
            stepsize=[stepsize] * num_iter,
            g_param=[sigma_denoiser] * num_iter,
            lambda_reg=[1.0] * num_iter,
            max_iter=num_iter,
            unfold=True,
            g_first=g_first,
            # deepinv renames what it finds in the list that it is given
            trainable_params=list(trainable_params),
        )

    def forward(self, y: Tensor, physics: Any, **kwargs: Any) -> Tensor:
        """The image (B, C, H, W) from y (B, …)."""
        return self.algorithm(y, physics, **kwargs)
