"""What validation, previews and saving cost beside the steps of a training with the defaults: `python benchmarks/overhead.py SPEC [A.B=VALUE…]`.

Prints one JSON line: seconds from the first step to the end, those spent in steps and in validation, and the share of everything that is no step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from es_cli.catalog import load_spec
from es_cli.training.events import Event, Started, Step, Validated
from es_cli.training.folder import claim
from es_cli.training.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("changes", nargs="*", metavar="A.B=VALUE")
    args = parser.parse_args()
    spec = load_spec(args.spec, args.changes)
    seconds = {"steps": 0.0, "validation": 0.0}
    marks: dict[str, float] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            marks["start"] = time.perf_counter()
        elif isinstance(event, Step):
            seconds["steps"] += event.seconds
        elif isinstance(event, Validated):
            seconds["validation"] += event.seconds

    with tempfile.TemporaryDirectory() as scratch:
        train(spec, claim(spec, Path(scratch) / "run"), on_event=on_event)
        whole = time.perf_counter() - marks["start"]  # with the last preview
    share = {"validation": seconds["validation"] / whole, "everything but steps": 1 - seconds["steps"] / whole}
    figures = {"whole": whole, **seconds}
    print(json.dumps({"seconds": {k: round(v, 1) for k, v in figures.items()}, "share": {k: round(v, 3) for k, v in share.items()}}))


if __name__ == "__main__":
    main()
