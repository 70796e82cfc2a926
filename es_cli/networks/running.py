"""How the backbones of a reconstructor run: in lower precision or compiled, while the physics between them stays in float32.

A backbone is an outermost part, with weights, that is called with tensors and numbers alone: the operator cannot come into it. In an unrolled
network that is the denoiser, in artifact removal all but the adjoint. Names, weights and checkpoint are the same however it runs.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor, nn

from es_cli.errors import DeviceError, Fault, SpecError, UsageError, out_of_memory
from es_cli.networks.pieces import in_pieces
from es_cli.spec.schema import PRECISIONS

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BACKEND = "inductor"
# what a backbone may be called with; whatever else can hold an operator
PLAIN = (Tensor, int, float, complex, str, torch.dtype, torch.device, type(None))


@dataclass(eq=False)
class Running:
    """How backbones run on `device`: in a precision of the spec, and compiled or not. `tell` takes the one line about a compilation that failed;
    `where` is who asked for the precision.

    Raises DeviceError for float16 on a CPU, UsageError for a precision that is none.
    """

    device: torch.device
    precision: str = "tf32"
    compiled: bool = False
    tell: Callable[[str], None] = lambda text: None
    where: str = "training.precision"
    pieces: int = 1  # in which a batch goes through a backbone, one after the other

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"no precision is called {self.precision}", where=self.where, hint=f"use one of {', '.join(PRECISIONS)}")
        if self.precision == "float16" and self.device.type == "cpu":
            raise DeviceError("float16 needs a GPU", where=self.where, hint="use bfloat16 or float32 on a CPU")

    def __deepcopy__(self, memo: Any) -> Running:
        return self

    @property
    def as_it_is(self) -> bool:
        """Whether nothing differs from calling the network."""
        return not self.compiled and self.precision not in LOW and not self._tf32

    @property
    def scales_gradients(self) -> bool:
        """Whether small gradients would vanish unless the loss is scaled."""
        return self.precision == "float16"

    def take(self, network: nn.Module, physics: Any, image_shape: Sequence[int]) -> nn.Module:
        """`network` with backbones that run like this; found by a pass over a black image (1, *image_shape).

        Raises SpecError where there are none, or they do not run in this precision.
        """
        if self.as_it_is:
            return network
        y, found = self._wrap(network, physics, image_shape)
        if not found and (self.compiled or self.precision in LOW):
            self._nothing_found(network)
        if self.precision in LOW:
            self._try(network, y, physics)
        return network

    def cut(self, network: nn.Module, physics: Any, image_shape: Sequence[int], pieces: int) -> bool:
        """Have batches go through the backbones of `network` in `pieces`; whether it has any.

        The gradient is that of the whole batch, but for rounding; layers that normalize by the batch see one piece.
        """
        if not any(isinstance(module.__dict__.get("forward"), _Forward) for module in network.modules()) and not self._wrap(network, physics, image_shape)[1]:
            return False
        # a compiler may take another way when a piece is computed again, which torch refuses
        self.give_up_compiling(MemoryError("it takes batches in pieces, as the memory is too small"))
        self.pieces = pieces
        return True

    def _wrap(self, network: nn.Module, physics: Any, image_shape: Sequence[int]) -> tuple[Tensor, list[nn.Module]]:
        """The backbones of `network`, which run like this from now on, and the measurement that they were found by."""
        with torch.no_grad():
            y = physics.A(torch.zeros(1, *image_shape, device=self.device))
        found = backbones(network, y, physics)
        for backbone in found:
            # an instance's own forward leaves class, hooks and names of the module as they are
            backbone.__dict__["forward"] = _Forward(backbone.forward, self)
        return y, found

    def give_up_compiling(self, error: Exception) -> None:
        """From now on nothing is compiled; said once."""
        if self.compiled:
            self.compiled = False
            why = " ".join(str(error).split())[:160] or type(error).__name__
            self.tell(f"training.compile: the network cannot be compiled here, and runs as it is: {why}")

    def warm_up(self, network: nn.Module, y: Tensor, physics: Any) -> None:
        """Compile forward and backward pass for batches like y (B, …) before training, so that what cannot be compiled is known before the first
        step. Statistics and gradients of the network stay as they were."""
        if not self.compiled:
            return
        held = {name: buffer.clone() for name, buffer in network.named_buffers()}
        was = network.training
        try:
            for mode in (True, False):
                image = network.train(mode)(y, physics)
                with self.backwards():
                    image.square().mean().backward()
        except Exception as error:  # compilers raise nearly anything; what is wrong with the network itself comes up again in the first step
            if not out_of_memory(error):
                self.give_up_compiling(error)
        network.train(was).zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(held[name])

    @contextlib.contextmanager
    def forwards(self) -> Iterator[None]:
        """Around a backbone."""
        dtype = LOW.get(self.precision)
        with self.backwards(), torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext():
            yield

    def backwards(self) -> contextlib.AbstractContextManager[None]:
        """Around the backward pass, where gradients of network and physics cannot be told apart: both may be in TF32."""
        return tensor_float_32(True) if self._tf32 else contextlib.nullcontext()

    @property
    def _tf32(self) -> bool:
        return self.device.type == "cuda" and self.precision != "float32"

    def _nothing_found(self, network: nn.Module) -> None:
        what = f"{type(network).__name__} has no part that runs apart from the operator"
        if self.precision in LOW:
            raise SpecError([Fault(what, self.where, "use float32, or name another network")])
        self.give_up_compiling(ValueError(what))

    def _try(self, network: nn.Module, y: Tensor, physics: Any) -> None:
        compiled, self.compiled = self.compiled, False
        try:
            with _evaluating(network), torch.no_grad():
                network(y, physics)
        except (RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise SpecError([Fault(f"the network does not run in {self.precision}: {text}", self.where, "use float32, or name another network")]) from error
        finally:
            self.compiled = compiled


class _Forward:
    """The forward pass of a backbone, which takes and gives float32. A deep copy of the backbone gets one of its own."""

    def __init__(self, eager: Callable[..., Any], running: Running) -> None:
        self.eager, self.running = eager, running
        self.compiled: Callable[..., Any] | None = None

    def __deepcopy__(self, memo: Any) -> _Forward:
        return _Forward(copy.deepcopy(self.eager, memo), self.running)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.running.forwards():
            call = self._made if self.running.compiled else self._eager
            if self.running.pieces == 1:
                return _in_float32(call(args, kwargs))
            return _in_float32(in_pieces(call, args, kwargs, self.running.pieces, getattr(self.eager, "__self__", None)))

    def _eager(self, args: Any, kwargs: Any) -> Any:
        return self.eager(*args, **kwargs)

    def _made(self, args: Any, kwargs: Any) -> Any:
        try:
            if self.compiled is None:
                self.compiled = torch.compile(self.eager, backend=BACKEND)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what compilers say to programmers
                return self.compiled(*args, **kwargs)
        except Exception as error:  # compilers raise nearly anything
            if out_of_memory(error):
                raise
            made = self.eager(*args, **kwargs)  # which raises what is wrong with the network itself
            self.running.give_up_compiling(error)
            return made


def backbones(network: nn.Module, y: Tensor, physics: Any) -> list[nn.Module]:
    """The backbones that `network` calls for y (B, …), in the order of their first call."""
    found: dict[nn.Module, None] = {}
    inside: list[nn.Module] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not inside and _is_plain((args, kwargs)) and any(True for _ in module.parameters()) and not _holds_operator(module):
            inside.append(module)
            found[module] = None

    def leave(module: nn.Module, args: Any, made: Any) -> None:
        if inside and inside[-1] is module:
            inside.pop()

    hooks = [module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True) for module in network.modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        with _evaluating(network), torch.no_grad():
            network(y, physics)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


@contextlib.contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Convolutions and matrix products on GPUs in TF32, or in full float32 (torch lets convolutions be in TF32); afterwards as before."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(inner) for inner in value.values())
    return all(_is_plain(inner) for inner in value) if isinstance(value, (tuple, list)) else isinstance(value, PLAIN)


def _holds_operator(module: nn.Module) -> bool:
    return any(isinstance(inner, Physics) for inner in module.modules())


def _in_float32(made: Any) -> Any:
    if isinstance(made, Tensor):
        return made.float() if made.dtype in LOW.values() else made
    if isinstance(made, dict):
        return {key: _in_float32(value) for key, value in made.items()}
    return type(made)(_in_float32(value) for value in made) if type(made) in (tuple, list) else made
