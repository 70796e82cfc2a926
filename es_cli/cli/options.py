"""Options that several commands share, written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.completion import (
    complete_checkpoints,
    complete_devices,
    complete_overrides,
    complete_precisions,
    complete_runs,
    complete_test_rules,
)
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.spec.component import ArrayFile
    from es_cli.spec.schema import Test


def _remember(ctx: typer.Context, verbose: bool) -> bool:
    """-v also decides how faults are shown, by the group of all commands (app.py), which sees no options of a command."""
    ctx.find_root().command.verbose = verbose  # type: ignore[attr-defined]
    return verbose


Checkpoint = Annotated[
    Path, typer.Option("--ckpt", metavar="FILE", help="The model.safetensors of a run.", show_default=False, autocompletion=complete_checkpoints)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="A.B=VALUE...", help="Changes to the spec.", show_default=False, autocompletion=complete_overrides)
]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Continue the stopped run in this folder.", autocompletion=complete_runs)]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", metavar="FILE", help="Start from the network of another checkpoint.", autocompletion=complete_checkpoints),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.", autocompletion=complete_devices)]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="What the network computes in: float32, tf32 (on a GPU), bfloat16 or float16 (on a GPU). The physics stays in float32.",
        autocompletion=complete_precisions,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
KeepIdentifiers = Annotated[
    bool,
    typer.Option(
        "--keep-identifiers",
        help="Carry the patient's name, number and dates, and those of study and series, from DICOM headers into .h5, .zarr or .nii; without it, no output names anybody.",
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Nothing on standard error but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", callback=_remember, help="Say more; show where an error happened.")]
Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=FILE",
        help="A parameter of the operator in place of the checkpoint's, one for all samples or one for each: mask=mask.npy; "
        "mask=from-data reads the mask off the zeros; FILE[KEY] is an array of an .npz or .h5 file, and a folder holds one file for each sample. May be repeated.",
        show_default=False,
    ),
]
TestRule = Annotated[
    str | None,
    typer.Option(
        "--test-rule",
        metavar="RULE",
        help="How images are made, in place of the checkpoint's rule: full (the whole group), one (a single network call), paper (10 splits, each with a "
        "random element), or the keys of test: splits=complementary,folds=5.",
        show_default=False,
        autocompletion=complete_test_rules,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, instead of a table.")]


UNITS = (86400, 3600, 60, 1)  # seconds of a day, an hour, a minute and a second


def seconds_of(text: str) -> float:
    """A time as people write it, 1d12h, 23h30m or 90s, or as SLURM does, 1-12:00:00 or 23:30:00. Raises UsageError."""
    named = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().replace(" ", ""))
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text.strip())
    found = named or clock
    seconds = 0 if found is None else sum(int(number or 0) * unit for number, unit in zip(found.groups(), UNITS, strict=True))
    if seconds == 0:
        raise UsageError(f"{text!r} is no time", hint="write 23h30m, 45m, 90s, 1d, or 23:30:00")
    return float(seconds)


BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def bytes_of(text: str) -> int:
    """A size as people write it: 2G, 500M, 1.5GiB. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{text!r} is no size", hint="write 2G or 500M")
    return int(float(found[1]) * BYTES[found[2]])


def named_files(param: list[str] | None) -> dict[str, str]:
    """NAME=FILE, each name once. Raises UsageError."""
    named: dict[str, str] = {}
    for text in param or ():
        name, _, file = text.partition("=")
        if not name or not file:
            raise UsageError(f"--param {text} names no {'file' if name else 'parameter'}", hint="write --param NAME=FILE, such as mask=mask.npy")
        if name in named:
            raise UsageError(f"--param {name} is given twice", hint="leave one of them out")
        named[name] = file
    return named


def read_test_rule(rule: str | None) -> Test | None:
    """The section `test` that --test-rule stands for; None where it is not given. Raises SpecError."""
    from es_cli.spec.rule import read_rule

    return None if rule is None else read_rule(rule)


def parameter_sources(files: dict[str, str]) -> dict[str, ArrayFile | str]:
    """Where the arrays lie: from-data stays as it is, and FILE[KEY] is one of several arrays of a file."""
    return {name: _source(file) for name, file in files.items()}


def read_parameters(files: dict[str, str]) -> dict[str, Any]:
    """The arrays in the files. Raises DataError."""
    from es_cli.building.parameters import read_parameter

    return {name: read_parameter(source) for name, source in parameter_sources(files).items()}


def _source(file: str) -> ArrayFile | str:
    from es_cli.spec.schema import FROM_DATA, ArrayFile

    if file == FROM_DATA:
        return file
    inner = re.fullmatch(r"(.+\.(?:npz|h5|hdf5))\[(.+)\]", file)
    return ArrayFile(file=inner[1], key=inner[2]) if inner else ArrayFile(file=file)
