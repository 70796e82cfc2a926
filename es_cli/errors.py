"""What can go wrong, and the exit code that each fault ends in.

    EsError                 1   a fault of ours
    ├── UsageError          2   the command line asks for something that makes no sense
    │   └── SpecError       2   the spec does; holds all of its faults at once
    ├── DataError           3   a file, an array or a folder is missing, broken or of the wrong kind
    │   └── OutputError     3   a result cannot be written
    ├── CheckpointError     4   the checkpoint is missing, broken or not ours
    ├── DeviceError         5   the device is not there, or its memory is too small
    └── AnswerIsNo          6   everything ran, and the answer is no
        └── Diverged        6   training produced a loss that is not finite
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# what deepinv and torch raise about arguments, shapes and kinds that do not go together; running out of memory is among them, see `out_of_memory`
LIBRARY_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    ArithmeticError,
    ImportError,
)


def said(error: BaseException, longest: int = 200) -> str:
    """What an exception of a library says, on one line of at most `longest` characters; its class where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def shortened(path: object, longest: int = 300) -> str:
    """A path for a message: its beginning where it is longer than any that one would want to read."""
    text = str(path)
    return text if len(text) <= longest else f"{text[:longest]}…"


# what can be turned where the memory is too small for one sample
KNOBS = "make the network smaller (fewer channels or iterations), crop the data, try training.precision: bfloat16, or another --device"
# how CUDA, torch's allocators on Linux and on Windows, cuBLAS and cuDNN say it
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception is no fault of what was asked for: memory of the machine or of the device is too small."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `where` (a file:line, a path in the spec, a file), `what`, and `hint`, what to do next."""

    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}; {self.hint}" if self.hint else head


class EsError(Exception):
    """A fault with an answer: what happened, where, and what to do next. The command line prints it and exits with `exit_code`."""

    exit_code = 1
    of_one = False  # whether of several processes that train together only one knows of it

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.fault = Fault(what, str(where), hint)
        super().__init__(str(self.fault))

    @property
    def faults(self) -> tuple[Fault, ...]:
        return (self.fault,)


class UsageError(EsError):
    exit_code = 2


class SpecError(UsageError):
    """All faults of a spec, reported together."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        first = self._faults[0]
        super().__init__(first.what, where=first.where, hint=first.hint)
        self.args = ("\n".join(str(fault) for fault in self._faults),)

    @property
    def faults(self) -> tuple[Fault, ...]:
        return self._faults


class DataError(EsError):
    exit_code = 3


class OutputError(DataError):
    pass


class CheckpointError(EsError):
    exit_code = 4


class DeviceError(EsError):
    exit_code = 5


class AnswerIsNo(EsError):
    exit_code = 6


class Diverged(AnswerIsNo):
    pass
