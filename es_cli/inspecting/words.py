"""What the names of files and arrays say: which part of the data, and measurements, ground truth or something of the operator."""

from __future__ import annotations

import re

PARTS = {
    "train": frozenset({"train", "training", "trainset"}),
    "validation": frozenset({"val", "valid", "validation", "dev"}),
    "test": frozenset({"test", "testing", "eval", "testset"}),
}
SINOGRAM = frozenset({"sino", "sinos", "sinogram", "sinograms", "proj", "projs", "projection", "projections", "radon"})
KSPACE = frozenset({"kspace", "ksp", "k", "kdata"})
COILS = frozenset({"mc", "multicoil", "coil", "coils"})
MEASURED = SINOGRAM | KSPACE | frozenset(
    {"y", "ys", "meas", "measured", "measurement", "measurements", "noisy", "masked", "undersampled", "observed", "observations", "corrupted", "degraded",
     "mosaic", "mosaics", "raw", "input", "inputs"}
)  # fmt: skip
TRUTH = frozenset(
    {"x", "xs", "gt", "truth", "groundtruth", "target", "targets", "clean", "reference", "references", "ref", "image", "images", "img", "imgs", "reconstruction",
     "rss", "esc", "original", "originals"}
)  # fmt: skip
MASKS = frozenset({"mask", "masks", "pattern", "sampling"})
ANGLES = frozenset({"angle", "angles", "theta", "thetas"})
MATRICES = frozenset({"matrix", "sensing", "phi", "a"})
MAPS = frozenset({"maps", "map", "csm", "smaps", "sens", "sensitivity", "sensitivities", "coilmaps"})
ASIDE = frozenset({"dark", "darks", "white", "flat", "flats", "label", "labels", "subject", "patient", "header"})  # beside the data, and no part of them
TEXTS = frozenset({"name", "names", "fname", "id"})  # of arrays of text, as long as they are no arrays of numbers


def words_of(text: str) -> frozenset[str]:
    """The words of a name, in lower case: train and y of train_y.npy."""
    return frozenset(word.lower() for word in re.findall(r"[A-Za-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text)))


def says_something(words: frozenset[str]) -> bool:
    """Whether one of the words says what the samples are."""
    known = MEASURED | TRUTH | MASKS | ANGLES | MATRICES | MAPS | COILS | ASIDE
    return bool(words & known.union(*PARTS.values()))


def part_of(words: frozenset[str]) -> str | None:
    """Train, validation or test; None where the words do not say."""
    return next((part for part, known in PARTS.items() if words & known), None)
