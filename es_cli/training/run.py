"""A run, from its spec or from where it was stopped. `train` and `resume` are usable from Python without the command line."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from es_cli.checkpoint import installed_versions, load_checkpoint
from es_cli.errors import CheckpointError, said
from es_cli.experiment import Experiment, build_experiment
from es_cli.spec.schema import Spec
from es_cli.training.changes import Reopened, check_same, check_samples, described, reopen
from es_cli.training.events import Note
from es_cli.training.folder import MARK, Keeper, RunFolder
from es_cli.training.keeping import Follower, Listener, Run
from es_cli.training.keeping import Interrupted as Interrupted
from es_cli.training.loop import total_steps
from es_cli.training.processes import Processes
from es_cli.training.runtime import machine
from es_cli.training.saving import StateFiles, clear_away
from es_cli.training.state import Snapshot, unreadable


def train(
    spec: Spec,
    folder: RunFolder | None,
    *,
    device: str = "auto",
    init_from: Path | None = None,
    until: float | None = None,
    on_event: Listener = lambda event: None,
    on_built: Callable[[Experiment], None] = lambda experiment: None,
    processes: Processes | None = None,
) -> Path:
    """Train what `spec` asks for in a folder that `claim` gave, and return the path of model.safetensors.

    `processes` are those that train together, None: this one alone; only the one that writes has a folder, and is shown anything.
    `init_from` is a checkpoint whose network is the start, None for fresh weights. `until` is when to have stopped, on the clock of
    `time.monotonic`, None: when it is finished. `on_built` is shown everything that will be trained, and leaves it as it is. Raises any EsError,
    the folder then being given up; Interrupted after a signal or at that time, with the state saved.
    """
    processes = processes or Processes()
    with ExitStack() as stack:
        folder = folder or RunFolder.of_another()
        stack.callback(folder.release)
        try:
            where = processes.device(device)
            stack.enter_context(machine(where, spec.training.deterministic))
            path = Path(processes.tell(str(folder.path))[0])

            def build() -> Run:
                experiment = build_experiment(spec, where)
                if init_from is not None:
                    _start_from(experiment, init_from)
                on_built(experiment)
                return _kind(processes)(experiment, Keeper(path, folder.lock), StateFiles(path), where, on_event, until, processes)

            run = processes.together(build)
        except BaseException:
            folder.give_up()
            raise
        if not processes.writes:
            return run.begin()
        folder.start(spec)
        run.keeper.write(MARK, json.dumps({**_environment(where), "init_from": init_from is not None}, indent=1).encode())
        return run.begin()


def resume(
    run_dir: Path | Reopened,
    changes: Sequence[str] = (),
    *,
    device: str = "auto",
    until: float | None = None,
    on_event: Listener = lambda event: None,
    processes: Processes | None = None,
) -> Path:
    """Continue a stopped run from its saved state and return the path of model.safetensors; a finished run is left as it is.

    `run_dir` is its folder, or what `reopen` made of it, which is released. `changes` are `a.b=value` overrides of its spec, for the rest of the
    run. `until` and `processes`, of which there may be more or fewer than before, as in `train`. Raises Interrupted as it does, CheckpointError where the folder holds no run or no state, SpecError where it cannot
    go on with a change, UsageError where another process trains in it, OutputError where a link leads out of it.
    """
    processes = processes or Processes()
    run = run_dir if isinstance(run_dir, Reopened) else reopen(run_dir, changes, ours=processes.writes)
    with ExitStack() as stack:
        stack.callback(run.release)
        where = processes.device(device)
        stack.enter_context(machine(where, run.spec.training.deterministic))

        def build() -> tuple[Run, Snapshot | None, Snapshot | None]:
            experiment = build_experiment(run.spec, where)
            states = StateFiles(run.path)
            snapshot, good = _found(run.path, states, processes.writes, lambda text: on_event(Note(text)))
            if snapshot is not None:
                try:
                    check_same(snapshot.described.get("spec"), described(experiment.resolved))
                except ValueError as error:
                    raise unreadable(snapshot.path or states.newest, error) from error
                check_samples(snapshot.described.get("samples"), experiment)
            horizon = (0 if snapshot is None else snapshot.horizon) or total_steps(run.before, experiment.train)
            going = _kind(processes)(experiment, Keeper(run.path, run.lock), states, where, on_event, until, processes, horizon)
            return going, snapshot, good

        going, snapshot, good = processes.together(build)
        return going.go_on(snapshot, good, run.changes)


def _kind(processes: Processes) -> type[Run]:
    return Run if processes.writes else Follower


def _found(run_dir: Path, states: StateFiles, ours: bool, tell: Callable[[str], None]) -> tuple[Snapshot | None, Snapshot | None]:
    """The state to go on from, and that of the last validation; None where the run was stopped before its first. Raises CheckpointError.

    `ours`: this process writes there.
    """
    if ours:
        clear_away(run_dir)
    if not states.exist and _started_afresh(run_dir):
        tell("this run was stopped before its first state was saved: it starts anew")
        return None, None
    return states.read(tell)


def _start_from(experiment: Experiment, path: Path) -> None:
    weights = load_checkpoint(path).part("model")
    try:
        experiment.network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"its network is not the one of this spec: {said(error)}", where=str(path), hint="name the same model") from error


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {**installed_versions(), "python": platform.python_version(), "device": f"{device} ({name})", "threads": torch.get_num_threads()}


def _started_afresh(folder: Path) -> bool:
    """Whether a run had begun to train, from weights that follow from its seed."""
    try:
        return json.loads((folder / MARK).read_text())["init_from"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False  # older versions did not say
