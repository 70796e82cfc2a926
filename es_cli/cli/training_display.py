"""What a person sees while a network trains: a bar with its facts, or a plain line now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from es_cli.cli.console import answers_only, calls_in_words, errors, plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from es_cli.training import events

SECONDS_BETWEEN_LINES = 30.0
SMOOTHING = 0.05  # of the running means: single losses jump with their split


class TrainingDisplay:
    """Takes the events of a run, between `with` and its end; `preview` is the last picture that the run wrote, None if none."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.console, self.quiet, self.verbose = errors(), quiet, verbose
        self.preview: Path | None = None
        self.steps = 0
        self.loss: float | None = None
        self.seconds: float | None = None
        self.validated = ""
        self._said = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None
        self._streams = contextlib.ExitStack()

    def __enter__(self) -> TrainingDisplay:
        self._streams.enter_context(answers_only())
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_bar()
        self._streams.close()

    def __call__(self, event: events.Event) -> None:
        handler = getattr(self, "_on_" + type(event).__name__.lower(), None)
        if handler is not None:
            handler(event)

    def say(self, text: str) -> None:
        """A line on standard error, above the bar if there is one; nothing if quiet."""
        if not self.quiet:
            self.console.print(plain(text, blank=False))

    def _on_started(self, event: events.Started) -> None:
        self.steps = event.steps
        self.say(
            f"{event.run_dir}: {event.parameters:,} parameters, {event.train_samples} measurements to train on, "
            f"{event.validation_samples} held out, {event.steps} steps, {event.device}; {calls_in_words(event.network_calls)} for each image at test"
        )
        if event.first_step:
            self.say(f"resumed after step {event.first_step}")
        # not rich's own idea of a terminal: FORCE_COLOR would draw bars into a file
        if not self.quiet and sys.stderr.isatty():
            self._start_bar(event)

    def _on_step(self, event: events.Step) -> None:
        if not event.skipped:
            self.loss = _smoothed(self.loss, event.loss)
        self.seconds = _smoothed(self.seconds, event.seconds)
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, facts=self._facts())
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self.say(f"step {event.step}/{self.steps}, {self._facts()}, {_duration((self.steps - event.step) * self.seconds)} left")

    def _on_validated(self, event: events.Validated) -> None:
        psnr = "" if event.psnr is None else f" ({event.psnr:.2f} dB)"
        self.validated = f"{event.loss:.3g}{psnr}"
        if self._bar is not None:
            self._bar.update(self._task, facts=self._facts())
        if self.verbose and event.best:
            self.say(f"step {event.step}: held-out loss {event.loss:.4g}{psnr}, the best so far")

    def _on_previewed(self, event: events.Previewed) -> None:
        self.preview = event.path

    def _on_note(self, event: events.Note) -> None:
        self.say(event.text)

    def _on_stopped(self, event: events.Stopped) -> None:
        self._end_bar()
        why = {"finished": "finished", "patience": "no better for so long as patience allows: stopped", "signal": "stopped by a signal", "time": "stopped by --max-time"}
        kept = f"; the best weights are those of step {event.best_step}, held-out loss {event.best_loss:.4g}" if event.best_step else ""
        self.say(f"{why.get(event.reason, event.reason)} at step {event.step}{kept}")

    def _start_bar(self, event: events.Started) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        facts = TextColumn("{task.fields[facts]}", markup=False)
        self._bar = Progress(BarColumn(bar_width=None), MofNCompleteColumn(), facts, TimeRemainingColumn(), console=self.console, expand=True)
        self._bar.start()
        self._task = self._bar.add_task("", total=event.steps, completed=event.first_step, facts="")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _facts(self) -> str:
        held_out = f", held-out {self.validated}" if self.validated else ""
        rate = f", {1 / self.seconds:.3g} steps/s" if self.seconds else ""
        return f"loss {self.loss or 0:.3g}{held_out}{rate}"


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
