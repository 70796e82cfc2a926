"""When a run rests: because its state is due to be saved, or because somebody wants it to end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Rests:
    """Says when to rest. `every`: seconds between two saves of the state, None: only where it is asked for."""

    def __init__(self, every: float | None = None) -> None:
        self.every = every
        self.caught: list[int] = []
        self._saved = time.monotonic()

    @property
    def reason(self) -> str:
        """Why the run is to end: signal, or "" where it is not."""
        return "signal" if self.caught else ""

    def due(self) -> bool:
        """Whether it is time to rest."""
        return bool(self.reason) or (self.every is not None and time.monotonic() - self._saved >= self.every)

    def saved(self) -> None:
        """The state was saved."""
        self._saved = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM is remembered and ends the run at the next rest; a second one acts as it always does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self.caught.append(number)
            signal.signal(number, before[number])

        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
        before = {number: signal.signal(number, remember) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
