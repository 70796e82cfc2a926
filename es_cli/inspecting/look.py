"""What a folder of measurements says about the operator that made it: its kind, its mask, its noise, the size of its images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from es_cli.errors import DataError, UsageError
from es_cli.inspecting import words as vocabulary
from es_cli.inspecting.arrays import Held, find_arrays
from es_cli.inspecting.kspace import MOST_COILS, Sampling, as_kspace, centre_of, sampling_of, sees_one_picture
from es_cli.inspecting.noise import Noise, noise_of_images, noise_of_kspace, noise_of_sinograms
from es_cli.inspecting.roles import Roles, assign
from es_cli.inspecting.sinograms import angle_axis, fills_the_margin, padded_width
from es_cli.inspecting.zeros import Zeros, acquired, zeros_of_images, zeros_of_kspace
from es_cli.spec.wording import did_you_mean

KINDS = ("Inpainting", "Demosaicing", "Denoising", "MRI", "MultiCoilMRI", "Tomography", "SensingMatrix")
ALIASES = {"CompressedSensing": "SensingMatrix"}
SMOOTH = 0.5  # correlation of neighbours along an axis of a picture
PERCENTILE = 99


@dataclass(frozen=True)
class Look:
    """What was found. `physics` is the class of the operator, `size` an image's (C, H, W), `count` how many samples train.

    `simulated` where what lies there are images, to be measured once. `level` is the 99th percentile of what the adjoint makes of a sample,
    None where that was not looked at; `whole` where the array is one sample without an axis of samples.
    """

    roles: Roles
    physics: str
    size: tuple[int, ...]
    count: int
    simulated: bool = False
    asked: bool = False
    whole: bool = False
    zeros: Zeros | None = None
    sampling: Sampling | None = None
    noise: Noise | None = None
    level: float | None = None
    coils: int = 0
    angles: int = 0
    circle: bool = False
    normalize: bool = True
    notes: tuple[str, ...] = ()


def look(pattern: str, physics: str | None = None) -> Look:
    """What the arrays and pictures of a file, a folder or a glob say. `physics` is the operator's class where it is known, None: it is guessed.

    Raises DataError where nothing there can be measurements or images, UsageError for an operator that is not among KINDS.
    """
    physics = _known(physics)
    arrays, notes = find_arrays(pattern)
    roles = assign(arrays, pattern)
    found = _by_content(roles, physics)
    return replace(found, asked=physics is not None, notes=(*notes, *roles.notes, *found.notes))


def _known(physics: str | None) -> str | None:
    name = ALIASES.get(physics or "", physics)
    if name is None or name in KINDS:
        return name
    near = did_you_mean(name, KINDS)
    hint = f"did you mean {near}?" if near else f"es init knows {', '.join(KINDS)}; for others write the spec by hand, from a template"
    raise UsageError(f"no spec is made for an operator called '{name}'", where="--physics", hint=hint)


def _by_content(roles: Roles, physics: str | None) -> Look:
    train = roles.train
    samples = train.samples()
    first = samples[0]
    measured_by_matrix = roles.matrix is not None and not roles.images and first.size == roles.matrix.shape[0]
    if measured_by_matrix or (physics in (None, "SensingMatrix") and not roles.images and _is_vector(first) and not train.is_complex and not _is_picture(train)):
        return _vectors(roles)
    if first.ndim == 1:  # one sample, without an axis of samples
        samples = [train.whole()]
    if not any(sample.any() for sample in samples):
        raise DataError("every sample that was looked at is 0 everywhere", where=train.file, hint="nothing was measured there")
    if train.is_complex or physics in ("MRI", "MultiCoilMRI") or _is_pair_of_kspace(samples[0], samples):
        return _complex(roles, samples, physics, whole=first.ndim == 1)
    if physics == "Tomography" or (physics is None and _looks_like_sinograms(roles, samples)):
        return _sinograms(roles, samples)
    return _images(roles, samples, physics, whole=first.ndim == 1)


def _is_vector(sample: np.ndarray) -> bool:
    return sample.ndim == 1 or (sample.ndim == 2 and sample.shape[0] == 1)


def _is_picture(held: Held) -> bool:
    """Whether a real array of two axes is one picture: neighbours are alike along both."""
    if len(held.shape) != 2 or held.count > 8192:
        return False
    values = np.asarray(held.whole(), np.float64)
    return min(_alike(values), _alike(values.T)) > SMOOTH


def _alike(values: np.ndarray) -> float:
    """The correlation of neighbours along the first axis, of those that are not 0."""
    a, b = values[:-1].ravel(), values[1:].ravel()
    both = (a != 0) & (b != 0)
    if both.sum() < 16:
        return 0.0
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def _vectors(roles: Roles) -> Look:
    """Numbers that a matrix made of images. Raises DataError where the matrix is not there."""
    train, matrix = roles.train, roles.matrix
    length = train.shape[-1]
    if matrix is None or matrix.shape[0] != length:
        rows = np.stack([np.ravel(sample) for sample in train.samples()])
        if _alike(rows.T) > SMOOTH:
            side = math.isqrt(length)
            shape = f"(n, {side}, {side})" if side * side == length else "(n, H, W)"
            raise DataError(f"rows of {length} numbers that look like flattened pictures", where=train.file, hint=f"give them as {shape}: y.reshape(…)")
        what = f"samples of {length} numbers, and no matrix ({length}, pixels) that made them" + (f"; {matrix.name} is {matrix.shape}" if matrix else "")
        raise DataError(what, where=train.file, hint="put it beside them, as matrix.npy; sinograms and images are (n, H, W)")
    pixels = matrix.shape[1]
    notes = []
    size = next((_channels(held.shape[1:]) for held in roles.truth.values() if math.prod(held.shape[1:]) == pixels), None)
    if size is None:
        side = math.isqrt(pixels)
        height = side if side * side == pixels else max(n for n in range(1, side + 1) if pixels % n == 0)
        size = (1, height, pixels // height)
        notes.append(f"images of {pixels} pixels are taken for {height} × {pixels // height} grey ones; correct physics.img_size where they are others")
    return Look(roles, "SensingMatrix", size, train.count, notes=tuple(notes))


def _channels(shape: Sequence[int]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def _is_pair_of_kspace(first: np.ndarray, samples: Sequence[np.ndarray]) -> bool:
    pairs = [pair for sample in samples[:8] if first.ndim > 2 and (pair := as_kspace(sample)) is not None]
    return bool(pairs) and not np.iscomplexobj(first) and centre_of(pairs) == "middle"


def _complex(roles: Roles, samples: list[np.ndarray], physics: str | None, whole: bool) -> Look:
    """K-space; or complex images, or real ones where an MRI was asked for, to be measured once."""
    pairs = [pair for sample in samples if (pair := as_kspace(sample)) is not None]
    if not pairs:
        return _simulated(roles, samples, physics or "MRI")
    where = centre_of(pairs)
    named = bool(roles.train.words & (vocabulary.MEASURED | vocabulary.KSPACE))
    if where == "corner":
        hint = "es wants it in the middle: np.fft.fftshift(y, axes=(-2, -1)) of k-space, or name complex images x.npy"
        raise DataError("k-space has its centre in the corner of the array", where=roles.train.file, hint=hint)
    zeros = zeros_of_kspace(pairs)
    if where is None and not named and zeros.kind == "none":
        return _simulated(roles, pairs, physics or "MRI")
    return _kspace(roles, pairs, zeros, physics, whole)


def _kspace(roles: Roles, pairs: list[np.ndarray], zeros: Zeros, physics: str | None, whole: bool) -> Look:
    train, notes = roles.train, []
    count, coils = train.count, pairs[0].shape[0] if pairs[0].ndim > 2 else 0
    if coils == 1 and physics != "MultiCoilMRI":
        coils = 0
    elif not coils and not whole and physics != "MRI" and _one_sample_of_coils(roles, pairs, physics):
        pairs, coils, whole = [np.stack(pairs) if len(pairs) == train.count else train.whole()], train.count, True
        notes.append(f"{train.name} {train.shape} is taken for {coils} coils of one slice; --physics MRI takes it for {coils} slices")
        zeros = zeros_of_kspace(pairs)
    elif not coils and not whole and physics != "MRI" and count <= MOST_COILS and len(train.shape) == 3:
        notes.append(f"{train.name} {train.shape} is taken for {count} slices; --physics MultiCoilMRI takes it for {count} coils of one slice")
    if pairs[0].ndim > 3:
        raise DataError(f"k-space samples of shape {pairs[0].shape}", where=train.file, hint="es init knows (n, H, W) and (n, coils, H, W); write the spec for volumes by hand")
    sampling = sampling_of(zeros.mask)
    if zeros.kind == "each" and len({one.shape for one in pairs}) == 1:
        sampling = min((sampling_of(acquired(one)) for one in pairs), key=lambda one: one.acs)  # a split must suit every sample
    if sampling.pattern == "full":
        notes.append("next to no point of k-space is 0: nothing is missing, and there is little to learn but noise")
    images = [np.fft.ifft2(one, norm="ortho") for one in pairs[:16]]
    level = float(np.median([np.percentile(np.sqrt((np.abs(x) ** 2).reshape(-1, *x.shape[-2:]).sum(0)), PERCENTILE) for x in images]))
    size = (2, *pairs[0].shape[-2:])
    kind = "MultiCoilMRI" if coils else "MRI"
    return Look(roles, kind, size, 1 if whole else count, False, False, whole, zeros, sampling, noise_of_kspace(pairs), level, coils, notes=tuple(notes))


def _one_sample_of_coils(roles: Roles, pairs: list[np.ndarray], physics: str | None) -> bool:
    """Whether k-space (n, H, W) is one slice seen by n coils: asked for, named so, with maps of that shape, or seen in the images."""
    if physics == "MultiCoilMRI" or roles.train.words & vocabulary.COILS:
        return True
    if any(held.shape[-3:] == roles.train.shape for held in roles.maps.values()):
        return True
    shapes = {pair.shape for pair in pairs}
    return len(pairs) == roles.train.count and len(shapes) == 1 and sees_one_picture(np.stack(pairs))


def _looks_like_sinograms(roles: Roles, samples: list[np.ndarray]) -> bool:
    if roles.train.words & vocabulary.SINOGRAM or (roles.angles is not None):
        return True
    same = [sample for sample in samples if sample.shape == samples[0].shape]
    return samples[0].ndim in {2, 3} and min(samples[0].shape[-2:]) > 3 and angle_axis(same) is not None


def _sinograms(roles: Roles, samples: list[np.ndarray]) -> Look:
    """Sinograms, or images where the names say so, or where their last axis does not count the angles that lie beside them."""
    train, notes = roles.train, []
    given = 0 if roles.angles is None else max(roles.angles.shape)
    named = bool(train.words & vocabulary.SINOGRAM)
    detectors, angles = samples[0].shape[-2:]
    axis = angle_axis(samples)
    if roles.images or (axis is None and not named and detectors == angles != given and not train.words & vocabulary.MEASURED):
        return _simulated(roles, samples, "Tomography")
    if (given and angles != given) or (not given and axis == -2):
        found = next((i for i, n in enumerate(train.shape) if n == given), None) if given else len(train.shape) - 2
        what = f"sinograms of shape {train.shape}" + (f" and {given} angles" if given else ", whose last axis does not count angles")
        hint = f"es wants (n, detectors, angles): np.moveaxis(y, {found}, -1)" if found is not None else "give one angle for each column, (n, detectors, angles)"
        raise DataError(what, where=train.file, hint=hint)
    truth = next((held for held in roles.truth.values() if len(held.shape) > 2 and held.shape[-1] == held.shape[-2]), None)
    padded = padded_width(detectors)
    circle = truth.shape[-1] == detectors if truth is not None else padded is None or fills_the_margin(samples, detectors)
    width = detectors if circle else padded
    assert width is not None
    if truth is None:
        notes.append(f"images are taken for {width} pixels wide, from {detectors} detectors; correct physics.circle where they are not")
    if not given:
        notes.append(f"the {angles} angles are taken for evenly spaced over 180°; put them beside the data, in degrees, as angles.npy, where they are not")
    normalize = truth is None or _norm_is_one(roles, samples)
    size = (samples[0].shape[0] if samples[0].ndim > 2 else 1, width, width)
    noise = noise_of_sinograms(samples)
    level = float(np.percentile(np.abs(np.stack(samples)), PERCENTILE))
    return Look(roles, "Tomography", size, train.count, noise=noise, level=level, angles=angles, circle=circle, normalize=normalize, notes=tuple(notes))


def _norm_is_one(roles: Roles, samples: list[np.ndarray]) -> bool:
    """False where a sinogram holds the sums of the pixels of the images, so that its columns add up to them."""
    truth = next(iter(roles.truth.values()))
    mass = np.mean([np.abs(x).sum() for x in truth.samples(16)])
    columns = np.mean([np.abs(y).sum() / y.shape[-1] for y in samples])
    return not 0.5 < columns / max(mass, 1e-12) < 2


def _images(roles: Roles, samples: list[np.ndarray], physics: str | None, whole: bool) -> Look:
    """Pictures with pixels that were not measured, or noisy ones; else pictures to be measured once."""
    train = roles.train
    framed = [sample if sample.ndim == 3 else sample[None] for sample in samples if sample.ndim in {2, 3}]
    if not framed:
        raise DataError(f"samples of shape {samples[0].shape} are no images", where=train.file, hint="wanted (n, H, W) or (n, C, H, W); write the spec for volumes by hand")
    zeros = zeros_of_images(framed)
    if physics == "Denoising" or (roles.images and (roles.matrix is not None or roles.masks)) or (zeros.kind == "none" and roles.matrix is not None):
        zeros = replace(zeros, kind="none", mask=np.ones(framed[0].shape, bool))
    own = zeros.kind == "each" or zeros.dark
    seen = [sample != 0 if own else np.broadcast_to(zeros.mask, sample.shape) if zeros.kind == "common" else np.ones(sample.shape, bool) for sample in framed]
    noise = noise_of_images(framed, seen)
    made = Look(roles, physics or "Denoising", framed[0].shape, 1 if whole else train.count, False, False, whole, zeros, noise=noise, level=_level(framed))
    if zeros.kind == "none":
        clear = noise is not None and noise.clear and noise.sigma > 0.01 * (made.level or 1.0)
        known = roles.images and (roles.masks or roles.matrix is not None)
        if physics == "Denoising" or (physics is None and clear and not known) or (physics is None and not known and train.words & vocabulary.MEASURED):
            return replace(made, physics="Denoising")
        guess = "SensingMatrix" if roles.matrix is not None else "Inpainting"
        return replace(_simulated(roles, framed, physics or guess), noise=noise, whole=whole, count=made.count)
    if physics is None:
        physics = "Demosaicing" if zeros.kind == "common" and _is_bayer(zeros.mask) else "Inpainting"
    return replace(made, physics=physics)


def _level(samples: list[np.ndarray]) -> float:
    return float(np.percentile(np.concatenate([np.abs(sample[sample != 0], dtype=np.float32) for sample in samples]), PERCENTILE))


def _is_bayer(mask: np.ndarray) -> bool:
    """Whether one colour is measured at each pixel, where deepinv's `Demosaicing` measures it."""
    if len(mask) != 3:
        return False
    pattern = np.zeros(mask.shape, bool)
    pattern[0, 1::2, 1::2] = pattern[1, ::2, 1::2] = pattern[1, 1::2, ::2] = pattern[2, ::2, ::2] = True
    return bool((mask == pattern).mean() > 0.995)


def _simulated(roles: Roles, samples: list[np.ndarray], physics: str) -> Look:
    """Images that are to be measured once."""
    first = np.asarray(samples[0])
    if physics in ("MRI", "MultiCoilMRI") and not np.iscomplexobj(first) and first.ndim > 2 and first.shape[0] == 1:
        first = first[0]
    size = (2, *first.shape[-2:]) if physics in ("MRI", "MultiCoilMRI") else _channels(first.shape)
    level = float(np.percentile(np.abs(first), PERCENTILE))
    note = f"{roles.train.name} holds images, it seems, which are measured once, by an operator that is made up; " + (
        f"--physics takes others than {physics}, and Denoising takes the pictures for noisy measurements"
    )
    return Look(roles, physics, size, roles.train.count, simulated=True, level=level, notes=() if roles.images and physics == "Tomography" else (note,))
