"""Measurements that are larger than memory, or than what the network was trained on: slice by slice, and tile by tile, from file to file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_cli.building.parameters import fit_parameters
from es_cli.data.layout import Form, Layout
from es_cli.data.piecewise import PiecewiseArray
from es_cli.errors import DataError
from es_cli.serving.limits import HELD, PLENTY, Limits
from es_cli.spec.schema import FROM_DATA
from es_cli.tiles import Grid, Plan, Tiles, why_not

if TYPE_CHECKING:
    from es_cli.reconstruct import Reconstructor

AT_ONCE = 8  # slices
FALLBACK = 2 << 30  # bytes, where nobody says how many are free
Open = Callable[[], np.ndarray]
Given = Mapping[str, Any]


def free_bytes(device: Any, allowed: int | None) -> int:
    """Bytes that tiles may take: on a GPU half of what is free there, else what `allowed` leaves beside what this process holds already, None: half
    of what the machine has free."""
    if device.type == "cuda":
        import torch

        free = torch.cuda.mem_get_info(device)[0] // 2
        return free if allowed is None else min(free, allowed)
    if allowed is not None:
        return allowed - (_told("/proc/self/status", "VmRSS") or 0)
    free = _told("/proc/meminfo", "MemAvailable")
    return FALLBACK if free is None else free // 2


def _told(file: str, name: str) -> int | None:
    """Bytes that Linux tells of; None elsewhere."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)


@dataclass(frozen=True)
class Slices:
    """An array as samples: `opened` gives it, anew each time, so that no page of it stays in memory; `axis` counts the samples, None: the first axis
    if the operator's shape leaves one. `layout` is that of the measurements, `form` how they lie, `size` the shape of one, `rank` the number of axes."""

    opened: Open
    axis: int | None
    layout: Layout
    form: Form
    count: int
    size: tuple[int, ...]
    rank: int

    @property
    def plane(self) -> tuple[int, int]:
        """Height and width of one sample."""
        return self.size[-2], self.size[-1]

    @classmethod
    def of(cls, opened: Open, axis: int | None, layout: Layout, where: str) -> Slices:
        """Raises DataError where the array does not fit the layout."""
        array = opened()
        if axis is not None and not -array.ndim <= axis < array.ndim:
            raise DataError(f"there is no axis {axis} in shape {array.shape}", where=where, hint=f"--axis counts from 0 to {array.ndim - 1}")
        shape = array.shape if axis is None else np.moveaxis(np.broadcast_to(0, array.shape), axis, 0).shape
        form = layout.form(shape, array.dtype, where)
        if axis is not None and not form.batched:
            raise DataError(f"slices of shape {shape[1:]} do not fit the operator", where=where, hint=f"wanted {layout.wanted}")
        return cls(opened, axis, layout, form, shape[0] if form.batched else 1, shape[1:] if form.batched else shape, array.ndim)

    def read(self, samples: slice, inner: tuple[slice, ...], where: str) -> np.ndarray:
        """Samples, cut by `inner` along their last axes, as the operator takes them: float32 (n, …). Raises DataError where one is not finite."""
        array = self.opened()
        array = array if self.axis is None else np.moveaxis(array, self.axis, 0)
        part = array[(samples if self.form.batched else None, ..., *inner)]
        layout = replace(self.layout, free=len(inner)) if inner else self.layout
        found, _ = layout.arrange(part if self.form.batched else part[0], where)
        if not np.isfinite(found).all():
            raise DataError("the measurement holds NaN or infinity", where=where, hint="replace what was not measured by 0")
        return found

    def shape_of(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of all images, of which one has the shape `image`: the samples lie where they lie in the measurements."""
        if not self.form.batched:
            return image
        place = self.place(len(image) + 1)
        return (*image[:place], self.count, *image[place:])

    def place(self, rank: int) -> int:
        """The axis of samples in images of `rank` axes in all, counted from the end as in the measurements, where there may be coils before it."""
        if self.axis is None or not self.form.batched:
            return 0
        return max(0, rank - self.rank + self.axis % self.rank)


def in_slices(model: Reconstructor, slices: Slices, given: Given, where: str, on_part: Callable[[float], None]) -> Iterator[tuple[slice, np.ndarray]]:
    """Images of a few slices at a time, in the form in which their measurements came. Raises DataError."""
    one = replace(slices.form, batched=True)
    for start in range(0, slices.count, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, slices.count))
        y = slices.read(rows, (), where)
        params = model.fit({name: _of_samples(value, rows, slices) for name, value in given.items()}, y)
        yield rows, model.made.operator.image.restore(model.images(y, params=params), one)
        on_part(rows.stop / slices.count)


def _of_samples(value: Any, rows: slice, slices: Slices) -> Any:
    """The part of a parameter that belongs to some samples; as it is where all share it."""
    if isinstance(value, str) or slices.count == 1 or np.ndim(value) == 0 or len(value) != slices.count:
        return value
    shared = not isinstance(value, list) and (value.ndim == 2 or (value.ndim == 3 and slices.count == slices.layout.shape[0]))
    return value if shared else value[rows]


def cut_of(model: Reconstructor, slices: Slices, number: int, given: Given, where: str) -> Callable[[slice, slice], tuple[np.ndarray, dict[str, np.ndarray]]]:
    """What gives the measurement of rows and columns of sample `number`, with the operator's parameters for them. Raises DataError."""
    sample = slice(number, number + 1)
    own = {name: _of_samples(value, sample, slices) for name, value in given.items()}
    mask = own.pop("mask", None)
    held = None if mask is not None else _own_mask(model, slices)

    def cut(rows: slice, columns: slice) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        y = slices.read(sample, (rows, columns), where)
        fitted = fit_parameters(own, model.made.operator, y)
        if isinstance(mask, str) and mask == FROM_DATA:
            fitted["mask"] = (y != 0).astype(np.float32)
        elif mask is not None:
            fitted["mask"] = _cut_mask(np.asarray(mask), slices, rows, columns, y.shape)
        elif held is not None:
            fitted["mask"] = np.ascontiguousarray(held(rows, columns))
        return y, fitted

    return cut


def _cut_mask(mask: np.ndarray, slices: Slices, rows: slice, columns: slice, shape: tuple[int, ...]) -> np.ndarray:
    size = slices.plane
    if mask.shape[-2:] != size:
        raise DataError(f"mask of shape {mask.shape}, but the measurements are {size}", where="parameter mask", hint=f"wanted {size}")
    part = np.asarray(mask[..., rows, columns], np.float32)
    if not ((part == 0) | (part == 1)).all():
        raise DataError("the mask holds values other than 0 and 1", where="parameter mask", hint="give 1 where something was measured and 0 elsewhere")
    try:
        return np.array(np.broadcast_to(part, shape))
    except ValueError as error:
        raise DataError(f"mask of shape {mask.shape} does not fit the operator", where="parameter mask", hint=f"wanted {size}") from error


def _own_mask(model: Reconstructor, slices: Slices) -> Callable[[slice, slice], np.ndarray] | None:
    """The mask that the checkpoint has itself, where it goes on beyond the size that it was trained on or has the size of the measurements."""
    operator = model.made.operator
    name = model.spec.physics.name
    if name == "Demosaicing":
        # the pattern repeats every second pixel
        mask = operator.physics.mask[..., :2, :2].cpu().numpy()
        return lambda rows, columns: mask[..., np.arange(rows.start, rows.stop)[:, None] % 2, np.arange(columns.start, columns.stop) % 2]
    if name != "Inpainting":
        return None
    if slices.plane != operator.image.shape[-2:]:
        what = f"the mask of the checkpoint is of {operator.image.shape[-2:]} pixels, and the measurements are of {slices.plane}"
        raise DataError(what, hint="give theirs: --param mask=FILE, or --param mask=from-data where what was not measured is 0")
    whole = operator.physics.mask.cpu().numpy()
    return lambda rows, columns: whole[..., rows, columns]


def reconstruct_large(
    model: Reconstructor, opened: Open, given: Given, where: str, limits: Limits, target: Path | None, within: Path | None,
    tell: Callable[[str], None] = lambda text: None, on_part: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray | PiecewiseArray, Plan | None]:  # fmt: skip
    """Images and the tiles that they were made in, if any, from measurements that may not fit into memory, or are larger than those that the network was trained on: in a file beside `target`,
    None: a temporary one; in memory where they are small. Raises DataError where they are neither of the operator's shape nor can be cut."""
    slices, fits = _slices(model, opened, limits.axis, where)
    plan = _plan(model, slices, fits, given, where, limits.memory) if limits.plan is None else Plan(*limits.plan)
    if plan is None and limits.axis is None and opened().nbytes <= HELD:
        return model.reconstruct(opened(), where, given), None
    shape = model.made.operator.image.fitted(slices.size).shape if plan is None else (model.made.operator.image.shape[0], *Grid.of(model.made.operator).image(slices.size))
    one = model.made.operator.image.restore(np.broadcast_to(np.float32(0), (1, *shape)), replace(slices.form, batched=False))
    out = PiecewiseArray(target, slices.shape_of(one.shape), slices.place(one.ndim + 1) if slices.form.batched else None, one.dtype, within)
    try:
        if plan is None:
            for rows, images in in_slices(model, slices, given, where, on_part):
                out.put(rows, None, images)
            return out, None
        tell(_in_words(plan, shape, where))
        for number in range(slices.count):
            tiles = Tiles(model, slices.plane, cut_of(model, slices, number, given, where))
            progress = functools.partial(lambda before, done, total: on_part((before + done / total) / slices.count), number)
            for band_rows, band in tiles.bands(plan, progress):
                out.put(number, band_rows, band if len(one.shape) == len(shape) else band[0])
        return out, plan
    except BaseException:
        out.discard()
        raise


def _slices(model: Reconstructor, opened: Open, axis: int | None, where: str) -> tuple[Slices, bool]:
    """The samples, and whether the network takes them as they are. Raises DataError where they are of another shape, and no larger ones either."""
    layout = model.made.operator.measurement
    try:
        return Slices.of(opened, axis, layout, where), True
    except DataError as error:
        larger = _larger(opened, axis, replace(layout, free=2), where) if len(layout.shape) > 2 else None
        if larger is None or any(n < trained for n, trained in zip(larger.plane, layout.shape[-2:], strict=True)):
            raise
        why = why_not(model)
        if why:
            raise DataError(error.fault.what, where=where, hint=f"{error.fault.hint}; it cannot be cut into tiles: {why}") from error
        return larger, False


def _larger(opened: Open, axis: int | None, layout: Layout, where: str) -> Slices | None:
    try:
        return Slices.of(opened, axis, layout, where)
    except DataError:
        return None


def _plan(model: Reconstructor, slices: Slices, fits: bool, given: Given, where: str, memory: int | None) -> Plan | None:
    """The tiles that the memory asks for; None where whole images are made. Raises DataError where they must be cut and cannot."""
    if why_not(model):
        if memory is not None:
            raise DataError(f"--memory cuts images into tiles: {why_not(model)}", where=where, hint="leave --memory out")
        return None
    if fits and memory is None and np.prod(slices.plane) <= PLENTY:
        return None
    tiles = Tiles(model, slices.plane, cut_of(model, slices, 0, given, where))
    budget = free_bytes(model.device, memory)
    return None if fits and tiles.fit_whole(budget) else tiles.plan(budget)


def _in_words(plan: Plan, shape: tuple[int, ...], where: str) -> str:
    size = " × ".join(map(str, shape[-2:]))
    seam = f"; a pixel reaches {plan.reach} pixels or more, so that seams may be seen" if plan.reach > plan.margin else ""
    return f"{where}: {size} pixels in tiles of {plan.side}, which overlap by {plan.overlap}{seam}"
