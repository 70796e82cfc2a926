"""The rows that several processes have of a batch come to the loss and the gradient of the whole batch; threads stand in for the processes."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from es_cli.catalog import load_spec
from es_cli.data.batches import Epochs
from es_cli.experiment import build_experiment
from es_cli.splitting.folds import Visit
from es_cli.splitting.shares import Share

CPU = torch.device("cpu")
NOISE = "physics.noise_model={name: GaussianNoise, sigma: 0.05}"


class Sum:
    """The sum of what each of `count` threads brings, which wait for each other."""

    def __init__(self, count: int) -> None:
        self.held, self.barrier = [torch.zeros(())] * count, threading.Barrier(count, timeout=60)

    def of(self, number: int):
        def add(values: torch.Tensor) -> torch.Tensor:
            self.held[number] = values
            self.barrier.wait()
            total = torch.stack(self.held).sum(0)
            self.barrier.wait()
            return total

        return add


def sided(loss: str) -> list[str]:
    return [NOISE, f"losses=[{{name: EquivariantSplittingLoss, consistency_loss: {loss}}}]"]


CASES = {
    "random splits": ["training.splits=random"],
    "complementary splits": ["training.splits=complementary"],
    "splits of deepinv": ["mask_generator={name: GaussianSplittingMaskGenerator, split_ratio: 0.7}"],
    "R2R": sided("{name: R2RLoss, alpha: 0.15}"),
    "SURE": sided("{name: SureGaussianLoss}"),
    "UNSURE": sided("{name: SureGaussianLoss, unsure: true}"),
    "a loss of deepinv": ["losses=[MCLoss]"],
    "a scale of each sample": ["data.scale=per-sample"],
}


@pytest.mark.parametrize("problem", ["inpainting", "mri"])
@pytest.mark.parametrize("case", CASES)
def test_rows_of_a_batch_come_to_its_loss_and_its_gradient(request, problem, case):
    if problem == "mri" and case == "splits of deepinv":
        pytest.skip("they split pixels")
    made = build_experiment(load_spec(request.getfixturevalue(problem), CASES[case]), CPU)
    positions = Epochs(made.train, 5, made.spec.seed).positions(1)
    whole, terms, gradient, learned = computed(made, positions, None)
    for count in (2, 3, 6):  # the last has a process for whom nothing is left
        total = Sum(count)
        shares = [share(number, count, len(positions), total.of(number)) for number in range(count)]
        with ThreadPoolExecutor(count) as threads:
            parts = list(threads.map(lambda one: computed(made, positions, one), shares))
        assert torch.allclose(sum(one.weight * loss for one, (loss, *_) in zip(shares, parts, strict=True)), whole, rtol=1e-5, atol=1e-7)
        for name, value in terms.items():
            assert torch.allclose(sum(one.weight * own[name] for one, (_, own, *_) in zip(shares, parts, strict=True)), value, rtol=1e-5, atol=1e-7)
        for i, of_whole in enumerate(gradient):
            assert torch.allclose(sum(one.weight * part[2][i] for one, part in zip(shares, parts, strict=True)), of_whole, rtol=1e-3, atol=1e-6)
        for part in parts:
            for name, value in learned.items():
                assert torch.allclose(part[3][name], value, rtol=1e-4, atol=1e-6), (name, part[3][name], value)


def share(number: int, count: int, total: int, add) -> Share:
    """Rows as even as they can be; the first one, of no weight, where there is none."""
    first, last = (total * n // count for n in (number, number + 1))
    return Share(slice(first, last) if last > first else slice(0, 1), total, (last - first) / total, add)


def computed(made, positions, one):
    """Loss, terms and gradient of these samples, or of a share of them, and what the losses learned."""
    objective = copy.deepcopy(made.objective)
    own = positions if one is None else positions[one.rows]
    y, x, physics, scale = made.reconstruction.batch(made.train, own, CPU)
    loss, terms = objective(y, physics, 11, x, scale, Visit(made.spec.seed, made.train.keys(own), 0), one)
    gradient = torch.autograd.grad(loss, [p for p in objective.parameters() if p.requires_grad])
    return loss.detach(), terms, gradient, objective.learned()
