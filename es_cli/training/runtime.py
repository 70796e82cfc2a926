"""Where training runs: the device that a user names, checked before anything is put on it, and the settings of this process for it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import torch

from es_cli.errors import DeviceError, said
from es_cli.networks.running import tensor_float_32

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def resolve_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one, else the CPU), `cpu`, `cuda` or `cuda:N` as a torch device. Raises DeviceError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"no device is called {name}", hint="use auto, cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise DeviceError(f"es does not run on {device.type}", hint="use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(f"{name} is not there: torch sees {count} CUDA devices", hint="use --device cpu, or install a torch built for your driver")
    return device


@contextlib.contextmanager
def machine(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """The settings of this process for a training on `device`; afterwards they are what they were.

    On a CPU each of several processes takes its share of the cores. On a GPU convolutions are tried out for each new shape and the fastest way is
    kept, and nothing runs in TF32 but what `Running` says: the physics is in full float32. `deterministic`: whatever torch computes twice is the same
    twice, and nothing is tried out. Raises DeviceError.
    """
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    share = threads_of_one(threads, os.environ)
    if share != threads:
        torch.set_num_threads(share)
    try:
        torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
        with full_float32(device), reproducible() if deterministic else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if share != threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Only operations of torch that give the same result each time; afterwards as before. Raises DeviceError for one that has no such way."""
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(WORKSPACE)
    cudnn = torch.backends.cudnn.deterministic
    os.environ.setdefault(WORKSPACE, ":4096:8")  # what cuBLAS wants, before its first product
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise DeviceError(said(error), where="training.deterministic", hint="leave training.deterministic out, or use --device cpu") from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.deterministic = cudnn
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


def full_float32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Nothing in TF32 on `device` but what `Running` says."""
    return tensor_float_32(False) if device.type == "cuda" else contextlib.nullcontext()


def threads_of_one(threads: int, environment: Mapping[str, str]) -> int:
    """Threads of one process of several on this machine, where torch would take `threads`: as OMP_NUM_THREADS says, else an equal share.

    LOCAL_WORLD_SIZE is the number of processes, as torchrun sets it. Raises DeviceError where it is no number.
    """
    if "OMP_NUM_THREADS" in environment:
        return threads
    processes = environment.get("LOCAL_WORLD_SIZE", "1")
    if not processes.isdecimal() or int(processes) == 0:
        raise DeviceError(f"LOCAL_WORLD_SIZE is {processes!r}, not a number of processes", hint="torchrun sets it; unset it otherwise")
    return max(1, threads // int(processes))


def peak_memory(device: torch.device) -> float | None:
    """The most memory that this process has held so far, in MiB: on a GPU what torch allocated there, on a CPU what was resident.

    What is resident includes the parts of memory-mapped data that were read; the system may take these back. None where it does not count (Windows).
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(held / (2**20 if sys.platform == "darwin" else 2**10), 1)
