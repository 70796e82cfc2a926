"""Which of the arrays of a folder are measurements, which are ground truth, and which belong to the operator: by name, then by shape and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from es_cli.errors import DataError
from es_cli.inspecting import words as vocabulary
from es_cli.inspecting.arrays import Held
from es_cli.inspecting.words import part_of

PLAIN = "there is no array of samples"


@dataclass(frozen=True)
class Roles:
    """The arrays by what they are. `train` and the others are measurements, or images where `images` says that nothing else is there.

    `truth` has the ground truth by part, `maps` coil maps and `masks` masks by part, "" for those of all. `notes` say what was guessed.
    """

    train: Held
    validation: Held | None = None
    test: Held | None = None
    images: bool = False
    truth: dict[str, Held] = field(default_factory=dict)
    masks: dict[str, Held] = field(default_factory=dict)
    maps: dict[str, Held] = field(default_factory=dict)
    angles: Held | None = None
    matrix: Held | None = None
    notes: tuple[str, ...] = ()


def assign(arrays: Sequence[Held], where: str) -> Roles:
    """The roles of all arrays of a folder. Raises DataError where none can be the measurements."""
    operator = {id(held): kind for held in arrays if (kind := _of_operator(held)) is not None}
    possible = [held for held in arrays if id(held) not in operator and len(held.shape) > 1]
    samples = [held for held in possible if not held.words & vocabulary.ASIDE] or possible
    notes = [f"{held.name} is left out: it holds no samples" for held in possible if held not in samples]
    if not samples:
        what = f"{PLAIN}: {', '.join(f'{held.name} {held.shape}' for held in arrays[:6])}"
        raise DataError(what, where=where, hint="wanted the samples first: (n, H, W) or (n, C, H, W), k-space (n, coils, H, W), or (n, m)")
    measured, truth, said = _told_apart(samples)
    images = not measured
    chosen = measured or truth
    train = _pick(chosen, "train") or _pick(chosen, None) or max(chosen, key=_size)
    others = {part: _like(_pick(chosen, part), train) for part in ("validation", "test")}
    used = [train, *[held for held in others.values() if held is not None], *truth]
    notes += said + [f"{held.name} {held.shape} is left out: {train.name} trains" for held in chosen if held not in used]
    by_kind = {kind: [held for held in arrays if operator.get(id(held)) == kind] for kind in ("mask", "maps", "angles", "matrix")}
    return Roles(
        train,
        others["validation"],
        others["test"],
        images,
        {} if images else _by_part(truth),
        _by_part(by_kind["mask"]),
        _by_part(by_kind["maps"]),
        next(iter(by_kind["angles"]), None),
        next(iter(by_kind["matrix"]), None),
        tuple(notes),
    )


def _of_operator(held: Held) -> str | None:
    """Mask, maps, angles or matrix; None for samples and whatever else."""
    if held.pictures:
        return None
    if held.words & vocabulary.ANGLES and sum(n > 1 for n in held.shape) == 1:
        return "angles"
    if held.words & vocabulary.MATRICES and len(held.shape) == 2 and not held.is_complex and not held.words & (vocabulary.MEASURED | vocabulary.TRUTH):
        return "matrix"
    if held.words & vocabulary.MAPS and len(held.shape) > 2 and (held.is_complex or 2 in held.shape[:2]) and not held.words & vocabulary.MEASURED:
        return "maps"
    named = bool(held.words & vocabulary.MASKS) and not held.words & (vocabulary.MEASURED | vocabulary.TRUTH)
    if len(held.shape) > 1 and not held.is_complex and (named or held.dtype.kind == "b") and _is_binary(held):
        return "mask"
    return None


def _is_binary(held: Held) -> bool:
    return all(bool(((sample == 0) | (sample == 1)).all()) for sample in held.samples(4))


def _told_apart(samples: list[Held]) -> tuple[list[Held], list[Held], list[str]]:
    """Measurements, ground truth, and a note on what was guessed. Where no name says so, of two arrays of one shape that with more zeros is measured."""
    measured = [held for held in samples if held.words & vocabulary.MEASURED]
    truth = [held for held in samples if held not in measured and held.words & vocabulary.TRUTH]
    unnamed = [held for held in samples if held not in measured and held not in truth]
    if measured:
        same = [held for held in unnamed if any(held.shape[1:] == one.shape[1:] and part_of(held.words) not in (None, part_of(one.words)) for one in measured)]
        return measured + same, truth, []
    if truth and unnamed:
        return unnamed, truth, []
    pairs = [(a, b) for i, a in enumerate(unnamed) for b in unnamed[i + 1 :] if a.shape == b.shape and part_of(a.words) == part_of(b.words)]
    if len(pairs) == 1:
        a, b = sorted(pairs[0], key=_zeros)
        rest = [held for held in unnamed if held is not a]
        if _zeros(b) > _zeros(a) + 0.1:
            return rest, [a], [f"{b.name} has more zeros than {a.name}, and is taken for the measurements, {a.name} for ground truth"]
    return unnamed, truth, []


def _zeros(held: Held) -> float:
    return float(np.mean([(sample == 0).mean() for sample in held.samples(8)]))


def _pick(held: Sequence[Held], part: str | None) -> Held | None:
    """The largest of a part; of equally large ones that with the most zeros, since what was measured whole teaches nothing."""
    found = [one for one in held if part_of(one.words) == part]
    if not found:
        return None
    most = max(_size(one) for one in found)
    largest = [one for one in found if _size(one) == most]
    return largest[0] if len(largest) == 1 else max(largest, key=_zeros)


def _size(held: Held) -> tuple[int, int]:
    return int(np.prod([float(n) for n in held.shape])), held.count


def _like(held: Held | None, train: Held) -> Held | None:
    """Another part of the data, where its samples are like those of training."""
    if held is None or held is train or bool(held.pictures) != bool(train.pictures) or held.is_complex != train.is_complex:
        return None
    return held if held.uneven or train.uneven or held.shape[1:] == train.shape[1:] else None


def _by_part(held: Sequence[Held]) -> dict[str, Held]:
    found: dict[str, Held] = {}
    for one in held:
        found.setdefault(part_of(one.words) or "", one)
    return found
