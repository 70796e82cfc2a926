"""Images larger than memory, or than what the network was trained on, tile by tile. Usable from Python without the command line.

A tile is measured, reconstructed and cut like the whole image: masks and noise levels with it. What a network sees of a tile's surroundings ends
at its edge, so that tiles overlap by what one pixel is seen to reach, and are blended where both are right. Only an operator that is local can be
cut so; where one mixes all pixels, as a Fourier transform does, no tile of its measurements is measurements of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from deepinv.physics import Downsampling

from es_cli.building.sizes import of_any_size, sized
from es_cli.errors import LIBRARY_ERRORS, DataError, SpecError, out_of_memory, said
from es_cli.experiment import Reconstruction, Scaling, with_test_rule
from es_cli.networks.footprint import bytes_at_most
from es_cli.reconstruct import Reconstructor
from es_cli.spec.schema import Component
from es_cli.training.runtime import full_float32

LOCAL = ("Inpainting", "Denoising", "Demosaicing", "Blur", "BlurFFT", "Downsampling")
MOVING = (None, "trivial", "reflections", "C4", "D4")  # groups whose elements move pixels and keep neighbours neighbours
FLOAT = 4  # bytes
LARGEST = 1024  # pixels along an edge: beyond, the overlap costs little, and nothing is gained
ALIGNED = 16  # tiles begin at multiples of it, so that what a U-Net pools together is the same in each
RAMP = 8  # pixels over which two tiles are blended
SPARE = 1.5  # what operations set aside, beside their results
SEEN = 5e-6  # of the greatest value: a smaller difference is none
NOISE = 0.1  # of the greatest value: what is added where it is looked how far an edge is seen, since nothing is seen in an empty place
PROBE = 128  # pixels along an edge, at first
EXACT = 1 << 24  # values of an image whose 99th percentile is taken of all of them; of a larger one, of every k-th
Cut = Callable[[slice, slice], tuple[np.ndarray, dict[str, np.ndarray]]]


def why_not(model: Reconstructor) -> str:
    """Why the images of a network cannot be made in tiles; empty where they can."""
    name, group = model.spec.physics.name, model.spec.transforms
    if name not in LOCAL:
        return f"{name} mixes all pixels, so that no part of its measurements is measurements of a part of the image"
    one = not model.made.rule.draws and {element.label for element in model.made.rule.elements} == {"identity"}
    if not one and (group.train is not None or group.group not in MOVING):
        return "its test rule averages over transformations that move what is far apart together; --test-rule one does not"
    return ""


@dataclass(frozen=True)
class Grid:
    """How measurements and images correspond along each axis: an image has `factor` pixels for each one measured, and `extra` more."""

    factor: int
    extra: tuple[int, int]

    @classmethod
    def of(cls, operator: Any) -> Grid:
        factor = int(operator.physics.factor) if isinstance(operator.physics, Downsampling) else 1
        (h, w), (height, width) = operator.measurement.shape[-2:], operator.image.shape[-2:]
        return cls(factor, (height - factor * h, width - factor * w))

    def image(self, measured: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the image of a measurement (…, h, w)."""
        return self.factor * measured[-2] + self.extra[0], self.factor * measured[-1] + self.extra[1]

    def tile(self, side: int) -> tuple[int, int]:
        """What is measured of a tile of at most `side` pixels along its edges."""
        return (side - self.extra[0]) // self.factor, (side - self.extra[1]) // self.factor


@dataclass(frozen=True)
class Plan:
    """Tiles of `side` pixels, of which the outer `margin` are thrown away but at the edges of the image; `at_once` go through the network together.

    `reach` is how far from an edge it was seen that the image ends there: where it is more than the margin, a seam may be seen.
    """

    side: int
    margin: int
    reach: int
    at_once: int = 1

    @property
    def overlap(self) -> int:
        return 2 * self.margin + RAMP


class Tiles:
    """The tiles of one image: `cut` gives the measurement (1, C, h, w) of rows and columns with the operator's parameters for them, `measured` is
    the height and width of the whole. Raises DataError where the operator or the test rule cannot be cut."""

    def __init__(self, model: Reconstructor, measured: tuple[int, int], cut: Cut) -> None:
        why = why_not(model)
        if why:
            raise DataError(f"these images cannot be cut into tiles: {why}", hint="give measurements of the size that it was trained on")
        self.model, self.measured, self.cut = model, measured, cut
        self.grid = Grid.of(model.made.operator)
        self.size = self.grid.image(measured)
        self._made: dict[int, Reconstruction] = {}

    def plan(self, budget: int, side: int | None = None) -> Plan:
        """Tiles that fit into `budget` bytes, or of `side` pixels. Raises DataError where not even a small one fits."""
        largest = self._fitting(min(LARGEST, *self.size))
        each = self._each
        band = 3 * FLOAT * self.model.made.operator.image.shape[0] * self.size[1]  # bytes for each row of the tiles that are held
        fits = int((math.sqrt(band**2 + 4 * each * max(0, budget)) - band) / (2 * each))
        chosen, probe = self._fitting(min(largest, side or fits)), self._fitting(min(PROBE, largest, fits))
        if chosen < min(2 * ALIGNED, *self.size):
            what = f"{budget / 2**20:.0f} MiB are too little for a tile: a pixel takes {each:.0f} bytes"
            raise DataError(what, hint="give --memory more, or take fewer network calls with --test-rule one")
        reach = self._reach(probe)
        while reach >= probe // 4 - 2 and probe < self._fitting(min(largest, fits)):
            probe = self._fitting(min(2 * probe, largest, fits))
            reach = self._reach(probe)
        margin = min(math.ceil(1.25 * reach) + 2, max(0, (chosen - RAMP - ALIGNED) // 2)) if chosen < max(self.size) else 0
        return Plan(chosen, margin, reach, max(1, min(32, fits**2 // chosen**2)))

    def fit_whole(self, budget: int) -> bool:
        """Whether `budget` bytes hold the whole image as it goes through the network."""
        return self._each * math.prod(self.size) <= budget

    @cached_property
    def _each(self) -> float:
        """Bytes that a pixel takes while it goes through the network."""
        probe = self._fitting(min(PROBE, *self.size))
        return SPARE * bytes_at_most(lambda: self._probed(probe)) / probe**2

    def bands(self, plan: Plan, on_tile: Callable[[int, int], None] = lambda done, total: None) -> Iterator[tuple[slice, np.ndarray]]:
        """The image, float32 (C, rows, W), in bands of rows from top to bottom; memory holds one row of tiles. `on_tile` is told (done, total)."""
        rows, columns = (_starts(n, t, -(-plan.overlap // self.grid.factor)) for n, t in zip(self.measured, self.grid.tile(plan.side), strict=True))
        made, f = self._tile(plan.side, self.scale), self.grid.factor
        (height, width), (h, w) = self.size, self.grid.tile(plan.side)
        weights = [_weights([f * n for n in starts], plan, length) for starts, length in ((rows, height), (columns, width))]
        held = np.zeros((made.operator.image.shape[0], plan.side, width), np.float32)
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                image = self._image(made, plan.at_once, slice(top, top + h), slice(left, left + w))
                place = slice(f * left, f * left + plan.side)
                held[:, :, place] += weights[0][i][:, None] * weights[1][j] * image
                on_tile(i * len(columns) + j + 1, len(rows) * len(columns))
            end = f * rows[i + 1] if i + 1 < len(rows) else height
            done = end - f * top
            yield slice(f * top, end), held[:, :done].copy()
            held = np.concatenate([held[:, done:], np.zeros_like(held[:, :done])], 1)

    @cached_property
    def scale(self) -> float | None:
        """`data.scale` of the whole image, which a tile alone does not know; None where nothing is scaled."""
        mode = self.model.made.scaling.mode
        if mode == "none":
            return None
        if not isinstance(mode, str):
            return float(mode)
        side = self._fitting(min(LARGEST, *self.size))
        made, step = self._tile(side, None), math.ceil(math.sqrt(self.model.made.operator.image.shape[0] * math.prod(self.size) / EXACT))
        seen = []
        for rows, above in _pieces(self.measured[0], self.grid.tile(side)[0]):
            for columns, before in _pieces(self.measured[1], self.grid.tile(side)[1]):
                y, params = self.cut(rows, columns)
                own = {name: torch.from_numpy(value).to(self.model.device) for name, value in params.items()}
                with torch.no_grad(), full_float32(self.model.device):
                    sample = torch.from_numpy(y).to(self.model.device)
                    x = made.physics_of(sample, own).A_adjoint(sample)[..., self.grid.factor * above :: step, self.grid.factor * before :: step]
                    seen.append(x.abs().cpu().numpy().ravel())
        values = np.concatenate(seen)
        found = float(np.quantile(values, 0.99))
        return found if found > 0 else float(values.max()) or 1.0

    def _fitting(self, side: int) -> int:
        """The greatest number of pixels up to `side` that a tile can have along both edges, a multiple of ALIGNED where it is cut from more."""
        side -= side % ALIGNED if ALIGNED <= side < min(self.size) else 0
        return min(self.grid.factor * n + extra for n, extra in zip(self.grid.tile(side), self.grid.extra, strict=True))

    def _tile(self, side: int, scale: float | None) -> Reconstruction:
        """What reconstructs tiles of `side` pixels, divided by `scale`."""
        made = self.model.made
        if side not in self._made:
            shape = (made.operator.image.shape[0], side, side)
            try:
                operator = sized(of_any_size(made.operator), shape)
                operator = replace(operator, measurement=replace(operator.measurement, free=0), image=replace(operator.image, free=0), sizes=())
                self._made[side] = _split_again(replace(made, operator=operator), self.model)
            except (*LIBRARY_ERRORS, SpecError) as error:
                if out_of_memory(error):
                    raise
                raise DataError(f"no tile of {side} × {side} pixels can be made: {said(error)}", hint="give measurements of the trained size") from error
        return replace(self._made[side], scaling=Scaling("none" if scale is None else scale))

    def _image(self, made: Reconstruction, at_once: int, rows: slice, columns: slice, noise: np.ndarray | None = None) -> np.ndarray:
        """The image (C, H, W) of a tile; `noise` (C, h, w) is added to its measurement."""
        y, params = self.cut(rows, columns)
        own = {name: torch.from_numpy(value).to(self.model.device) for name, value in params.items()}
        with full_float32(self.model.device):
            sample = torch.from_numpy(y if noise is None else y + noise).to(self.model.device)
            return made(sample, max_batch=at_once, params=own)[0].cpu().numpy()

    def _middle(self, side: int) -> list[int]:
        """Where the tile in the middle of the image begins."""
        starts = [(n - t) // 2 for n, t in zip(self.measured, self.grid.tile(side), strict=True)]
        return [start - start % ALIGNED for start in starts]

    def _probed(self, side: int, start: list[int] | None = None, noise: np.ndarray | None = None) -> np.ndarray:
        """The image of a tile that begins at `start`, None: of the one in the middle."""
        rows, columns = (slice(n, n + t) for n, t in zip(start or self._middle(side), self.grid.tile(side), strict=True))
        return self._image(self._tile(side, self.scale), 1, rows, columns, noise)

    def _reach(self, side: int) -> int:
        """How far from its edges the image of a tile, half as wide as one of `side` pixels, is another than within that one."""
        outer, inner = self._middle(side), self._fitting(side // 2)
        (h, w), (tall, wide) = self.grid.tile(inner), self.grid.tile(side)
        inset = [(n - m) // 2 - (n - m) // 2 % min(ALIGNED, max(1, (n - m) // 2)) for n, m in ((tall, h), (wide, w))]
        level = NOISE * (np.abs(self.cut(*(slice(n, n + t) for n, t in zip(outer, (tall, wide), strict=True)))[0]).max() or 1.0)
        noise = np.random.default_rng(0).normal(0, level, (self.model.made.operator.measurement.shape[0], tall, wide)).astype(np.float32)
        whole = self._probed(side, outer, noise)
        part = self._probed(inner, [n + m for n, m in zip(outer, inset, strict=True)], noise[:, inset[0] : inset[0] + h, inset[1] : inset[1] + w])
        top, left = (self.grid.factor * n for n in inset)
        difference = np.abs(whole[:, top : top + inner, left : left + inner] - part).max(0)
        at = np.minimum(np.arange(inner), np.arange(inner)[::-1])
        seen = np.minimum(at[:, None], at)[difference > SEEN * np.abs(whole).max()]
        return int(seen.max()) + 1 if seen.size else 0


def _split_again(made: Reconstruction, model: Reconstructor) -> Reconstruction:
    """The same, with splits of tiles where the test rule has splits, whose size the spec of a checkpoint names."""
    part = model.spec.mask_generator
    if not made.rule.splits or part is None:
        return made
    free = Component(name=part.name, parameters={name: value for name, value in part.parameters.items() if name != "img_size"})
    return with_test_rule(made, model.spec.model_copy(update={"mask_generator": free}), model.device)


def _pieces(length: int, size: int) -> Iterator[tuple[slice, int]]:
    """Slices of `size` that cover `length`, and how much of each came before: the last one goes back where it would reach beyond."""
    for start in range(0, length, size):
        first = min(start, length - size)
        yield slice(first, first + size), start - first


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of `size` begin that cover `length` and overlap by `overlap` at least: at multiples of ALIGNED, but for the last."""
    step = max(1, size - overlap)
    step -= step % ALIGNED if step > ALIGNED else 0
    return [*range(0, max(1, length - size), step), length - size] if length > size else [0]


def _weights(starts: list[int], plan: Plan, length: int) -> list[np.ndarray]:
    """How much each tile counts along an axis, (side,) each: nothing within the margin, all of it from there on, 1 together everywhere."""
    total = np.zeros(length, np.float32)
    each = []
    for start in starts:
        at = np.arange(plan.side)
        before = at - plan.margin if start > 0 else np.full(plan.side, RAMP)
        after = plan.side - 1 - at - plan.margin if start + plan.side < length else np.full(plan.side, RAMP)
        weight = np.clip((np.minimum(before, after) + 0.5) / RAMP, 0, 1).astype(np.float32)
        total[start : start + plan.side] += weight
        each.append(weight)
    return [weight / total[start : start + plan.side] for start, weight in zip(starts, each, strict=True)]
