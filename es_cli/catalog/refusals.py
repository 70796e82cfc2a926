"""What YAML cannot say, or es does not do, and why: the reasons that the catalogue gives."""

from __future__ import annotations

import inspect
from typing import Any

from es_cli.catalog.signatures import takes_positional_list

A_BASE = "it is a base class; name one of the classes that are built on it"
BASES = {
    "Physics", "LinearPhysics", "DecomposablePhysics", "NoiseModel", "PhysicsGenerator", "BaseMaskGenerator", "PSFGenerator", "Transform", "Loss",
    "Metric", "Denoiser", "Reconstructor", "Optimizer", "LRScheduler", "BaseLossScheduler", "PtychographyGeometry", "GeneratorLoss", "DiscriminatorLoss",
    "PhysicsMultiScaler",
}  # fmt: skip
ADVERSARIAL = "it trains a discriminator beside the network, which es does not do"
REGULARISER = "it is given a function and a point to differentiate it at, not images and measurements"
EACH_IMAGE = "it is fitted to each image anew, so that there is nothing to train beforehand"
CODES = "it makes images from random codes, not from measurements"
ESTIMATES = "it estimates a property of an image, and makes none"
ALONE = "it is called with an image alone, and deepinv's reconstructors hand it a noise level too"
BLOCK = "it is a block of a network, not a network; Unrolled unrolls an algorithm around any denoiser"
CLASSES = {
    "VirtualLinearPhysics": "es makes it itself, from physics and transforms",
    "Zernike": "it computes polynomials; use a blur generator",
    "LPIPS": "its weights are only to be had over the network, which es never reaches for",
    "DIRECTModel": "it needs the package direct, and reads its weights by unpickling them",
    "Client": "it sends images to a server, and es never reaches for the network",
    "DiffusersDenoiserWrapper": "its weights are only to be had over the network, which es never reaches for",
    "MMSE": "it needs a Python data loader",
    "LBFGS": "it evaluates the loss several times a step, which es's training does not do",
    "SparseAdam": "it only takes sparse gradients, and those of networks here are dense",
    "Muon": "it only takes weights that are matrices, and convolutions are not",
    "ReduceLROnPlateau": "it waits for a validation loss, and schedulers here step with the optimizer",
    "DiscriminatorMetric": ADVERSARIAL,
    "ScoreLoss": "its network estimates a score, and only deepinv's wrapper makes images of it; es keeps and uses the bare network",
    "JacobianSpectralNorm": REGULARISER,
    "FNEJacobianSpectralNorm": REGULARISER,
    "StackedPhysicsLoss": "it needs an operator that measures several arrays at once",
    "DCGANDiscriminator": ADVERSARIAL,
    "ESRGANDiscriminator": ADVERSARIAL,
    "PatchGANDiscriminator": ADVERSARIAL,
    "DeepImagePrior": EACH_IMAGE,
    "Poisson2Sparse": EACH_IMAGE,
    "CSGMGenerator": EACH_IMAGE,
    "ConvDecoder": CODES,
    "DCGANGenerator": CODES,
    "KernelIdentificationNetwork": ESTIMATES,
    "PatchCovarianceNoiseEstimator": ESTIMATES,
    "WaveletNoiseEstimator": ESTIMATES,
    "ConvLista": ALONE,
    "ICNN": ALONE,
    "PDNet_PrimalBlock": BLOCK,
    "PDNet_DualBlock": BLOCK,
    "ScoreModelWrapper": "it wraps networks of other packages by Python functions",
}
NESTED_ONLY = {"FarFieldPtychographyGeometry", "NearFieldPtychographyGeometry"}  # the geometry of Ptychography, not operators
# set by es for a whole run, whatever the class
BY_ES = {
    "device": "es chooses the device for the whole run; use --device",
    "rng": "es draws from streams that follow from the spec's seed",
    "dtype": "es computes in float32",
    "params": "es passes the network's weights",
    "optimizer": "es passes training.optimizer",
    "last_epoch": "es restores it when a run is resumed",
}
FILLED = {"device", "rng", "dtype", "params", "optimizer"}
FUNCTION = "a Python function cannot be written in YAML"
WEIGHTS = ("pretrained", "ckpt_path", "weights_path", "pretrained_path", "checkpoint")


def of_class(name: str, kind: str, cls: type) -> str | None:
    """Why a class cannot be built from a spec at all; None where it can."""
    if name in BASES or inspect.isabstract(cls):
        return A_BASE
    if cls.__module__.startswith("deepinv.loss.adversarial"):
        return ADVERSARIAL
    if name in CLASSES:
        return CLASSES[name]
    given = takes_positional_list(cls)
    return f"it takes {given} as Python arguments without a name" if given else None


def of_parameter(name: str, kind: str, owner: str, types: list[str], parts: list[str], default: Any) -> str | None:
    """Why a parameter cannot be given; None where it can."""
    if name in BY_ES and not (name == "optimizer" and kind != "scheduler"):
        return BY_ES[name]
    if inspect.isclass(default):
        return "a Python class cannot be written in YAML"
    if parts or not types:
        return None
    plain = set(types) - {"null", "function", "python"}
    if plain and not ("function" in types and plain == {"list"}):
        return None
    return FUNCTION if "function" in types else "a Python object cannot be written in YAML"


def offline(name: str, default: Any, owner: str) -> tuple[Any, bool]:
    """The default without any download, and whether the parameter names weights at all."""
    if name not in WEIGHTS:
        return default, False
    return (False if isinstance(default, bool) else None), True


def needs_weights(owner: str, name: str) -> bool:
    """Metrics that say nothing without weights, which deepinv would download."""
    return name == "weights_path" and owner in {"NIQE", "BRISQUE", "NIMA"}
