"""Where the time of a training step goes: `python benchmarks/profile_step.py [-o profile.json] [--task mri64] [--steps 20]`.

The shipped specs on made-up arrays, under torch's profiler; a backward operation counts for what its forward operation was part of. Prints one table
for each task, in milliseconds for a step. The profiler costs time itself: the step without it is said above each table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import synthetic
import torch
from deepinv.models import UNet
from deepinv.physics import MRI, Inpainting
from torch.profiler import ProfilerActivity, profile, record_function
from turns import surroundings

from es_cli.data.measurements import Measurements
from es_cli.splitting import objective
from es_cli.splitting.group import Batch
from es_cli.training.events import Event, Step

MARK = "part: "
REST = "everything else"
BACKWARD = "backward pass itself"
OPERATORS = ("A", "A_adjoint", "A_dagger", "A_adjoint_A", "prox_l2")
# (owner, attribute) of what belongs to each part; the innermost part counts
PARTS: dict[str, list[tuple[Any, str]]] = {
    "network": [(UNet, "forward")],
    "operator and proximal step": [(physics, name) for physics in (Inpainting, MRI) for name in OPERATORS],
    "group elements": [(Batch, "act"), (Batch, "inverse")],
    "splits": [(objective, "draw_split"), (objective, "split_operator")],
    "losses and unrolled iterations": [(objective.Objective, "forward")],
    "data": [(Measurements, "batch")],
    BACKWARD: [(torch.Tensor, "backward")],
}
# what torch marks itself
OPTIMIZER, AVERAGE, NODE, ACCUMULATE = "Optimizer.", "aten::_foreach_lerp_", "autograd::engine::evaluate_function", "AccumulateGrad"
WARM_STEPS = 5


class Span(NamedTuple):
    """One event of the profiler, in µs; `node` is the number that a forward operation shares with its backward operation, below 0: none."""

    start: float
    end: float
    name: str
    node: int


class Row(NamedTuple):
    """Microseconds of a part in forward and backward."""

    forward: float
    backward: float


def rows(spans: Iterable[Span]) -> dict[str, Row]:
    """Microseconds that each part took for itself, what lies within it and is another part left out."""
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    owner: dict[int, str] = {}
    opened: list[tuple[float, dict[str, float], str]] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        while opened and opened[-1][0] <= span.start:
            opened.pop()
        going_back = any(part == BACKWARD for _, _, part in opened)
        if span.name.startswith(NODE):
            # weights gather their gradients, and nearly all weights are the network's
            part = "network" if ACCUMULATE in span.name else owner.get(span.node, REST)
            column = backward
        else:
            part, column = _part(span.name), forward
            if part is None:
                if span.node >= 0 and not going_back:
                    owner[span.node] = opened[-1][2] if opened else REST
                continue
        if opened:
            opened[-1][1][opened[-1][2]] -= span.end - span.start
        column[part] += span.end - span.start
        opened.append((span.end, column, part))
    return {part: Row(forward[part], backward[part]) for part in dict.fromkeys([*PARTS, *forward, *backward])}


def _part(name: str) -> str | None:
    if name.startswith(MARK):
        return name.removeprefix(MARK)
    if name.startswith(OPTIMIZER):
        return "optimizer"
    return "average of the weights" if name == AVERAGE else None


@contextmanager
def marked() -> Iterator[None]:
    """Within it, what is in PARTS tells the profiler when it runs."""
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, _marking(getattr(owner, name), part)))
        yield


def _marking(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + part):
            return function(*args, **kwargs)

    return run


def profiled(task: str, steps: int) -> dict[str, Any]:
    """Milliseconds of a step, without the profiler and with it, and of each part."""
    profiler = profile(activities=[ProfilerActivity.CPU])
    plain: list[float] = []
    seen: list[float] = []

    def on_event(event: Event) -> None:
        if not isinstance(event, Step):
            return
        if WARM_STEPS < event.step <= WARM_STEPS + steps:
            plain.append(event.seconds)
        elif event.step > WARM_STEPS + steps:
            seen.append(event.seconds)
        if event.step == WARM_STEPS + steps:
            profiler.start()
        elif event.step == WARM_STEPS + 2 * steps:
            profiler.stop()

    with tempfile.TemporaryDirectory() as scratch, marked():
        every = WARM_STEPS + 2 * steps
        spec = synthetic.spec_in(Path(scratch), task, [f"training.steps={every}", f"training.validate_every={every}"])
        synthetic.run(spec, Path(scratch) / "run", on_event)
    spans = [Span(event.time_range.start, event.time_range.end, event.name, event.sequence_nr) for event in profiler.events()]
    parts = {part: {"forward": row.forward / 1e3 / steps, "backward": row.backward / 1e3 / steps} for part, row in rows(spans).items()}
    parts.setdefault(REST, {"forward": 0.0, "backward": 0.0})
    whole = 1e3 * sum(seen) / steps
    parts[REST]["forward"] += whole - sum(part["forward"] + part["backward"] for part in parts.values())
    return {"milliseconds": 1e3 * statistics.median(plain), "with the profiler": whole, "parts": parts}


def table(found: dict[str, Any]) -> str:
    """Markdown: milliseconds of each part in forward and backward, and its share of a step, the largest first."""
    parts, whole = found["parts"], found["with the profiler"]
    lines = ["| part of a step | forward | backward | share |", "|---|---|---|---|"]
    for part in sorted(parts, key=lambda name: -sum(parts[name].values())):
        forward, backward = parts[part]["forward"], parts[part]["backward"]
        lines.append(f"| {part} | {forward:.2f} ms | {backward:.2f} ms | {(forward + backward) / whole:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--task", action="append", choices=list(synthetic.TASKS))
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    found = {task: profiled(task, args.steps) for task in args.task or synthetic.TASKS}
    for task, one in found.items():
        print(f"\n{task}: {one['milliseconds']:.1f} ms for a step, {one['with the profiler']:.1f} ms under the profiler\n\n{table(one)}")
    if args.out is not None:
        args.out.write_text(json.dumps({**surroundings(), "tasks": found}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
