"""Denoisers that commute with turns, reflections and shifts by construction: no averaging over the group is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn
from torch.nn import functional

from es_cli.networks.group_convolution import GroupConv2d, order


class EquivariantUNet(Denoiser):
    """U-Net of group convolutions: f(T_g x) = T_g f(x) for every element of the group, without averaging.

    Pooling by averages of 2 × 2 and nearest upsampling commute with turns and reflections where H and W are multiples of 2^(scales − 1);
    other sizes are refused. There is no normalisation. Images are (B, C, H, W), and T_g leaves channels in place.
    Source: Cohen and Welling, ICML 2016; the layout is that of `deepinv.models.UNet`.

    :param int in_channels: channels of the image that goes in.
    :param int out_channels: channels of the image that comes out.
    :param Sequence[int] channels_per_scale: channels in all at each scale, multiples of the group's order: it computes as much as a plain
        U-Net of these channels, and has as many weights divided by the group's order; give it more channels where that is too few.
    :param str group: D4 (turns by 90° and reflections), C4 (turns), reflections (of both axes), or trivial.
    :param bool circular_padding: whether borders wrap around.
    :param bool residual: whether the network's input is added to its output; both have the same channels then.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels_per_scale: Sequence[int] = (32, 64, 128),
        group: Literal["D4", "C4", "reflections", "trivial"] = "D4",
        circular_padding: bool = False,
        residual: bool = True,
    ) -> None:
        super().__init__()
        maps = [_maps(channels, group) for channels in channels_per_scale]
        if len(maps) < 2:
            raise ValueError("channels_per_scale needs at least two scales")
        _check_residual(residual, in_channels, out_channels)
        self.residual, self.factor = residual, 2 ** (len(maps) - 1)

        def block(before: int, after: int, lifting: bool = False) -> nn.Sequential:
            first = GroupConv2d(before, after, group, lifting=lifting, circular=circular_padding)
            second = GroupConv2d(after, after, group, circular=circular_padding)
            return nn.Sequential(first, _activation(), second, _activation())

        def up(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Upsample(scale_factor=2), GroupConv2d(before, after, group, circular=circular_padding), _activation()
            )

        pairs = list(zip(maps, maps[1:], strict=False))
        self.down = nn.ModuleList([block(in_channels, maps[0], lifting=True), *(block(a, b) for a, b in pairs)])
        self.up = nn.ModuleList([up(b, a) for a, b in reversed(pairs)])
        self.merge = nn.ModuleList([block(2 * a, a) for a, _ in reversed(pairs)])
        self.project = GroupConv2d(maps[0], out_channels, group, circular=circular_padding, projecting=True)

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """The denoised image (B, out_channels, H, W); `sigma` is not used. ValueError where H or W cannot be halved often enough."""
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            size = f"{x.shape[-2]} × {x.shape[-1]}"
            raise ValueError(f"images of {size} pixels, but with these scales height and width must be multiples of {self.factor}")
        features = self.down[0](x)
        kept = []
        for block in self.down[1:]:
            kept.append(features)
            features = block(functional.avg_pool2d(features, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat((kept.pop(), up(features)), 1))
        made = self.project(features)
        return x + made if self.residual else made


class CircularCNN(Denoiser):
    """Convolutions with circular borders and no downsampling: commutes with every circular shift, and with `group` too if one is named.

    Images are (B, C, H, W), at least as large as the largest dilation.

    :param int in_channels: channels of the image that goes in.
    :param int out_channels: channels of the image that comes out.
    :param int channels: channels in all of each layer between, a multiple of the group's order.
    :param Sequence[int] dilations: one 3 × 3 layer for each, with that many pixels between its taps; large ones see far.
    :param str group: trivial (shifts only), or D4, C4, reflections: beside shifts.
    :param bool residual: whether the network's input is added to its output; both have the same channels then.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 64,
        dilations: Sequence[int] = (1, 1, 2, 4, 2, 1),
        group: Literal["trivial", "D4", "C4", "reflections"] = "trivial",
        residual: bool = True,
    ) -> None:
        super().__init__()
        maps = _maps(channels, group)
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be at least one number above 0, got {list(dilations)}")
        _check_residual(residual, in_channels, out_channels)
        self.residual = residual
        layers: list[nn.Module] = []
        for i, dilation in enumerate(dilations):
            layers += [
                GroupConv2d(maps if i else in_channels, maps, group, lifting=i == 0, circular=True, dilation=dilation),
                _activation(),
            ]
        self.layers = nn.Sequential(*layers)
        self.project = GroupConv2d(maps, out_channels, group, circular=True, projecting=True)

    def forward(self, x: Tensor, sigma: Any = None, **kwargs: Any) -> Tensor:
        """The denoised image (B, out_channels, H, W); `sigma` is not used."""
        made = self.project(self.layers(x))
        return x + made if self.residual else made


def _maps(channels: int, group: str) -> int:
    """How many maps of a regular field make `channels` channels. ValueError where they are no whole number."""
    if channels < 1 or channels % order(group):
        raise ValueError(f"{channels} channels are no multiple of {order(group)}, the number of elements of {group}")
    return channels // order(group)


def _activation() -> nn.Module:
    # not ReLU: with few maps, one that dies for good takes a large part of the network with it
    return nn.LeakyReLU(0.1, inplace=True)


def _check_residual(residual: bool, in_channels: int, out_channels: int) -> None:
    if residual and in_channels != out_channels:
        raise ValueError(f"residual adds {in_channels} channels to {out_channels}; set residual: false")

