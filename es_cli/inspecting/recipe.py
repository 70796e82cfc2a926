"""What was found → a commented spec: the settings that did best on the shipped tasks of that kind, with the reason for each that the data decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_cli.errors import DataError
from es_cli.inspecting.data_section import crop_of, crops_of, own_maps, source, write_data
from es_cli.inspecting.look import Look
from es_cli.inspecting.memory import BUDGET, bytes_of_sample, fitting_batch
from es_cli.inspecting.page import Page, flow, rounded
from es_cli.spec.schema import FROM_DATA

NARROWEST = 8  # points of a calibration region that ESPIRiT needs
AUDIBLE = 0.01  # of the level of an image: noise below is ignored
REACHED = 0.1  # of the pixels, that a group has to add to those measured
UNROLLED = {"MRI": 3, "MultiCoilMRI": 3, "Tomography": 2, "SensingMatrix": 3}
STEPS = {"Tomography": 400, "SensingMatrix": 1500}
COILS = 8  # of a made-up scanner
BATCHES = {"SensingMatrix": 25, "MultiCoilMRI": 4}


@dataclass(frozen=True)
class Draft:
    """A spec as text, and what to tell the user about it."""

    text: str
    notes: tuple[str, ...]


def draft(found: Look, folder: Path, file: str = "spec.yaml") -> Draft:
    """A commented spec, for a file in `folder`, with paths relative to it. Raises DataError where something is missing that cannot be assumed."""
    page = Page()
    page.comment(f"Go on with: es check {file} (can this be learned?), then es train {file}")
    page.comment(f"{found.physics}: made by es init from {found.roles.train.name}" + ("" if found.asked else "; another operator: es init --from … --physics NAME"))
    page.gap()
    page.item(0, "name", _name(found), "names the run")
    page.item(0, "seed", 0)
    page.gap()
    _write_physics(page, found, folder)
    page.gap()
    notes = write_data(page, found, folder)
    page.gap()
    if found.physics != "Denoising":
        _write_splits(page, found)
    notes += _write_group(page, found)
    page.gap()
    _write_losses(page, found)
    page.gap()
    _write_model(page, found)
    page.gap()
    _write_training(page, found)
    return Draft(page.text, (*found.notes, *notes))


def _name(found: Look) -> str:
    return found.physics.lower()


def _write_physics(page: Page, found: Look, folder: Path) -> None:
    page.line(0, "physics:")
    drawn = found.simulated and found.physics == "SensingMatrix" and found.roles.matrix is None
    page.item(1, "name", "CompressedSensing" if drawn else found.physics, _why_physics(found))
    writers = {"Inpainting": _mask, "MRI": _mask, "MultiCoilMRI": _mask, "Tomography": _angles, "SensingMatrix": _matrix}
    if found.physics in writers:
        writers[found.physics](page, found, folder)
    if found.physics == "MultiCoilMRI":
        _coil_maps(page, found, folder)
    _noise(page, found)


def _why_physics(found: Look) -> str:
    zeros = found.zeros
    if found.simulated:
        return "an assumption: how the images are measured"
    if found.asked:
        return ""
    if found.physics in {"Inpainting", "Demosaicing"} and zeros is not None:
        return f"{zeros.fraction:.1%} of the values were measured, the others are 0" + (", in the pattern of Bayer" if found.physics == "Demosaicing" else "")
    reasons = {
        "Denoising": "no pixel is missing" + ("; the zeros look like a dark background" if zeros is not None and zeros.dark else ""),
        "MRI": "complex values with their energy in the middle: k-space" if found.roles.train.is_complex else "two channels with their energy in the middle: k-space",
        "MultiCoilMRI": f"k-space of {found.coils} coils",
        "Tomography": f"sinograms of {found.angles} angles",
        "SensingMatrix": "numbers that a matrix made of images",
    }
    return reasons[found.physics]


def _mask(page: Page, found: Look, folder: Path) -> None:
    """The mask of a sampling operator: a file, what is 0 in all samples, or left to the samples."""
    zeros, mask = found.zeros, found.roles.masks.get("") or found.roles.masks.get("train")
    one = mask is not None and mask.shape[-2:] == found.size[-2:] and (len(mask.shape) == 2 or mask.shape[0] in {1, found.size[0]})
    if found.simulated:
        value: Any = {"file": source(mask, folder)} if one and mask is not None and not mask.key else 0.3
        if not (one and mask is not None) and found.physics != "Inpainting":
            value = {"name": "GaussianMaskGenerator", "acceleration": 4, "center_fraction": 0.08}
        page.item(1, "mask", value, "" if one else "drawn once, and kept in the checkpoint" + (": this part of the pixels" if found.physics == "Inpainting" else ": every fourth column"))
        return
    assert zeros is not None
    if zeros.kind == "each":
        page.line(1, "# mask:", f"each sample has its own, see data; {_described(found)}")
    elif one and mask is not None and _agrees(mask.whole(), zeros.mask):
        page.item(1, "mask", {"file": source(mask, folder)} if not mask.key else {"file": source(mask, folder)["file"], "key": mask.key}, f"the measurements are 0 outside of it; {_described(found)}")
    elif zeros.kind == "common":
        page.item(1, "mask", FROM_DATA, f"what is 0 in every sample was not measured; {_described(found)}")
    elif found.physics == "Inpainting":
        page.item(1, "mask", FROM_DATA, "no pixel is 0 in every sample")
    else:
        page.line(1, "# mask: {file: mask.npy}", "everything was acquired")


def _agrees(given: np.ndarray, seen: np.ndarray) -> bool:
    """Whether nothing was measured outside of the mask that is given, and most of what is inside."""
    extra = tuple(range(given.ndim - seen.ndim))  # a mask of real and imaginary part, beside what is 0 in both
    given = np.broadcast_to((given != 0).any(extra), seen.shape)
    return bool((seen & ~given).mean() < 1e-3 and (seen & given).sum() > 0.5 * given.sum())


def _described(found: Look) -> str:
    zeros, sampling = found.zeros, found.sampling
    if sampling is None:
        return f"{1 if zeros is None else zeros.fraction:.1%} of the pixels"
    centre = f", the central {sampling.acs} of them side by side ({sampling.center_fraction:.0%})" if sampling.pattern != "points" else f", a square of {sampling.acs} in the middle whole"
    what = {"columns": f"{sampling.lines} of {sampling.of} columns", "rows": f"{sampling.lines} of {sampling.of} rows", "points": "points", "full": "all of it"}[sampling.pattern]
    return f"{what}, acceleration {sampling.acceleration:.2g}" + (centre if sampling.pattern != "full" else "")


def _angles(page: Page, found: Look, folder: Path) -> None:
    given = found.roles.angles
    if given is not None:
        named = source(given, folder)
        page.item(1, "angles", named if isinstance(named, dict) else {"file": named}, "in degrees")
    else:
        page.item(1, "angles", found.angles or 25, "an assumption: evenly over 180°; yours, in degrees: {file: angles.npy}")
    if not found.simulated:
        page.item(1, "circle", found.circle, "as many detectors as pixels across" if found.circle else f"√2 times as many detectors as the {found.size[-1]} pixels across")
    page.item(1, "normalize", found.normalize, "the operator has norm 1" if found.normalize else "the columns of a sinogram add up to the pixels of its image")


def _matrix(page: Page, found: Look, folder: Path) -> None:
    matrix = found.roles.matrix
    if matrix is None:
        page.item(1, "m", max(1, round(0.3 * float(np.prod(found.size)))), "random projections, 0.3 of the pixels; drawn once")
        return
    named = source(matrix, folder)
    page.item(1, "matrix", named if isinstance(named, dict) else {"file": named}, f"{matrix.shape[0]} numbers of {matrix.shape[1]} pixels: {matrix.shape[0] / matrix.shape[1]:.0%}")
    page.item(1, "img_size", list(found.size), "channels, height, width" + ("" if found.roles.truth or found.simulated else ": an assumption"))


def _coil_maps(page: Page, found: Look, folder: Path) -> None:
    """Maps from a file, or by ESPIRiT. Raises DataError where there are none and the centre is too small."""
    maps = found.roles.maps.get("train") or found.roles.maps.get("")
    if own_maps(found):
        page.line(1, "# coil_maps:", "each sample has its own, see data")
    elif maps is not None and (found.simulated or found.coils in maps.shape[:2]) and maps.shape[-2:] == found.size[-2:]:
        named = source(maps, folder)
        page.item(1, "coil_maps", named if isinstance(named, dict) else {"file": named}, f"those of the {found.coils} coils")
    elif found.simulated:
        page.item(1, "coil_maps", COILS, "so many coils, made up; or {file: maps.npy}; needs pip install 'es-cli[mri]'")
    elif found.sampling is not None and _calibrated(found) >= NARROWEST:
        once = "" if found.count == 1 else " of the first sample, for all; where heads lie differently: data.train.params: {coil_maps: FILE}"
        page.item(1, "coil_maps", "espirit", f"estimated once from the fully sampled centre{once}; or {{file: maps.npy}}; needs pip install 'es-cli[mri]'")
    else:
        what = f"k-space of {found.coils} coils, no sensitivity maps, and a fully sampled centre too small for ESPIRiT, which needs {NARROWEST} × {NARROWEST} points"
        raise DataError(what, where=found.roles.train.file, hint=f"put the maps beside it as maps.npy, complex ({found.coils}, H, W) or one set for each sample")


def _calibrated(found: Look) -> int:
    """The width of the fully sampled centre of the first sample."""
    assert found.sampling is not None
    return min(found.size[-2:]) if found.sampling.pattern == "full" else found.sampling.acs


def _noise(page: Page, found: Look) -> None:
    noise = found.noise
    if found.simulated:
        if found.physics == "Denoising":
            page.item(1, "noise_model", {"name": "GaussianNoise", "sigma": 0.1})
        return
    if found.physics == "SensingMatrix":
        page.line(1, "# noise_model: {name: GaussianNoise, sigma: 0.02}", "what a matrix mixes looks like noise: give the level if you know it, and consistency_loss below")
        return
    if noise is None:
        if found.physics == "Denoising":
            page.item(1, "noise_model", {"name": "GaussianNoise", "sigma": rounded(0.05 * (found.level or 1.0))}, "an assumption, no noise was seen")
        else:
            page.line(1, "# noise_model: {name: GaussianNoise, sigma: 0.02}", "too few neighbours were measured to see the noise, or there is none")
        return
    model = {"name": "GaussianNoise", "sigma": rounded(noise.sigma)}
    part = "" if not found.level or found.physics == "Tomography" else f", {noise.sigma / found.level:.1%} of the level of an image"
    if noisy(found) or found.physics == "Denoising":
        page.item(1, "noise_model", model, ("estimated from the finest detail" if noise.clear else "at most: detail of the images looks like noise") + part)
    else:
        said = "low enough to be ignored" if noise.clear else "at most that, as detail of the images looks like it: ignored"
        page.line(1, f"# noise_model: {flow(model)}", said + part)


def noisy(found: Look) -> bool:
    """Whether there is noise that must not be learned: seen for certain, and not much smaller than the images."""
    level = found.level or 1.0
    return not found.simulated and found.noise is not None and found.noise.clear and found.noise.sigma > AUDIBLE * (level if found.physics != "Tomography" else 0.1 * level)


def _write_splits(page: Page, found: Look) -> None:
    sampling = found.sampling
    page.line(0, "mask_generator:", "the network is given a part of what was measured, and predicts the rest")
    lines = sampling is not None and sampling.pattern in {"columns", "rows"}
    if found.physics == "Tomography":
        page.item(1, "name", "AngleSplittingMaskGenerator", "whole angles are left out")
        page.item(1, "pattern", "interleaved")
    elif lines or (sampling is None and found.physics in {"MRI", "MultiCoilMRI"}):
        page.item(1, "name", "LineSplittingMaskGenerator", "whole lines were acquired, and are left out")
        if sampling is not None:
            page.item(1, "dim", -1 if sampling.pattern == "columns" else -2, f"lines are {sampling.pattern}")
            page.item(1, "center_lines", min(sampling.acs, max(0, sampling.lines - 4)), "the fully sampled centre always stays with the network")
        else:
            page.item(1, "center_lines", 6, "the central lines always stay with the network")
    else:
        page.item(1, "name", "BernoulliSplittingMaskGenerator", "points are left out by chance")
        page.item(1, "split_ratio", 0.9 if found.physics == "SensingMatrix" else 0.8)
        if found.physics == "Inpainting" and not found.simulated and found.zeros is not None and _by_channel(found.zeros.mask):
            page.item(1, "pixelwise", False, "each channel was masked for itself")
    page.item(1, "random_split_ratio", True, "another part for each sample, between these two")
    page.item(1, "min_split_ratio", {"Tomography": 0.6, "SensingMatrix": 0.8}.get(found.physics, 0.5))
    page.item(1, "max_split_ratio", 1.0)
    page.gap()


def _by_channel(mask: np.ndarray) -> bool:
    return mask.ndim == 3 and not bool((mask == mask[:1]).all())


def _write_group(page: Page, found: Look) -> list[str]:
    """The group, and notes on what it cannot reach."""
    height, width = (crop_of(found),) * 2 if crop_of(found) else found.size[-2:]
    square = height == width and (not found.roles.train.uneven or crop_of(found) is not None)
    shape = f"{height} × {width} is not square: no turns" if height != width else "the images differ in size"
    if found.physics in {"MRI", "Tomography"} and square:
        page.item(0, "transforms", {"group": "rotations"}, "images turned by any angle are images too")
    elif found.physics == "SensingMatrix":
        page.item(0, "transforms", {"group": "shifts"}, "shifted images are images too")
    elif found.physics == "Denoising":
        page.item(0, "transforms", {"group": "D4" if square else "reflections"}, "no group is needed to learn; images are averaged over it")
    elif found.physics == "Inpainting" and found.zeros is not None and found.zeros.kind == "common" and not found.simulated:
        _group_of_mask(page, found.zeros.mask, square)
    else:
        page.item(0, "transforms", {"group": "D4" if square else "reflections"}, "images turned by 90° and reflected are images too" if square else shape)
    if found.physics in {"MRI", "MultiCoilMRI"} and not square:
        return ["images that are not square are reflected only, which reaches less of k-space than turning them does; crop the images to squares where you can"]
    return []


def _group_of_mask(page: Page, mask: np.ndarray, square: bool) -> None:
    """The group that brings a mask (C, H, W) to the most pixels: turns and reflections, or shifts where those bring nothing."""
    name = "D4" if square else "reflections"
    union = mask.copy()
    for turn in range(4) if square else (0, 2):
        turned = np.rot90(mask, turn, (-2, -1))
        union |= turned | turned[..., ::-1]
    if union.mean() - mask.mean() < REACHED:
        page.item(0, "transforms", {"group": "shifts"}, f"turned and reflected, the mask still covers {union.mean():.0%} of the pixels only; shifted, it covers all")
    else:
        page.item(0, "transforms", {"group": name}, f"turned and reflected, the mask covers {union.mean():.0%} of the pixels in place of {mask.mean():.0%}")


def _write_losses(page: Page, found: Look) -> None:
    if found.physics == "Denoising":
        clear = found.simulated or (found.noise is not None and found.noise.clear)
        page.item(0, "losses", ["SureGaussianLoss"] if clear else [{"name": "SureGaussianLoss", "unsure": True}], "for noise of a known level" if clear else "learns the level, which is not certain")
        return
    page.line(0, "losses:")
    page.line(1, "- name: EquivariantSplittingLoss")
    metric = {"metric": "SinogramMSE"} if found.physics == "Tomography" else {}
    if noisy(found):
        page.item(2, "consistency_loss", {"name": "R2RLoss", "alpha": 0.2, **metric}, "what the network is given is not compared with its own noise")
    elif metric:
        page.item(2, "consistency_loss", {"name": "MCLoss", **metric}, "weighs detail as an error of the image does; with noise: {name: R2RLoss, alpha: 0.2, metric: SinogramMSE}")
    else:
        page.line(2, "# consistency_loss: {name: R2RLoss, alpha: 0.2}", "with a noise_model: what is given is not compared with its own noise")
    if metric:
        page.item(2, "prediction_loss", {"name": "MCLoss", **metric})


def _widths(found: Look) -> list[int]:
    widest = crop_of(found) or max(found.size[-2:])
    if found.physics == "SensingMatrix":
        return [16, 32, 64]
    return [24, 48, 96] if widest <= 96 else [32, 64, 128] if widest <= 192 else [32, 64, 128, 256]


def _write_model(page: Page, found: Look) -> None:
    channels = found.size[0]
    unrolled = UNROLLED.get(found.physics)
    page.line(0, "model:")
    page.item(1, "name", "DataConsistentMoDL" if unrolled else "ArtifactRemoval", f"{unrolled} rounds of denoising and of returning to what was measured" if unrolled else "")
    if unrolled:
        page.item(1, "num_iter", unrolled)
        page.item(1, "data_weight", 10.0)
    if found.physics == "Tomography":
        page.item(1, "start", "pinv", "from filtered back-projection")
        page.item(1, "solver_steps", 3)
    page.line(1, "denoiser:" if unrolled else "backbone_net:")
    kind = "real and imaginary part" if found.physics in {"MRI", "MultiCoilMRI"} else f"the images have {channels}"
    page.item(2, "name", "UNet")
    page.item(2, "in_channels", channels, kind)
    page.item(2, "out_channels", channels)
    page.item(2, "channels_per_scale", _widths(found), "wider is better and slower")
    page.item(2, "batch_norm", False)


def _write_training(page: Page, found: Look) -> None:
    crop = crop_of(found)
    size = (found.size[0], crop, crop) if crop else found.size
    each = bytes_of_sample(size, _widths(found), UNROLLED.get(found.physics, 1), found.coils)
    count = found.count * crops_of(found)
    wanted = BATCHES.get(found.physics, 8)
    batch = fitting_batch(wanted, each, count)
    page.line(0, "training:")
    page.item(1, "steps", STEPS.get(found.physics, 1200), "more steps, better images; training can be stopped, and resumed")
    full = "as many as there are" if batch == count < wanted else "as the recipe has it" if batch == wanted else f"so that a step fits into {BUDGET >> 30} GiB" if each <= BUDGET else "one is more than a small machine has to spare; crop, or make the network narrower"
    page.item(1, "batch_size", batch, f"about {max(1, each >> 20)} MiB a sample: {full}")
    page.item(1, "optimizer", {"name": "AdamW", "lr": 5.0e-4, "weight_decay": 1.0e-8})
    page.item(1, "scheduler", {"name": "OneCycleLR", "max_lr": 2.0e-3})
    if found.physics != "Denoising":
        page.item(1, "splits", "complementary", "over several visits to a sample, all that a split can leave out is predicted once")
    page.item(1, "ema", 0.99, "the weights that are kept are a moving average")
