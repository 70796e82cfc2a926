"""What a person reads while something runs: on standard error only, bars only on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pathlib import Path

PLAIN_INTERVAL = 30.0  # seconds between lines where there is no terminal


def errors() -> Console:
    """The console on standard error; rich honours NO_COLOR."""
    return Console(stderr=True)


class TrainingDisplay:
    """Turns training events into a bar, or into a plain line now and then where standard error is no terminal."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.console, self.quiet, self.verbose = errors(), quiet, verbose
        self.preview: Path | None = None
        self.run_dir: Path | None = None
        self.loss, self.held, self.rate, self.psnr = 0.0, "–", 0.0, ""
        self.steps, self.said = 0, time.monotonic()
        self.bar: Progress | None = None
        self.task: Any = None

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: Any) -> None:
        handler = getattr(self, "_on_" + type(event).__name__.lower(), None)
        if handler is not None and not self.quiet:
            handler(event)

    def _line(self, text: str) -> None:
        (self.bar.console if self.bar else self.console).print(text, highlight=False, soft_wrap=True)

    def _on_started(self, event: Any) -> None:
        self.run_dir, self.steps = event.run_dir, event.steps
        self._line(
            f"[bold]{event.run_dir}[/]: {event.parameters:,} parameters, {event.train_samples} measurements to train on, "
            f"{event.validation_samples} to validate, {event.device}; {event.network_calls} network calls an image at evaluation"
        )
        if event.first_step:
            self._line(f"resumed after step {event.first_step}")
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.task = self.bar.add_task("training", total=event.steps, completed=event.first_step, facts="")

    def _on_step(self, event: Any) -> None:
        # a running mean: single losses jump with their split
        self.loss = event.loss if not self.loss else 0.95 * self.loss + 0.05 * event.loss
        self.rate = event.seconds if not self.rate else 0.95 * self.rate + 0.05 * event.seconds
        if self.bar is not None:
            self.bar.update(self.task, completed=event.step, facts=self._facts())
        elif time.monotonic() - self.said > PLAIN_INTERVAL:
            self.said = time.monotonic()
            left = (self.steps - event.step) * self.rate
            self._line(f"step {event.step}/{self.steps}  {self._facts()}  {left / 60:.1f} min left")

    def _on_validated(self, event: Any) -> None:
        self.held = f"{event.loss:.3g}{' ★' if event.best else ''}"
        self.psnr = "" if event.psnr is None else f"  {event.psnr:.2f} dB"
        if self.verbose:
            self._line(f"step {event.step}: held-out loss {event.loss:.4g}{', the best' if event.best else ''}{self.psnr}")

    def _on_previewed(self, event: Any) -> None:
        self.preview = event.path

    def _on_note(self, event: Any) -> None:
        self._line(event.text)

    def _on_stopped(self, event: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        self._line(f"{event.reason} at step {event.step}; kept the weights of step {event.best_step}, held-out loss {event.best_loss:.4g}")

    def _facts(self) -> str:
        return f"loss {self.loss:.3g}  held-out {self.held}{self.psnr}  {1 / self.rate if self.rate else 0:.1f} steps/s"
