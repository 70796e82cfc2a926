"""When a run rests: because its state is due to be saved, or because somebody wants it to end."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING, SAVING = ("SIGINT", "SIGTERM"), ("SIGUSR1",)  # SLURM sends SIGTERM, and SIGUSR1 where a job asks for it
SPARE = 2.0  # of the longest step and the longest save lately: what is kept free of the time that is allowed
LATELY = 50  # looks at the clock


class Rests:
    """Says when to rest, asked once a step and once a batch of a validation.

    `every`: seconds between two saves of the state, None: only where it is asked for. `until`: when the run is to have ended, on the clock of
    `time.monotonic`, None: whenever it has. `saving` says how many seconds a save takes, `busy` whether one is under way. `agree` gives the largest
    of what each process that trains says, so that all of them rest, and end, at the same step.
    """

    def __init__(
        self,
        every: float | None = None,
        until: float | None = None,
        saving: Callable[[], float] = lambda: 0.0,
        busy: Callable[[], bool] = lambda: False,
        agree: Callable[[Sequence[int]], Sequence[int]] = lambda values: values,
    ) -> None:
        self.every, self.until, self.saving, self.busy, self.agree = every, until, saving, busy, agree
        self.caught: list[int] = []
        self.wanted = False  # by a signal: the state saved, and the run going on
        self.signal: int | None = None  # that ends the run
        self.asked = False  # for the state to be saved
        self.reason = ""  # why the run is to end: signal or time
        self._saved = self._looked = time.monotonic()
        self._between: deque[float] = deque(maxlen=LATELY)  # seconds from one look at the clock to the next

    def due(self) -> bool:
        """Whether it is time to rest; not on schedule while the state before is still being written."""
        now = time.monotonic()
        self._between.append(now - self._looked)
        self._looked = now
        return self.look(self.every is not None and now - self._saved >= self.every and not self.busy())

    def look(self, scheduled: bool = False) -> bool:
        """See whether somebody wants the run to rest or to end, in any process; `scheduled`: this one wants it to rest anyway."""
        number, asked, up, rest = self.agree([self.caught[0] if self.caught else 0, self.wanted, self._time_is_up(), scheduled])
        self.signal, self.asked, self.reason = number or None, bool(asked), "signal" if number else "time" if up else ""
        return bool(rest or self.asked or self.reason)

    def saved(self) -> None:
        """The state was saved."""
        self._saved, self.wanted, self.asked = time.monotonic(), False, False

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
            self.wanted = True

        handlers = {getattr(signal, name): end for name in ENDING if hasattr(signal, name)}
        handlers |= {getattr(signal, name): save for name in SAVING if hasattr(signal, name)}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
