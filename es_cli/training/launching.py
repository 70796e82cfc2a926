"""Which of several processes this one is, as torchrun, SLURM or `es` itself started it; and how `es` starts the others on one machine.

Nothing here imports torch: a process knows its place before it claims a folder.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from es_cli.errors import DeviceError, UsageError

TORCHRUN, SLURM, ES = "torchrun", "SLURM", "es"
MARK = "ES_STARTED_BY"  # the number of the process that started this one
GRACE = 10.0  # seconds that the others have to end when one has


@dataclass(frozen=True)
class Place:
    """Process `number` of `count`, the `local`-th of `on_machine` on its machine, as `launcher` started it."""

    launcher: str
    number: int
    count: int
    local: int
    on_machine: int

    @property
    def leads(self) -> bool:
        """Whether this one writes, and speaks to the user."""
        return self.number == 0

    @property
    def starts_others(self) -> bool:
        """Whether this one is to start the others."""
        return self.launcher == ES and self.leads

    @property
    def machines(self) -> int:
        return self.count // self.on_machine


def find_place(devices: int | None, nodes: int | None, environment: Mapping[str, str]) -> Place | None:
    """The place of this process among those that were asked for, None: it is alone.

    `devices` is the number of processes on each of `nodes` machines, None: as torchrun says, else one. Raises UsageError where the
    launcher started another number of them, or none where several machines are asked for.
    """
    asked = (devices or 1) * (nodes or 1)
    if "TORCHELASTIC_RUN_ID" in environment:
        count, on_machine = _number(environment, "WORLD_SIZE"), _number(environment, "LOCAL_WORLD_SIZE")
        place = Place(TORCHRUN, _number(environment, "RANK"), count, _number(environment, "LOCAL_RANK"), on_machine)
    elif MARK in environment:
        count = _number(environment, "WORLD_SIZE")
        place = Place(ES, _number(environment, "LOCAL_RANK"), count, _number(environment, "LOCAL_RANK"), count)
    elif asked > 1 and _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        count = _number(environment, "SLURM_STEP_NUM_TASKS")
        machines = _number(environment, "SLURM_STEP_NUM_NODES", 1)
        place = Place(SLURM, _number(environment, "SLURM_PROCID"), count, _number(environment, "SLURM_LOCALID"), max(1, count // machines))
    elif asked == 1:
        return None
    elif (nodes or 1) > 1:
        hint = "start es on each of them: srun es train … in a job of SLURM, or torchrun --nnodes … -m es_cli train …"
        raise UsageError(f"{nodes} machines are asked for, and nothing started es on them", where="--nodes", hint=hint)
    else:
        place = Place(ES, 0, asked, 0, asked)
    if (devices is not None or nodes is not None) and (place.count != asked or (nodes or 1) != place.machines):
        what = f"{place.launcher} started {place.count} processes on {place.machines} machines, and {asked} on {nodes or 1} are asked for"
        raise UsageError(what, where="--devices, --nodes", hint="ask for as many, or with torchrun leave both out")
    return place if place.count > 1 else None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise DeviceError(f"{name} is {text!r}, not a number", hint="what starts several processes sets it: torchrun, or srun")
    return int(text)


class Others:
    """The processes that `es` started beside itself; they end when it does."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, place: Place, command: Sequence[str]) -> Others:
        """Start the others of `place` by a command, and tell this one, by its environment, who it is. The address is as torch reads it."""
        names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0", "WORLD_SIZE": str(place.count), "LOCAL_WORLD_SIZE": str(place.on_machine)}
        os.environ.update({**names, "LOCAL_RANK": "0"})
        for number in range(1, place.count):
            environment = {**os.environ, "LOCAL_RANK": str(number), MARK: str(os.getpid())}
            self.started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        return self

    def gone(self) -> int | None:
        """The number of one that has ended, None where all run."""
        return next((number for number, one in enumerate(self.started, 1) if one.poll() is not None), None)

    def end(self) -> None:
        """Wait until the others have ended, too; those that do not in time are killed."""
        last = time.monotonic() + GRACE
        for one in self.started:
            try:
                one.wait(max(0.0, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
