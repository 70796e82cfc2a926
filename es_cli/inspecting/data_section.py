"""The section `data` of a spec for what was found: which files train, validate and test, and what each sample has of its own."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from es_cli.inspecting.arrays import Held
from es_cli.inspecting.look import Look
from es_cli.inspecting.page import Page
from es_cli.spec.schema import FROM_DATA

CROP = 64  # of pictures that are measured once
CROPS_OF_LARGE = 4
PLAIN_RANGE = (0.2, 5.0)  # of the largest values of an image: the network needs no other


def source(held: Held, folder: Path) -> Any:
    """A source as a spec in `folder` names it: relative where it lies below, else absolute."""
    path = Path(os.path.abspath(held.file))
    base = Path(os.path.abspath(folder))
    file = path.relative_to(base).as_posix() if path.is_relative_to(base) and path != base else str(path)
    return {"file": file, "key": held.key} if held.key else file


def crop_of(found: Look) -> int | None:
    """How wide crops of pictures are, None where they are measured as they are."""
    size = found.size[-2:]
    croppable = found.simulated and found.physics in {"Inpainting", "Denoising", "Demosaicing"}
    return min(CROP, *size) if croppable and (found.roles.train.uneven or max(size) > 2 * CROP) and not found.roles.masks else None


def crops_of(found: Look) -> int:
    """How many crops are taken from each picture that trains."""
    return CROPS_OF_LARGE if crop_of(found) is not None and max(found.size[-2:]) > 2 * CROP else 1


def write_data(page: Page, found: Look, folder: Path) -> list[str]:
    """The section, with its comments; notes on what was left out."""
    roles, notes = found.roles, []
    page.line(0, "data:", "paths count from this file")
    page.item(1, "train", _pair(found, roles.train, "train", folder), _about(found))
    if roles.validation is not None and (pair := _pair(found, roles.validation, "validation", folder)) is not None:
        page.item(1, "validation", pair, "its measurements select the weights")
    else:
        page.item(1, "validation", 0.1, "held out of train; their measurements select the weights")
    test, note = _test(found, folder)
    notes += [note] if note else []
    if test is not None:
        page.item(1, "test", test, "ground truth is for `es evaluate`, and nothing else looks at it" if "images" in test else "")
    else:
        page.line(1, f"# test: {{{'images: x.npy' if found.simulated else 'measurements: test_y.npy, images: test_x.npy'}}}", "ground truth, if there is any: for `es evaluate` alone")
    scale, why = _scale(found)
    page.item(1, "scale", scale, why)
    return notes


def _about(found: Look) -> str:
    train = found.roles.train
    kind = "pictures" if train.pictures else f"{train.dtype} {train.shape}"
    count = f"{found.count} {kind}" if train.pictures else f"{kind}: " + ("one sample" if found.count == 1 else f"{found.count} samples")
    return count + (" of several sizes" if train.uneven else "") + (", measured once" if found.simulated else "")


def _pair(found: Look, held: Held, part: str, folder: Path) -> dict[str, Any] | None:
    """One part of the data; None where it lacks what each sample needs."""
    if found.simulated:
        return {"images": _cropped(found, held, part, folder)}
    params: dict[str, Any] = {}
    if found.zeros is not None and found.zeros.kind == "each":
        mask = _own(found.roles.masks, part)
        covers = mask is not None and mask.count == held.count and len(mask.shape) > 2
        params["mask"] = source(mask, folder) if covers and mask is not None else FROM_DATA
    if own_maps(found):
        maps = _own(found.roles.maps, part)
        if maps is None:
            return None
        params["coil_maps"] = source(maps, folder)
    return {"measurements": source(held, folder)} | ({"params": params} if params else {})


def own_maps(found: Look) -> bool:
    """Whether each sample has coil maps of its own."""
    maps = _own(found.roles.maps, "train")
    return found.coils > 0 and maps is not None and not found.whole and maps.count == found.count and len(maps.shape) == len(found.roles.train.shape)


def _own(held: dict[str, Held], part: str) -> Held | None:
    """What belongs to a part of the data; what says of none belongs to train, and to all where it is the only one."""
    return held.get(part) or (held.get("") if part == "train" else None)


def _cropped(found: Look, held: Held, part: str, folder: Path) -> Any:
    crop = crop_of(found)
    named = source(held, folder)
    if crop is None:
        return named
    named = named if isinstance(named, dict) else {"file": named}
    several = crops_of(found) if part == "train" else 1
    return {**named, "crop": crop} | ({"crops_per_image": several} if several > 1 else {})


def _test(found: Look, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Measurements and ground truth for `es evaluate`, and a note where ground truth does not fit."""
    roles = found.roles
    if found.simulated:
        return (None, "") if roles.test is None else (_pair(found, roles.test, "test", folder), "")
    held, truth = roles.test, roles.truth.get("test")
    if held is None and "train" not in roles.truth:
        held, truth = roles.train, roles.truth.get("")
    if held is None or (held is roles.train and truth is None):
        return None, ""
    pair = _pair(found, held, "test" if held is not roles.train else "train", folder)
    if pair is None or truth is None:
        return pair, ""
    if not _fits(found, held, truth):
        return None if held is roles.train else pair, f"{truth.name} {truth.shape} is left out: ground truth of {held.name} {held.shape} would be {found.count if held is roles.train else held.count} × {found.size}"
    return {"measurements": pair["measurements"], "images": source(truth, folder)} | ({"params": pair["params"]} if "params" in pair else {}), ""


def _fits(found: Look, measured: Held, truth: Held) -> bool:
    """Whether ground truth is one image of the right size for each measurement."""
    count = 1 if found.whole else measured.count
    if truth.uneven or measured.uneven:
        return truth.count == measured.count
    shapes = [found.size] if found.size[0] > 1 else [found.size, found.size[1:]]
    if found.physics in {"MRI", "MultiCoilMRI"} and truth.is_complex:
        shapes = [found.size[1:], (1, *found.size[1:])]
    return any(truth.shape == (count, *shape) or (count == 1 and truth.shape == shape) for shape in shapes)


def _scale(found: Look) -> tuple[str, str]:
    if found.physics == "SensingMatrix":
        return "none", "the network works in the units of the images; per-sample divides each by the 99th percentile of its adjoint"
    level = found.level
    if level is not None and PLAIN_RANGE[0] < level < PLAIN_RANGE[1] and found.physics in {"Inpainting", "Denoising", "Demosaicing"}:
        return "none", f"values lie around 1 (99 % are below {level:.3g}), as the network wants them; per-sample for other units"
    size = "" if level is None or math.isnan(level) or found.physics == "Tomography" else f" (around {level:.3g} here)"
    return "per-sample", f"each sample is divided by the 99th percentile of its adjoint{size}, and its image multiplied again"
