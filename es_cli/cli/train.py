"""`es train`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.check import headline
from es_cli.cli.company import company, place_of_this
from es_cli.cli.console import answer, complain, quoted
from es_cli.cli.options import Device, InitFrom, Overrides, Overwrite, Quiet, Resume, Verbose, seconds_of
from es_cli.cli.training_display import TrainingDisplay
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.experiment import Experiment
    from es_cli.spec.schema import Spec
    from es_cli.training.changes import Reopened
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
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not look first at what `es check --quick` would say, which takes seconds.")] = False,
    device: Device = "auto",
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", min=1, help="Train on N processes of this machine, each with a GPU of its own where there are any.", show_default=False)
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", metavar="M", min=1, help="Train on M machines, on which srun or torchrun starts es.", show_default=False)] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network from measurements alone.

    What makes it doubtful that this can be learned is said first, and training goes on; `es check` says more.

    Standard output carries one line, the path of the checkpoint. Ctrl-C saves the state, and --resume goes on from there; SIGUSR1 saves it and
    training goes on. A run that --max-time stopped ends with exit code 124.

    \b
    Examples:
      es train examples/configs/quickstart.yaml
      es train spec.yaml training.steps=2000 losses.0.weight=2 -o run
      es train --resume run --max-time 23h30m
      es train --resume run training.steps=4000 training.optimizer.lr=1e-4
      es train changed.yaml --resume run
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
        leads = place is None or place.leads
        # the folder is claimed before torch is imported: a name that is taken, or a change that cannot be made, is answered at once
        stopped = None if resume is None else _reopen(resume, overrides, spec, leads)
        loaded = _load(spec, overrides) if stopped is None else stopped.spec
        folder = _claim(loaded, out, overwrite) if stopped is None and leads else None
        with company(place, ["train", *started], device, folder, stopped) as processes, TrainingDisplay(quiet or not leads, verbose) as display:
            given: dict[str, Any] = {"device": device, "until": until, "on_event": display, "processes": processes}
            if stopped is None and leads and not no_check:
                given["on_built"] = lambda experiment: _look_first(experiment, display)
            model = _trained(loaded, folder, stopped, init_from, display, given)
            if leads:
                display.say(f"checkpoint: {model}")
                if display.preview is not None:
                    display.say(f"preview:    {display.preview}")
                display.say(f"try next:   {_next_command(loaded, model)}")
    if leads:
        answer(str(model))


def _trained(spec: Spec, folder: RunFolder | None, stopped: Reopened | None, init_from: Path | None, display: TrainingDisplay, given: dict[str, Any]) -> Path:
    from es_cli.training import run

    try:
        if stopped is not None:
            return run.resume(stopped, **given)
        return run.train(spec, folder, init_from=init_from, **given)
    except run.Interrupted as stop:
        display.say(f"the state is saved; go on with: es train --resume {quoted(stop.run_dir)}")
        raise typer.Exit(stop.exit_code) from None


def _all_changes(spec: Path | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """After --resume the first argument may be a change already, and no spec."""
    if spec is None or "=" not in str(spec):
        return spec, overrides or []
    return None, [str(spec), *(overrides or [])]


def _check(spec: Path | None, out: Path | None, overwrite: bool, resume: Path | None, init_from: Path | None) -> None:
    """Raises UsageError where the arguments contradict each other."""
    if resume is None:
        if spec is None:
            raise UsageError("no spec is named", hint="es train SPEC, or es train --resume RUN")
        return
    others = {"-o": out, "--overwrite": overwrite, "--init-from": init_from}
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(f"--resume goes on with the run as it was asked for; given too: {', '.join(given)}", hint="leave that out, or train anew")


def _load(spec: Path | None, overrides: list[str] | None) -> Spec:
    """The spec, checked before torch and deepinv are imported, so that a typing error is answered at once."""
    from es_cli.catalog import load_spec

    assert spec is not None  # `_check` has seen to it
    return load_spec(spec, overrides or [])


def _reopen(run_dir: Path, changes: list[str] | None, spec: Path | None, ours: bool) -> Reopened:
    from es_cli.training.changes import reopen

    return reopen(run_dir, changes or [], spec, ours)


def _claim(spec: Spec, out: Path | None, overwrite: bool) -> RunFolder:
    from es_cli.training.folder import claim

    return claim(spec, out, overwrite)


def _look_first(experiment: Experiment, display: TrainingDisplay) -> None:
    """Says what the quick part of `es check` finds; if quiet, only that this cannot be learned."""
    from es_cli.diagnostics.check import first_look
    from es_cli.diagnostics.finding import worst

    look = first_look(experiment)
    for finding in look.findings:
        if finding.verdict == "no" or finding.verdict == "doubtful" and not display.quiet:
            typer.echo(headline(finding, sys.stderr), err=True)
    if worst(finding.verdict for finding in look.findings) == "no":
        complain("this cannot be learned as it stands; training goes on all the same", label="warning: ")
    good = [finding.section for finding in look.findings if finding.verdict == "good"]
    omitted = f"; {', '.join(look.left_out)} would take long, es check looks at them" if look.left_out else ""
    display.say(f"check:      {', '.join(good) or 'nothing'} good, {look.seconds:.1f} s{omitted}")


def _next_command(spec: Spec, model: Path) -> str:
    """Evaluate where there is ground truth to compare with, else reconstruct."""
    test = None if spec.data is None else spec.data.test
    if test is not None and test.images is not None:
        return f"es evaluate --ckpt {quoted(model)}"
    return f"es reconstruct --ckpt {quoted(model)} MEASUREMENTS.npy"
