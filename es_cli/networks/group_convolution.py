"""Convolutions that commute with turns and reflections: ordinary 2D convolutions whose weights are expanded over a group.

Source: Cohen and Welling, Group Equivariant Convolutional Networks, ICML 2016. A regular field of n maps over a group of |G| elements is a
tensor (B, n·|G|, H, W), the elements of one map beside one another; T_g moves its pixels and permutes each map's elements.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# the elements of each group as (quarter turns, whether the columns are reversed first)
ELEMENTS: dict[str, list[tuple[int, bool]]] = {
    "trivial": [(0, False)],
    "reflections": [(0, False), (0, True), (2, False), (2, True)],
    "C4": [(turns, False) for turns in range(4)],
    "D4": [(turns, reverse) for reverse in (False, True) for turns in range(4)],
}


def order(group: str) -> int:
    """The number of elements of a group. ValueError where no group of that name is built in."""
    if group not in ELEMENTS:
        raise ValueError(f"group must be one of {', '.join(ELEMENTS)}, got {group}")
    return len(ELEMENTS[group])


class GroupConv2d(nn.Module):
    """A convolution that commutes with every T_g of `group`: from a regular field to a regular field, `lifting` from images, `projecting` to images.

    `in_maps` and `out_maps` count maps of a field and channels of an image. The kernel has an odd size, the padding keeps H and W, with zeros
    or circular; there is one bias for each map. The expanded weights are W[o, g, i, h](u) = ψ[o, i, g⁻¹h](g⁻¹u); lifting,
    W[o, g, i](u) = ψ[o, i](g⁻¹u); projecting, W[o, i, h](u) = ψ[o, i](h⁻¹u). ValueError where the kernel has no centre.
    """

    def __init__(
        self,
        in_maps: int,
        out_maps: int,
        group: str,
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        circular: bool = False,
        lifting: bool = False,
        projecting: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"the kernel must have a centre, so an odd size; got {kernel_size}")
        self.circular, self.dilation, self.margin = circular, dilation, dilation * (kernel_size // 2)
        self.copies, self.taps = (1 if projecting else order(group)), (1 if lifting else order(group))
        own_taps = 1 if lifting or projecting else order(group)
        self.weight = nn.Parameter(torch.empty(out_maps, in_maps, own_taps, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_maps))
        fan_in = in_maps * self.taps * kernel_size**2
        # He's scale before a ReLU: under torch's own, a sixth of its variance, little but biases reaches the deep layers
        bound = math.sqrt((1 if projecting else 6) / fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        self.register_buffer("places", _places(group, kernel_size, single=lifting or projecting), persistent=False)
        self._kept: tuple[Any, tuple[Tensor, Tensor]] | None = None

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Weight (out channels, in channels, k, k) and bias (out channels,) of the ordinary convolution."""
        out_maps, in_maps, _, height, width = self.weight.shape
        rows = self.weight.permute(2, 3, 4, 0, 1).reshape(-1, out_maps, in_maps).index_select(0, self.places)
        moved = rows.view(self.copies, self.taps, height, width, out_maps, in_maps).permute(4, 0, 5, 1, 2, 3)
        return moved.reshape(out_maps * self.copies, in_maps * self.taps, height, width), self.bias.repeat_interleave(self.copies)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._expanded_once()
        if self.circular:
            x = functional.pad(x, (self.margin,) * 4, mode="circular")
        return functional.conv2d(x, weight, bias, padding=0 if self.circular else self.margin, dilation=self.dilation)

    def train(self, mode: bool = True) -> GroupConv2d:
        self._kept = None
        return super().train(mode)

    def _expanded_once(self) -> tuple[Tensor, Tensor]:
        """At evaluation the weights are expanded once; a change in place, or other storage, has them expanded again."""
        if self.training or torch.is_grad_enabled():
            return self.expanded()
        state = [(one._version, one.data_ptr(), one.dtype) for one in (self.weight, self.bias)]
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.expanded())
        return self._kept[1]


def _places(group: str, size: int, single: bool) -> Tensor:
    """Which tap (h, u) of ψ, flattened, stands at each (g, h, u) of the expanded weights, int64; `single`: which u at each (g, u)."""
    elements = ELEMENTS[group]
    pixels = torch.arange(size * size).view(size, size)
    if single:
        return torch.stack([_moved(pixels, g) for g in elements]).flatten()
    # an element is known by what it does to a square on which all differ
    marks = [_moved(torch.arange(4).view(2, 2), g).flatten().tolist() for g in elements]
    rows = []
    for g in elements:
        # T_g of the element k stands at h = gk
        source = {tuple(_moved(torch.tensor(mark).view(2, 2), g).flatten().tolist()): k for k, mark in enumerate(marks)}
        rows += [source[tuple(mark)] * size * size + _moved(pixels, g) for mark in marks]
    return torch.stack(rows).flatten()


def _moved(x: Tensor, element: tuple[int, bool]) -> Tensor:
    turns, reverse = element
    return torch.rot90(x.flip(-1) if reverse else x, turns, (-2, -1))
