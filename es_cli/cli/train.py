"""`es train`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.company import company, place_of_this
from es_cli.cli.console import answer, quoted
from es_cli.cli.options import Device, InitFrom, Overrides, Overwrite, Quiet, Resume, Verbose, seconds_of
from es_cli.cli.training_display import TrainingDisplay
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.spec.schema import Spec
    from es_cli.training.folder import RunFolder


def train(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC", help="The YAML spec.", show_default=False)] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder of the run; runs/NAME if left out.")] = None,
    overwrite: Overwrite = False,
    resume: Resume = None,
    init_from: InitFrom = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="TIME", help="Stop in time by itself, with the state saved: 23h30m, 45m, 1d, or 23:30:00.", show_default=False)
    ] = None,
    device: Device = "auto",
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", min=1, help="Train on N processes of this machine, each with a GPU of its own where there are any.", show_default=False)
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", metavar="M", min=1, help="Train on M machines, on which srun or torchrun starts es.", show_default=False)] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network from measurements alone.

    Standard output carries one line, the path of the checkpoint. Ctrl-C saves the state, and --resume goes on from there; SIGUSR1 saves it and
    training goes on. A run that --max-time stopped ends with exit code 124.

    \b
    Examples:
      es train examples/configs/quickstart.yaml
      es train spec.yaml training.steps=2000 losses.0.weight=2 -o run
      es train --resume run --max-time 23h30m
      es train --resume run training.steps=4000 training.optimizer.lr=1e-4
      es train spec.yaml --init-from run/model.safetensors
      es train spec.yaml --devices 2
      torchrun --nproc-per-node 2 -m es_cli train spec.yaml
    """
    until = None if max_time is None else time.monotonic() + seconds_of(max_time)
    if resume is not None:
        spec, overrides = _all_changes(spec, overrides)
    _check(spec, out, overwrite, resume, init_from)
    started = [*([] if spec is None else [str(spec)]), *(overrides or [])]
    for name, value in {"--resume": resume, "--init-from": init_from, "--max-time": max_time, "--device": device, "--devices": devices}.items():
        started += [] if value is None else [f"{name}={value}"]
    with place_of_this(devices, nodes) as place:
        loaded = _load(spec, overrides)
        if resume is not None:
            _check_changes(resume, overrides or [])
        # the folder is claimed before torch is imported: a name that is taken is answered at once
        folder = None if loaded is None or not (place is None or place.leads) else _claim(loaded, out, overwrite)
        with company(place, ["train", *started], device, folder) as processes, TrainingDisplay(quiet or not processes.writes, verbose) as display:
            given = {"device": device, "until": until, "on_event": display, "processes": processes}
            model = _train(loaded, folder, init_from, display, given) if resume is None else _resume(resume, overrides or [], display, given)
            if processes.writes:
                _tell(loaded, model, display)


def _train(spec: Spec | None, folder: RunFolder | None, init_from: Path | None, display: TrainingDisplay, given: dict[str, Any]) -> Path:
    from es_cli.training import run

    assert spec is not None
    with _stopping(display):
        return run.train(spec, folder, init_from=init_from, **given)


def _resume(run_dir: Path, changes: list[str], display: TrainingDisplay, given: dict[str, Any]) -> Path:
    from es_cli.training import run

    with _stopping(display):
        return run.resume(run_dir, changes, **given)


@contextlib.contextmanager
def _stopping(display: TrainingDisplay) -> Iterator[None]:
    from es_cli.training.run import Interrupted

    try:
        yield
    except Interrupted as stop:
        display.say(f"the state is saved; go on with: es train --resume {quoted(stop.run_dir)}")
        raise typer.Exit(stop.exit_code) from None


def _tell(spec: Spec | None, model: Path, display: TrainingDisplay) -> None:
    display.say(f"checkpoint: {model}")
    if display.preview is not None:
        display.say(f"preview:    {display.preview}")
    display.say(f"try next:   {_next_command(spec, model)}")
    answer(str(model))


def _all_changes(spec: Path | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """After --resume the first argument is a change already, and no spec."""
    if spec is None or "=" not in str(spec):
        return spec, overrides or []
    return None, [str(spec), *(overrides or [])]


def _check(spec: Path | None, out: Path | None, overwrite: bool, resume: Path | None, init_from: Path | None) -> None:
    """Raises UsageError where the arguments contradict each other."""
    if resume is None:
        if spec is None:
            raise UsageError("no spec is named", hint="es train SPEC, or es train --resume RUN")
        return
    others = {"a spec": spec, "-o": out, "--overwrite": overwrite, "--init-from": init_from}
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(f"--resume goes on with the run as it was asked for; given too: {', '.join(given)}", hint="leave that out, or train anew")


def _load(spec: Path | None, overrides: list[str] | None) -> Spec | None:
    """The spec, checked before torch and deepinv are imported, so that a typing error is answered at once; None where a run goes on."""
    if spec is None:
        return None
    from es_cli.catalog import load_spec

    return load_spec(spec, overrides or [])


def _check_changes(run_dir: Path, changes: list[str]) -> None:
    """Raises SpecError where the run cannot go on with a change, before torch is imported."""
    from es_cli.training.changes import read_run

    read_run(run_dir, changes)


def _claim(spec: Spec, out: Path | None, overwrite: bool) -> RunFolder:
    from es_cli.training.folder import claim

    return claim(spec, out, overwrite)


def _next_command(spec: Spec | None, model: Path) -> str:
    """Evaluate where there is ground truth to compare with, else reconstruct; None stands for a resumed run."""
    if spec is None:
        spec = _load(model.parent / "spec.yaml", None)
    test = spec.data.test if spec is not None and spec.data is not None else None
    if test is not None and test.images is not None:
        return f"es evaluate --ckpt {quoted(model)}"
    return f"es reconstruct --ckpt {quoted(model)} MEASUREMENTS.npy"
