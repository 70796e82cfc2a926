"""Where each input goes: names mirrored into the output folder, and all that can be refused before the network is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from es_cli.data.files import suffix_of
from es_cli.data.writers import INSTEAD, SUFFIXES
from es_cli.errors import UsageError
from es_cli.serving.inputs import STREAM, Input, Shard, is_many

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, as file systems have it
ADDED = 5  # bytes of the longest suffix that is added to the name of an output, for what is said about it
ENDING = ".recon"
FRAMES = ("npy", "raw", "cfl")
EXISTS = "give another -o, --overwrite to replace it, or --skip-existing to go on with the others"


@dataclass(frozen=True)
class Job:
    """One input and the file that it becomes, None: standard output. `within` is the folder of all outputs, None: there is none; `only_one` where
    the user named the file, so that it can take one image and no more."""

    input: Input
    target: Path | None
    within: Path | None = None
    only_one: bool = False

    @property
    def output(self) -> str:
        """The name of the output below its folder."""
        return "" if self.target is None else (self.target if self.within is None else self.target.relative_to(self.within)).as_posix()

    def numbered(self, number: int) -> Job:
        """The job of the second, third … array of a stream: stdin-2.recon.npy beside stdin.recon.npy."""
        if self.target is None or number == 1:
            return self
        return Job(self.input, self.target.with_name(f"stdin-{number}{ENDING}{suffix_of(self.target)}"), self.within)


def is_folder(out: str | None, arguments: Sequence[str]) -> bool:
    """Whether -o names a folder."""
    if out in (None, STREAM):
        return False
    # a .zarr is a folder to the system and a file to whoever writes it
    existing = Path(out).is_dir() and Path(out).suffix.lower() != ".zarr"
    return len(arguments) > 1 or any(map(is_many, arguments)) or out.endswith(("/", "\\")) or existing


def check_out(arguments: Sequence[str], out: str | None) -> Path | None:
    """The folder that -o names, None where it names none. Raises UsageError where what it names cannot be the output."""
    if out in (None, STREAM):
        if out is None and any(map(is_many, arguments)):
            raise UsageError("a folder, a glob or a list needs a folder for its images", hint="give -o DIR, into which its names are mirrored")
        return None
    check_name(Path(out))
    if not is_folder(out, arguments):
        _check_suffix(Path(out))
        return None
    folder = Path(out)
    if folder.is_file() or (folder.suffix and not folder.exists()):
        raise UsageError("several inputs need a folder, and this is a file", where=out, hint="give -o DIR")
    return folder


def kinds(form: str | None, arguments: Sequence[str], out: str | None) -> tuple[str, str]:
    """What --format means: the format of frames on pipes (npy, raw, cfl), and the suffix of files whose names are made here. None: npy for both.

    Raises UsageError for a kind that es does not write, or that nothing is to be written in.
    """
    if form is None:
        return FRAMES[0], ".npy"
    name = form.lower().removeprefix(".")
    piped, suffix = name in FRAMES, f".{name}"
    if not piped and suffix not in SUFFIXES:
        hint = f"on pipes {', '.join(FRAMES)}; for files also {', '.join(one[1:] for one in SUFFIXES if one[1:] not in FRAMES)}"
        raise UsageError(f"--format {form} is no format that es writes", hint=hint)
    if out == STREAM and not piped:
        raise UsageError(f"--format {form} cannot go through a pipe", hint=f"give one of {', '.join(FRAMES)}, or -o FILE.{name}")
    files = out != STREAM and (out is None or is_folder(out, arguments))
    if not files and STREAM not in (out, *arguments):
        raise UsageError(f"-o {out} says itself what it is, beside --format {form}", hint="leave --format out")
    if name == "raw" and STREAM not in (out, *arguments):
        raise UsageError("--format raw is for pipes: a file of bare values does not say its shape", hint="use npy")
    return (name if piped else FRAMES[0]), (suffix if suffix in SUFFIXES else ".npy")


def plan(inputs: Sequence[Input], out: str | None, folder: Path | None, kind: str = ".npy") -> list[Job]:
    """The job of each input; `kind` is the suffix of files in a folder. Raises UsageError where two are one file, or an output is an input."""
    if out == STREAM:
        return [Job(one, None) for one in inputs]
    if out is not None and folder is None:
        jobs = [Job(one, Path(out), only_one=True) for one in inputs]
    else:
        jobs = [Job(one, (folder or Path()) / _renamed(one.name, kind), folder) for one in inputs]
    counts = Counter(job.target for job in jobs)
    for job in jobs:
        assert job.target is not None
        check_name(job.target)
        source = Path(job.input.source)
        if counts[job.target] > 1:
            hint = "rename one; or name their folder or a glob in quotes, whose folders are mirrored"
            raise UsageError("two inputs would be written to this file", where=str(job.target), hint=hint)
        if not job.input.is_stream and job.target.exists() and source.exists() and job.target.samefile(source):
            raise UsageError("the output would replace the input", where=str(job.target), hint="give another -o")
    return jobs


def part_of(jobs: Sequence[Job], shard: Shard) -> list[Job]:
    """The jobs of a part: every `count`-th of them sorted by output, the same on every machine."""
    return sorted(jobs, key=lambda job: job.output)[shard.number - 1 :: shard.count]


def to_do(jobs: Sequence[Job], named: bool, overwrite: bool, skip: bool) -> tuple[list[Job], list[Job]]:
    """The jobs that are left, and those that are done: their outputs, which are whole if they are there at all, exist and `skip` says so.

    `named` where the user gave -o; default names are written again. Raises UsageError where an output exists and nothing is said about it.
    """
    if overwrite and skip:
        raise UsageError("--overwrite and --skip-existing contradict each other", hint="leave one of them out")
    left: list[Job] = []
    done: list[Job] = []
    for job in jobs:
        there = job.target is not None and exists(job.target)
        if there and not skip and named and not overwrite:
            raise taken(job)
        (done if there and skip else left).append(job)
    return left, done


def taken(job: Job) -> UsageError:
    """What to answer where an output is there already."""
    return UsageError("this output exists", where=str(job.target), hint=EXISTS)


def exists(target: Path) -> bool:
    return target.exists() and (suffix_of(target) != ".cfl" or target.with_suffix(".hdr").exists())


def check_name(path: Path) -> None:
    """UsageError where no file can be called so, or what is written beside it."""
    if "\0" in str(path) or len(os.fsencode(path.name)) > LONGEST_NAME - ADDED or len(os.fsencode(path)) > LONGEST_PATH - ADDED:
        raise UsageError("no file can have this name", where=str(path)[:LONGEST_NAME], hint="give a shorter -o FILE")


def _renamed(name: Path, kind: str) -> Path:
    stem = name.name[: len(name.name) - len(suffix_of(name))]
    return name.with_name(f"{stem}{ENDING}{kind}")


def _check_suffix(path: Path) -> None:
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        hint = INSTEAD.get(suffix, f"es writes {', '.join(SUFFIXES)}; a folder ends with /")
        raise UsageError(f"no writer for {path.suffix or 'a name without suffix'}", where=str(path), hint=hint)


def check_identifiers(jobs: Sequence[Job]) -> None:
    """Raises UsageError where identifiers have no place, DataError where there are none to keep; before anything heavy is loaded."""
    from es_cli.data.identifiers import PLACES, read_identifiers
    from es_cli.data.writers import suffix_of

    for job in jobs:
        if job.target is None or suffix_of(job.target) not in PLACES:
            hint = f"give -o FILE with one of {', '.join(PLACES)}"
            raise UsageError("--keep-identifiers has no place in this output", where=str(job.target or "standard output"), hint=hint)
        if job.input.is_stream:
            raise UsageError("standard input has no identifiers to keep", hint="leave --keep-identifiers out")
        read_identifiers(Path(job.input.source))
