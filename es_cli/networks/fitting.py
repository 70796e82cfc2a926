"""Whether a network takes a problem's measurements and makes its images in a way that can be trained: asked before training, by one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deepinv.models import Reconstructor
from torch import Tensor, nn

from es_cli.errors import LIBRARY_ERRORS, Fault, SpecError, out_of_memory, said

WHERE = "model"


def check_network(network: nn.Module, y: Tensor, physics: Any, image_shape: Sequence[int]) -> None:
    """SpecError where the network fails on y (B, …), makes images of another shape, not finite, or without gradients."""
    network.eval()
    try:
        with torch.enable_grad():
            image = network(y, physics)
    except LIBRARY_ERRORS as error:
        if out_of_memory(error):
            raise
        raise SpecError([_why(error, network, physics, image_shape)]) from error
    if not isinstance(image, Tensor) or image.is_complex():
        kind = "complex images" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise SpecError([Fault(f"the network makes {kind}, not real ones with their channels", WHERE, "name another network")])
    if tuple(image.shape[1:]) != tuple(image_shape):
        raise SpecError([Fault(f"the network makes images of shape {tuple(image.shape[1:])}", WHERE, f"wanted {tuple(image_shape)}: check its out_channels")])
    if not bool(image.isfinite().all()):
        raise SpecError([Fault("the network makes NaN or infinity before any training", WHERE, "check its parameters, and the scale of the measurements")])
    if not image.requires_grad and any(parameter.requires_grad for parameter in network.parameters()):
        raise SpecError([Fault("the network computes its image without gradients, so that it cannot be trained", WHERE, "name another network")])


def _why(error: Exception, network: nn.Module, physics: Any, image_shape: Sequence[int]) -> Fault:
    text = said(error)
    what = f"the network does not take these images: {text}"
    if isinstance(error, ImportError) or "install" in text:
        return Fault(f"the network needs a package that is not installed: {text}", WHERE, "install it, or name another network")
    if not isinstance(network, Reconstructor):
        name = type(network).__name__
        return Fault(what, WHERE, f"{name} does not know the operator; wrap it: {{name: ArtifactRemoval, backbone_net: {{name: {name}, …}}}}")
    if not hasattr(physics.noise_model, "sigma") and ("NoneType" in text or "sigma" in text.lower()):
        hint = "it is told the noise level: add noise_model: {name: GaussianNoise, sigma: …} to physics, or name one that is not, such as UNet"
        return Fault(what, WHERE, hint)
    return Fault(what, WHERE, f"an image has shape {tuple(image_shape)}: check its channels and size")
