"""The batch that a spec asks for: the recipe's where it fits, fewer of large images, no more than there are samples."""

from __future__ import annotations

from pathlib import Path

import torch
from deepinv.models import UNet
from inspecting_folders import pixels, rough, save

from es_cli.catalog import load_spec
from es_cli.inspecting.look import look
from es_cli.inspecting.memory import BUDGET, bytes_of_sample, fitting_batch
from es_cli.inspecting.recipe import draft


def test_a_step_is_estimated_at_what_a_network_keeps_for_its_backward_pass() -> None:
    """No less than that, and at most twice: what is on the way comes on top."""
    widths, kept = [8, 16, 32], {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = UNet(in_channels=1, out_channels=1, channels_per_scale=widths, batch_norm=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(1, 1, 128, 128))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    assert 1 <= bytes_of_sample((1, 128, 128), widths) / (sum(kept.values()) - weights) <= 2.5


def test_fewer_large_images_fit() -> None:
    small, large = (bytes_of_sample((1, n, n), [32, 64, 128, 256], 3) for n in (64, 360))
    assert fitting_batch(8, small, 100) == 8 and fitting_batch(8, small, 3) == 3
    assert fitting_batch(8, large, 100) < 8 and fitting_batch(8, large, 100) * large <= BUDGET
    assert fitting_batch(8, 100 * BUDGET, 100) == 1


def test_a_spec_says_so(tmp_path: Path) -> None:
    save(tmp_path, y=rough(5, 16) * pixels(16, 0.5))
    (tmp_path / "spec.yaml").write_text(draft(look(str(tmp_path / "y.npy")), tmp_path).text)
    assert load_spec(tmp_path / "spec.yaml").training.batch_size == 5
