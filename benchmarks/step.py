"""A step of the objective against forward and backward of the bare network on the same batch, in turns: `python benchmarks/step.py`.

The bare network is given what it is given in the objective, a measurement and an operator; its loss is the mean square of its image. Prints one
JSON line with the median ratio for each task, and the ratio of the bare network with its weights channels last, as here, to the same network as
deepinv makes it.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from deepinv.loss import MCLoss
from deepinv.models import ArtifactRemoval, UNet
from deepinv.physics import MRI, Inpainting
from deepinv.physics.generator import BernoulliSplittingMaskGenerator

from es_cli.networks.memory import channels_last
from es_cli.splitting.consistency import Measured
from es_cli.splitting.group import named_group
from es_cli.splitting.masks import LineSplittingMaskGenerator
from es_cli.splitting.objective import EquivariantSplitting, Objective
from es_cli.splitting.unrolled import DataConsistentMoDL

ROUNDS, BATCH, SIZE = 25, 8, 64


def tasks() -> dict:
    """Network, operator and splitter of each task, at the size of the shipped specs."""
    rng = torch.Generator().manual_seed(0)
    columns = (torch.rand(1, SIZE, generator=rng) < 0.3).float().expand(SIZE, SIZE).contiguous()
    pixels = (torch.rand(1, SIZE, SIZE, generator=rng) < 0.3).float().expand(3, -1, -1)

    def unet(channels: int) -> UNet:
        return UNet(channels, channels, batch_norm=False, channels_per_scale=[24, 48, 96])

    return {
        "inpainting, artifact removal": (
            ArtifactRemoval(unet(3)),
            Inpainting((3, SIZE, SIZE), mask=pixels),
            BernoulliSplittingMaskGenerator((3, SIZE, SIZE), 0.8, random_split_ratio=True, min_split_ratio=0.5),
        ),
        "MRI, MoDL × 3": (DataConsistentMoDL(unet(2)), MRI(mask=columns), LineSplittingMaskGenerator((2, SIZE, SIZE), center_lines=4)),
    }


def seconds(step: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    step().backward()
    return time.perf_counter() - started


def main() -> None:
    ratios, layouts = {}, {}
    for name, (network, physics, splitter) in tasks().items():
        y = physics.A(torch.rand(BATCH, 3 if "inpainting" in name else 2, SIZE, SIZE))
        term = EquivariantSplitting(named_group("D4", y.shape), splitter, Measured(MCLoss()), MCLoss())
        objective = Objective(network, [("es", 1.0, term)])
        plain = copy.deepcopy(network)
        channels_last(network)
        measured = []
        for i in range(ROUNDS):
            as_made = seconds(lambda f=plain, y=y, p=physics: (f(y, p) ** 2).mean())
            bare = seconds(lambda f=network, y=y, p=physics: (f(y, p) ** 2).mean())
            full = seconds(lambda f=objective, y=y, p=physics, i=i: f(y, p, i)[0])
            measured.append((full / bare, bare / as_made))
        ratios[name], layouts[name] = (round(statistics.median(column), 3) for column in zip(*measured[5:], strict=True))
    print(json.dumps({"step / bare network": ratios, "channels last / as made": layouts}, ensure_ascii=False))


if __name__ == "__main__":
    main()
