"""Hostile specs, checkpoints, runs and arrays by the thousand: how does each command end? `python benchmarks/fuzz.py [--cases N] [--seconds S]`.

Each case must end in a documented exit code other than 1, with ten lines or less on standard error, no traceback, less than 2 GiB and within
10 seconds of a processor. Cases run in a fork of this process that may take no more than 2 GiB beside what it has, so that a crash is counted and the next case
runs in another; what broke a promise is kept. A third are specs, a third checkpoints and runs to go on with, a third arrays, for which the two
checkpoints of the seeds are loaded once. Prints a table of exit codes by kind of file, writes benchmarks/results/fuzz.json, and ends with 6
where a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from hostile import ARRAYS, KINDS, command, make_seeds
from judging import SECONDS, Outcome, confined, prepare, run

RESULT = Path(__file__).parent / "results" / "fuzz.json"
WAIT = 6 * SECONDS  # by the clock; then a case is taken for one that never ends
WARM = 3 * len(ARRAYS)  # cases of a new process whose time is not counted: they import what is left
TURN = 2000  # cases, after which a process is replaced: what libraries keep is not a case's
FREQUENT = 100  # broken promises that are written down; all are counted


@dataclass
class Tally:
    """What was seen: ends by kind, the worst of each promise, and the cases that broke one."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    broken: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, number: int, end: Outcome | str) -> None:
        fault = end if isinstance(end, str) else end.fault
        self.ends[kind, str(end.code) if isinstance(end, Outcome) else end.partition(":")[0]] += 1
        if isinstance(end, Outcome):
            self.slowest, self.largest = max(self.slowest, end.seconds), max(self.largest, end.peak)
        if fault:
            self.broken.append({"kind": kind, "case": number, "fault": fault, **({} if isinstance(end, str) else {"said": end.text[:600]})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, with the cases made by then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="one kind of file; left out: all in turn")
    parser.add_argument("--only", type=int, metavar="CASE", help="one case, its files kept and its error shown")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the files of cases that broke a promise")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        seeds = Path(scratch) / "seeds"
        seeds.mkdir()
        # in a process of its own: a parent that has started threads should not be copied
        maker = get_context("spawn").Process(target=make_seeds, args=(seeds,))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit("the seeds could not be made")
        if args.only is not None:
            folder = Path(tempfile.mkdtemp(prefix="case-"))
            print(folder, one(args.seed, args.kind or kind_of(args.only), args.only, seeds, folder))
            return
        prepare(seeds)
        started = time.monotonic()
        tally = many(args, seeds, Path(scratch), started)
    report(tally, args, time.monotonic() - started)
    sys.exit(6 if tally.broken else 0)


def kind_of(number: int) -> str:
    """Specs, then checkpoints or runs, then arrays, and so on."""
    turn, part = divmod(number, 3)
    return ("spec", ("checkpoint", "run")[turn % 2], ARRAYS[turn % len(ARRAYS)])[part]


def one(seed: int, kind: str, number: int, seeds: Path, folder: Path) -> Outcome:
    """A case in this process; it follows from `seed`, kind and number alone."""
    arguments = command(Random(f"{seed}/{kind}/{number}"), kind, seeds, folder)
    with confined():
        return run(arguments)


def work(pipe: Connection, seed: int, seeds: Path, scratch: Path) -> None:
    """Run the cases that come in, and send back how each ended."""
    while (asked := pipe.recv()) is not None:
        kind, number = asked
        folder = scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        pipe.send(one(seed, kind, number, seeds, folder))


def many(args: argparse.Namespace, seeds: Path, scratch: Path, started: float) -> Tally:
    """All cases, one after another, in a process that is replaced where one of them ends it."""
    tally, worker, fresh = Tally(), None, 0
    for number in range(args.cases):
        if time.monotonic() - started > args.seconds:
            break
        kind = args.kind or kind_of(number)
        if worker is not None and number - fresh >= TURN:
            worker.stop()
            worker = None
        if worker is None:
            worker, fresh = Worker(args.seed, seeds, scratch), number
        end = worker.case(kind, number)
        if isinstance(end, Outcome) and end.fault == "too slow" and number - fresh < WARM:
            end = worker.case(kind, number)
        tally.add(kind, number, end)
        if (isinstance(end, str) or end.fault) and args.keep is not None:
            shutil.copytree(scratch / "case", args.keep / f"{kind}-{number}", symlinks=True, dirs_exist_ok=True)
        if isinstance(end, str):
            worker = None
    if worker is not None:
        worker.stop()
    return tally


class Worker:
    """A process that runs one case at a time."""

    def __init__(self, seed: int, seeds: Path, scratch: Path) -> None:
        context = get_context("fork")  # of a process that has imported everything, and has one thread
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, seed, seeds, scratch), daemon=True)
        self.process.start()
        other.close()

    def case(self, kind: str, number: int) -> Outcome | str:
        """How a case ended, or in words that it ended the process."""
        self.pipe.send((kind, number))
        try:
            if self.pipe.poll(WAIT):
                made: Outcome = self.pipe.recv()
                return made
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            return f"crash: {signal.Signals(-code).name if code < 0 else code}"
        self.process.kill()
        self.process.join()
        return f"hang: no end after {WAIT:.0f} s"

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join()


def report(tally: Tally, args: argparse.Namespace, seconds: float) -> None:
    """The table on standard output, and the same as JSON."""
    codes = sorted({code for _, code in tally.ends})
    table = {kind: {code: tally.ends[kind, code] for code in codes if tally.ends[kind, code]} for kind in KINDS if any(k == kind for k, _ in tally.ends)}
    total = sum(tally.ends.values())
    print("| kind | cases |" + "".join(f" {code} |" for code in codes))
    print("|---|" + "---|" * (len(codes) + 1))
    for kind, ends in [*table.items(), ("all", {code: sum(row.get(code, 0) for row in table.values()) for code in codes})]:
        print(f"| {kind} | {sum(ends.values())} |" + "".join(f" {ends.get(code, 0)} |" for code in codes))
    print(f"\n{total} cases in {seconds:.0f} s; slowest {tally.slowest:.1f} s, largest {tally.largest >> 20} MiB; promises broken: {len(tally.broken)}")
    for case in tally.broken[:20]:
        print(json.dumps(case))
    result = {
        "command": "python benchmarks/fuzz.py " + " ".join(sys.argv[1:]), "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "cases": total, "asked_for": args.cases,
        "seed": args.seed, "seconds": round(seconds), "slowest_s": round(tally.slowest, 2), "largest_MiB": tally.largest >> 20, "ends": table,
        "promises_broken": len(tally.broken), "broken": tally.broken[:FREQUENT],
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
