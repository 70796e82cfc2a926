"""When a run rests: because its state is due to be saved, or because somebody wants it to end."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING, SAVING = ("SIGINT", "SIGTERM"), ("SIGUSR1",)  # SLURM sends SIGTERM, and SIGUSR1 where a job asks for it
SPARE = 2.0  # of the longest step and the longest save lately: what is kept free of the time that is allowed
LATELY = 50  # looks at the clock


class Rests:
    """Says when to rest, asked once a step and once a batch of a validation.

    `every`: seconds between two saves of the state, None: only where it is asked for. `until`: when the run is to have ended, on the clock of
    `time.monotonic`, None: whenever it has. `saving` says how many seconds a save takes.
    """

    def __init__(self, every: float | None = None, until: float | None = None, saving: Callable[[], float] = lambda: 0.0) -> None:
        self.every, self.until, self.saving = every, until, saving
        self.caught: list[int] = []
        self.asked = False  # for the state to be saved, and the run to go on
        self._saved = self._looked = time.monotonic()
        self._between: deque[float] = deque(maxlen=LATELY)  # seconds from one look at the clock to the next

    @property
    def signal(self) -> int | None:
        """The signal that ends the run, None where none does."""
        return self.caught[0] if self.caught else None

    @property
    def reason(self) -> str:
        """Why the run is to end: signal or time; "" where it is not."""
        return "signal" if self.caught else "time" if self._time_is_up() else ""

    def due(self) -> bool:
        """Whether it is time to rest."""
        now = time.monotonic()
        self._between.append(now - self._looked)
        self._looked = now
        return self.asked or bool(self.reason) or (self.every is not None and now - self._saved >= self.every)

    def saved(self) -> None:
        """The state was saved."""
        self._saved, self.asked = time.monotonic(), False

    def _time_is_up(self) -> bool:
        if self.until is None:
            return False
        return time.monotonic() + SPARE * (max(self._between, default=0.0) + self.saving()) >= self.until

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM is remembered and ends the run at the next rest; a second one acts as it always does. SIGUSR1 has the state saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, frame: FrameType | None) -> None:
            self.caught.append(number)
            signal.signal(number, before[number])

        def save(number: int, frame: FrameType | None) -> None:
            self.asked = True

        handlers = {getattr(signal, name): end for name in ENDING if hasattr(signal, name)}
        handlers |= {getattr(signal, name): save for name in SAVING if hasattr(signal, name)}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
