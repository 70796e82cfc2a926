"""The processes that train together: who starts them, and which of them speaks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from es_cli.errors import EsError

if TYPE_CHECKING:
    from es_cli.training.changes import Reopened
    from es_cli.training.folder import RunFolder
    from es_cli.training.launching import Place
    from es_cli.training.processes import Processes


@contextlib.contextmanager
def place_of_this(devices: int | None, nodes: int | None) -> Iterator[Place | None]:
    """Which of several processes this is, None: it is alone. Of several one says what is wrong; the others end with the same code, unless they
    know of something that it does not. Raises UsageError."""
    from es_cli.training.launching import find_place

    place = find_place(devices, nodes, os.environ)
    try:
        yield place
    except EsError as error:
        if place is None or place.leads or error.of_one:
            raise
        raise typer.Exit(error.exit_code) from error


@contextlib.contextmanager
def company(place: Place | None, arguments: Sequence[str], device: str, folder: RunFolder | None, stopped: Reopened | None) -> Iterator[Processes]:
    """All processes, met; those that `es` starts itself get `arguments`. `folder` is given up, and
    a `stopped` run released, where they do not meet. Raises DeviceError."""
    from es_cli.training.launching import Others

    others = Others()
    try:
        try:
            if place is not None and place.starts_others:
                others.start(place, [sys.executable, "-m", "es_cli", *arguments])
            # importing torch takes seconds, in which Ctrl-C must not leave a folder that cannot be resumed
            from es_cli.training import run  # noqa: F401 (all that training imports)
            from es_cli.training.processes import Processes

            processes = Processes()
            if place is not None:
                from es_cli.training.several import join

                processes = join(place, device, others)
        except BaseException:
            if folder is not None:
                folder.give_up()
            if stopped is not None:
                stopped.release()
            raise
        yield processes
        processes.leave()
    finally:
        others.end()
