"""Several processes on Lightning Fabric, each with its rows of every batch: one network, one result, and nobody left waiting."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from es_cli import errors
from es_cli.errors import DeviceError, EsError, Fault, SpecError, UsageError
from es_cli.splitting.objective import Objective
from es_cli.splitting.shares import Share
from es_cli.streams import stream_seed
from es_cli.training.launching import SLURM, TORCHRUN, Others, Place
from es_cli.training.processes import Loss, Processes, learned, trained
from es_cli.training.runtime import resolve_device
from es_cli.training.shortage import NoRoom, short_of_memory

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # with one that is alive and says nothing; one that dies is known at once
LOOK = 0.2  # seconds between two looks at processes that are starting
NUMBERS = 3  # that a Share adds up at once
BUCKET = 1 << 25  # bytes of gradients that are added up at once
OVERLAPPING = ("cuda",)  # where gradients are added up while others are still computed, once it is known that the memory is large enough
INSTALL = "pip install 'es-cli[cluster]'"


class Elsewhere(NoRoom):
    """The memory of another process is too small."""


class Alone(DeviceError):
    """A fault of which no other process speaks."""

    of_one = True


class Gone(Alone):
    """Another process has ended, or hangs."""


class Several(Processes):
    """This process and the others. All of them have to ask for the same things in the same order."""

    def __init__(self, place: Place, fabric: Any) -> None:
        self.number, self.count, self.fabric = place.number, place.count, fabric
        self._device: torch.device = fabric.device
        self._objective: nn.Module | None = None
        self._numbers = NUMBERS
        self._careful = True  # whether others are asked, before anything is added up, how it went with them
        self._tried: set[tuple[Any, ...]] = set()

    def device(self, name: str) -> torch.device:
        return self._device

    def most(self, total: int) -> int:
        return max(1, -(-total // self.count))

    def own(self, positions: Sequence[int]) -> list[int]:
        return list(positions)[self._share(len(positions)).rows]

    def own_seed(self, seed: int) -> int:
        return stream_seed(seed, "process", self.number)

    def agree(self, values: Sequence[int]) -> list[int]:
        return self._reduced(torch.tensor(values, dtype=torch.int64), distributed.ReduceOp.MAX).tolist()

    def tell(self, text: str) -> list[str]:
        raw = text.encode()
        (longest,) = self.agree([len(raw)])
        said = torch.zeros(self.count, longest, dtype=torch.int32)
        said[self.number, : len(raw)] = torch.tensor(list(raw), dtype=torch.int32)
        return [bytes(one).rstrip(b"\0").decode() for one in self._reduced(said, distributed.ReduceOp.MAX).tolist()]

    def together(self, work: Callable[[], T]) -> T:
        own: EsError | None = None
        made: list[T] = []
        try:
            made.append(work())
        except EsError as error:
            own = error
        if not self.agree([own is not None])[0]:
            return made[0]
        said = next(text for text in self.tell("" if own is None else _in_words(own)) if text)
        raise own or _from_words(said)

    def fitting(self, work: Callable[[], T]) -> T:
        own: NoRoom | None = None
        made: list[T] = []
        try:
            made.append(work())
        except NoRoom as error:
            own = error
        if self.agree([own is not None])[0]:
            raise own or Elsewhere("that of another process is")
        return made[0]

    def whole(self, own: Tensor, total: int) -> Tensor:
        share, room = self._share(total), own.new_zeros(total)
        if share.weight:
            room[share.rows] = own
        return room

    def added(self, values: Tensor) -> Tensor:
        return self._reduced(values.clone(), distributed.ReduceOp.SUM)

    def take(self, objective: Objective) -> str:
        self._numbers, self._tried = max(NUMBERS, 1 + len(objective.names)), set()
        # with its first broadcast all start from the same weights
        self._objective = self.fabric.setup_module(objective, move_to_device=False)
        if not learned(objective):
            return ""
        return f"layers that normalize by the batch, or losses that learn, see the samples of one of {self.count} processes each, and are averaged after a step: this is not what one process learns"

    def descend(self, objective: Objective, backward: Callable[[Tensor], None], total: int, *batch: Any) -> Loss:
        assert self._objective is not None
        share, shape = self._share(total), tuple(batch[0].shape)
        known = (self.most(total), shape[1:])
        overlaps = known in self._tried
        self._careful = not overlaps
        try:
            with short_of_memory(), self._adding_up_later(overlaps), self._listening():
                loss, terms = self._objective(*batch, share)
                # what is added up on the way is divided by the number of processes
                backward(loss * share.weight * (self.count if overlaps else 1))
        except NoRoom as error:
            if overlaps:
                what = "the memory is too small for a step that went well before, and the others wait already"
                raise Alone(what, where=f"process {self.number}", hint="es train --resume goes on from the last state that was saved") from error
            if not isinstance(error, Elsewhere):
                self._add(None)
            raise
        values = self._add(torch.stack([loss.detach(), *terms.values()]) * share.weight)
        if not overlaps and self._add_up(list(trained(objective))) and self._device.type in OVERLAPPING:
            self._tried.add(known)
        return values[0], dict(zip(terms, values[1:], strict=True))

    def level(self, objective: Objective, total: int) -> None:
        held = learned(objective)
        if held:
            weight = self._share(total).weight
            flat = self._reduced(torch.cat([one.detach().double().reshape(-1) for one in held]) * weight, distributed.ReduceOp.SUM)
            for one, new in zip(held, flat.split([one.numel() for one in held]), strict=True):
                one.detach().copy_(new.view(one.shape))

    def wait(self) -> None:
        self.agree([0])

    def leave(self) -> None:
        self.wait()  # nobody takes the connections down while another still speaks
        distributed.destroy_process_group()

    def _share(self, total: int) -> Share:
        """Rows that follow each other, equally many but for one; the first sample for whom there is none."""
        first, last = (total * number // self.count for number in (self.number, self.number + 1))
        alone = last == first
        return Share(slice(0, 1) if alone else slice(first, last), total, 0.0 if alone else (last - first) / total, self._add)

    def _add(self, values: Tensor | None) -> Tensor:
        """The sum over all processes of a few numbers (n,); None: the memory of this one was too small, and there are none. Raises Elsewhere.

        All messages have one length, so that a process that gave up can answer whatever the others ask for next.
        """
        message = torch.zeros(1 + self._numbers, dtype=torch.float64, device=self._device)
        if values is None:
            message[0] = 1
        else:
            message[1 : 1 + len(values)] = values
        message = self._reduced(message, distributed.ReduceOp.SUM)
        if values is None:
            return message
        if self._careful and bool(message[0]):
            raise Elsewhere("that of another process is")
        return message[1 : 1 + len(values)].to(values.dtype)

    def _add_up(self, parameters: list[nn.Parameter]) -> bool:
        """Make each gradient the sum over all processes, None where nobody has one; whether all parameters have one."""
        have = self.agree([parameter.grad is not None for parameter in parameters])
        used = [parameter for parameter, one in zip(parameters, have, strict=True) if one]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in used if parameter.grad is not None]):
            flat = self._reduced(torch.cat([grad.reshape(-1) for grad in bucket]), distributed.ReduceOp.SUM)
            for grad, new in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(new.view(grad.shape))
        return len(used) == len(parameters)

    def _adding_up_later(self, overlaps: bool) -> contextlib.AbstractContextManager[None]:
        """In the middle of a backward pass a process without memory would leave the others waiting."""
        return self.fabric.no_backward_sync(self._objective, enabled=not overlaps)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        # Fabric's own all_reduce waits for all processes first, each time
        with self._listening():
            distributed.all_reduce(values, op=how)
        return values

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Raises Gone where the others do not answer any more."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and not any(name in str(error) for name in ("gloo", "NCCL", "nccl")):
                raise
            what = f"process {self.number} of {self.count} hears nothing from another one, which has ended or hangs"
            hint = "its own message says why; es train --resume goes on from the last state that was saved"
            raise Gone(what, hint=hint) from error


def join(place: Place, name: str, others: Others) -> Several:
    """Meet the other processes of `place`, each with a device of its own where `name` is what the user calls it. Raises DeviceError."""
    device = device_of(place, name)
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise DeviceError("several processes need lightning-fabric, which is not installed", where="--devices", hint=INSTALL) from error
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    environment = {TORCHRUN: TorchElasticEnvironment, SLURM: SLURMEnvironment}.get(place.launcher, LightningEnvironment)
    # decisions are made on the host, where nobody waits for a GPU
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, timeout=PATIENCE, **{_buffers_stay(): False})
    fabric = Fabric(
        accelerator=device.type, devices=place.on_machine, num_nodes=place.machines, precision="32-true", strategy=strategy, plugins=[environment()]
    )
    with _threads_stay():
        _met(fabric.launch, others)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Several(place, fabric)


def _buffers_stay() -> str:
    """The argument of torch's data parallelism that keeps the buffers of each process its own; newer versions warn of the older word."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"


def device_of(place: Place, name: str) -> torch.device:
    """The device of one of several processes. Raises DeviceError, UsageError for a name that is that of one device."""
    if ":" in name:
        raise UsageError(f"{place.count} processes cannot share {name}", where="--device", hint="name cpu or cuda: each takes the one of its number")
    found = resolve_device(name)
    return found if found.type == "cpu" else resolve_device(f"{found.type}:{place.local}")


def _met(launch: Callable[[], Any], others: Others) -> None:
    """Wait for the others in a thread, so that one that ended before they met is seen."""
    faults: list[Exception] = []

    def meet() -> None:
        try:
            launch()
        except Exception as error:  # torch and Fabric raise nearly anything where processes do not meet
            faults.append(error)

    thread = threading.Thread(target=meet, name="es-meeting", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK)
        gone = others.gone()
        if gone is not None and thread.is_alive():
            raise Gone(f"process {gone} ended before training began", hint="its own message says why")
    if faults:
        raise DeviceError(f"the processes do not meet: {errors.said(faults[0])}", where="--devices", hint="see docs/cluster.md") from faults[0]


@contextlib.contextmanager
def _threads_stay() -> Iterator[None]:
    """How many threads a process takes says runtime.py, and not Fabric, which counts cores that SLURM has dealt out already."""
    threads, named = torch.get_num_threads(), "OMP_NUM_THREADS" in os.environ
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if not named:
            os.environ.pop("OMP_NUM_THREADS", None)


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind, as many together as are worth a message."""
    held: list[Tensor] = []
    for gradient in gradients:
        if held and (held[0].dtype != gradient.dtype or sum(one.nbytes for one in held) + gradient.nbytes > BUCKET):
            yield held
            held = []
        held.append(gradient)
    if held:
        yield held


def _in_words(error: EsError) -> str:
    faults = [[fault.what, fault.where, fault.hint] for fault in error.faults]
    return json.dumps([type(error).__name__, faults])


def _from_words(text: str) -> EsError:
    """What another process raised."""
    name, faults = json.loads(text)
    if name == SpecError.__name__:
        return SpecError([Fault(*fault) for fault in faults])
    kind: type[EsError] = getattr(errors, name, DeviceError)
    what, where, hint = faults[0]
    return kind(what, where=where, hint=hint)
