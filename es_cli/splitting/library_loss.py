"""A loss of deepinv beside equivariant splitting, or alone: its draws follow from our seeds, its noise level from the operator, and it can
be evaluated without a gradient and without ground truth.

deepinv wraps the network of some losses in a model of its own (`adapt_model`). Here that model is made anew for each use, so that the
bare network stays what is trained and saved; what the other losses of a sum see is the bare network on the full measurement.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from deepinv.loss import Loss, R2RLoss, SplittingLoss, SurePGLoss
from deepinv.loss.mri import Artifact2ArtifactLoss, RobustSplittingLoss, WeightedSplittingLoss
from deepinv.physics import GaussianNoise
from deepinv.physics.generator import PhysicsGenerator
from torch import Tensor, nn

from es_cli.splitting.masks import Splitter, draw_split
from es_cli.splitting.noise import level
from es_cli.splitting.objective import Pass, own_of
from es_cli.splitting.parameters import of_one_sample
from es_cli.splitting.virtual import split_operator
from es_cli.streams import reseed, stream_seed

# what UNSURE learns: the noise level, and with SurePGLoss the gain
LEARNED = ("sigma2", "gain")
# how often a generator is asked for a split of which neither side is empty
ATTEMPTS = 8


class SeededSplits(PhysicsGenerator):
    """Splits for losses of deepinv, as equivariant splitting draws them: in one pass for a batch, and where it can be with no side empty.

    `img_size` is the shape (C, …) of a mask where the operator has none of its own. deepinv draws empty sides, and then divides by 0.
    """

    def __init__(self, splitter: Splitter, img_size: tuple[int, ...]) -> None:
        super().__init__(device=splitter.generator.device)
        self.splitter, self.img_size = splitter, img_size

    def step(self, batch_size: int = 1, seed: int | None = None, input_mask: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """A mask (batch_size, C, …) under "mask", as deepinv's generators give it."""
        self.rng_manual_seed(seed)
        drawn = int(torch.randint(2**62, (1,), generator=self.rng, device=self.rng.device))
        full = input_mask if isinstance(input_mask, Tensor) and input_mask.numel() > 1 else None
        shape = (batch_size, *(self.img_size if full is None else full.shape[1:]))
        for attempt in range(ATTEMPTS):
            mask = draw_split(self.splitter, shape, full, stream_seed(drawn, "attempt", attempt))
            rest = (1 if full is None else full) - mask
            if bool((mask.flatten(1).any(1) & rest.flatten(1).any(1)).all()):
                break
        return {"mask": mask}

    def average(self, n: int = 2000, batch_size: int = 1, **kwargs: Any) -> dict[str, Tensor]:
        """How often each entry is kept, by `n` draws; many at once, which deepinv's weighted losses do not ask for."""
        return super().average(n, max(batch_size, n // 20), **kwargs)


def split(mask: Tensor, y: Tensor, physics: Any = None) -> Any:
    """`deepinv.loss.SplittingLoss.split`, with operators of the same kind as `physics` where that can be (deepinv makes a 3D MRI flat)."""
    if physics is None or mask.shape != y.shape:
        return SplittingLoss.split(mask, y, physics)
    return mask * y, split_operator(physics, mask, y)


def quick_to_clone(physics: Any) -> Any:
    """`physics` with a `clone` that shares its tensors, for losses that change an operator's parameters or methods and nothing in place.

    deepinv's own looks at every attribute of every attribute, a third of a second each time.
    """
    copied = _light_copy(physics)
    copied.clone = lambda: _light_copy(physics)
    return copied


def _light_copy(module: nn.Module) -> nn.Module:
    made = copy.copy(module)
    made._buffers, made._parameters = dict(module._buffers), dict(module._parameters)
    made._modules = {name: None if inner is None else _light_copy(inner) for name, inner in module._modules.items()}
    return made


class WithoutGradient(nn.Module):
    """A network that builds no graph, also inside models that switch gradients on by themselves (deepinv's splitting and R2R models)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def takes_ground_truth(cls: Any) -> bool:
    """Whether a class of deepinv's losses compares with the image x."""
    return "x" in inspect.signature(cls.forward).parameters


class LibraryLoss(nn.Module):
    """A loss of deepinv as a term of an objective.

    `purpose` keys its draws. `follows` names those of its parameters (sigma, gain, noise_model) that are the operator's, sample by sample.
    Evaluated without gradients, it is computed as in training, on ONE draw: deepinv's models average in evaluation mode over draws that
    together have seen all that they are judged by, or keep nothing to be judged by.
    """

    def __init__(self, loss: Any, purpose: str = "loss", follows: Collection[str] = ()) -> None:
        super().__init__()
        self.loss, self.purpose, self.follows = loss, purpose, frozenset(follows)
        self.adapts = type(loss).adapt_model is not Loss.adapt_model
        self.needs_ground_truth = takes_ground_truth(type(loss))
        self.needs_image = "x_net" in inspect.signature(loss.forward).parameters or self.adapts
        self.learns = bool(getattr(loss, "unsure", False))
        if type(loss) in {SplittingLoss, WeightedSplittingLoss, RobustSplittingLoss}:
            loss.split = split
        for name in LEARNED if self.learns else ():
            if isinstance(getattr(loss, name, None), Tensor):
                self.register_buffer(f"learned_{name}", getattr(loss, name).detach().clone())

    def forward(self, batch: Pass) -> Tensor:
        """The loss of a batch, a scalar."""
        if len(batch.y) > 1 and self._one_by_one(batch):
            return torch.stack([self(of_sample(batch, i)) for i in range(len(batch.y))]).mean()
        self._reseed(batch)
        self._follow_noise(batch)
        with self._learning():
            return (self._adapted(batch) if self.adapts else self._bare(batch)).mean()

    def _one_by_one(self, batch: Pass) -> bool:
        """Whether deepinv's loss is right for a single sample only (0.5.0)."""
        if isinstance(self.loss, SurePGLoss):  # levels that differ from sample to sample do not go with its sums
            return any(level.numel() > 1 for level in batch.physics.noise_model.buffers())
        # it remembers the chunk that the last sample was given, and takes it for that of all
        return isinstance(self.loss, Artifact2ArtifactLoss)

    def _bare(self, batch: Pass) -> Tensor:
        image = {"x_net": batch.bare} if self.needs_image else {}
        return self.loss(x=batch.x, y=batch.y, physics=quick_to_clone(batch.physics), model=batch.network, **image)

    def _adapted(self, batch: Pass) -> Tensor:
        network = batch.network if torch.is_grad_enabled() else WithoutGradient(batch.network)
        adapted = self.loss.adapt_model(network)  # a new module is in training mode; the network's own mode stays what it is
        if type(adapted) is SplittingLoss.SplittingModel:
            adapted.split = split
        image = adapted(batch.y, batch.physics, update_parameters=True)
        return self.loss(x=batch.x, x_net=image, y=batch.y, physics=batch.physics, model=adapted)

    def _reseed(self, batch: Pass) -> None:
        """Draws come from the loss's generators, from the noise model's, and from torch's global stream (R2R, Neighbor2Neighbor)."""
        # rows of a batch have streams of their own: their draws are those of the whole batch in distribution, and not in value
        seed = batch.seed if batch.share is None else stream_seed(batch.seed, "rows", batch.share.rows.start)
        torch.manual_seed(stream_seed(seed, self.purpose))
        reseed(self.loss, stream_seed(seed, self.purpose, 1))
        reseed(batch.physics, stream_seed(seed, self.purpose, 2))

    def _follow_noise(self, batch: Pass) -> None:
        if not self.follows or self.learns:
            return
        loss, noise = self.loss, batch.physics.noise_model
        if "sigma" in self.follows:
            loss.sigma2 = noise.sigma**2
        if "gain" in self.follows:
            loss.gain = level(noise.gain, batch.y)
        if "noise_model" in self.follows and isinstance(loss, R2RLoss):
            loss.noise_model = _for_r2r(noise, batch.y)
        if "noise_model" in self.follows and isinstance(loss, RobustSplittingLoss):
            loss.noise_model = GaussianNoise(sigma=noise.sigma * loss.alpha)

    @contextlib.contextmanager
    def _learning(self) -> Iterator[None]:
        """UNSURE learns as it trains, and only then. What it learned is a buffer: deepinv keeps it in a graph that grows with each step."""
        if not self.learns:
            yield
            return
        names = [name for name in LEARNED if hasattr(self, f"learned_{name}")]
        for name in names:
            setattr(self.loss, name, getattr(self, f"learned_{name}").clone().requires_grad_(torch.is_grad_enabled()))
        self.loss.unsure = torch.is_grad_enabled()
        yield
        for name in names:
            setattr(self, f"learned_{name}", getattr(self.loss, name).detach())


def of_sample(batch: Pass, i: int) -> Pass:
    """Sample `i` of a batch as a batch of its own, with a seed of its own."""
    x, scale, first = own_of(batch.x, i), own_of(batch.scale, i), 0 if batch.share is None else batch.share.rows.start
    return Pass(batch.network, of_one_sample(batch.physics, i), batch.y[i : i + 1], x, stream_seed(batch.seed, "sample", first + i), scale)


def _for_r2r(noise: Any, y: Tensor) -> Any:
    """The noise model with levels that multiply y (B, …): deepinv scales columns by a σ of shape (B,), or fails."""
    made = copy.copy(noise)
    made._buffers = {name: level(value, y) for name, value in noise._buffers.items()}
    return made
