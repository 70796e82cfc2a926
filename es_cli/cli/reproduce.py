"""`es reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.console import answer, answers_only, complain, plain
from es_cli.cli.options import AsJson, Quiet, Verbose, named_files, parameter_sources
from es_cli.errors import AnswerIsNo, UsageError

if TYPE_CHECKING:
    from es_cli.serving.events import Event
    from es_cli.serving.reproduce import Comparison

TOLERANCE = 1e-5


def reproduce(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="An output of es reconstruct, with its OUTPUT.json beside it.", show_default=False)],
    ckpt: Annotated[Path | None, typer.Option("--ckpt", metavar="FILE", help="Where the checkpoint lies now.", show_default=False)] = None,
    source: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="Where the measurements lie now.", show_default=False)] = None,
    param: Annotated[list[str] | None, typer.Option("--param", metavar="NAME=FILE", help="Where a parameter lies now; may be repeated.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="Another device than then.", show_default=False)] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", metavar="X", help="How much values may differ, in units of the greatest one.")] = TOLERANCE,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Keep the new output here, of the same kind.", show_default=False)] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make an output again from what is written beside it, and compare: the same checkpoint, measurements and parameters, by their SHA-256.

    Exit code 0 where it is the same, byte for byte or within the tolerance, 6 where it is not.

    \b
    Examples:
      es reproduce images/y.recon.npy
      es reproduce x.nii.gz --ckpt m.safetensors --input volume.nii.gz
    """
    files = named_files(param)
    if out is not None and (out.exists() or out.suffix != output.suffix):
        raise UsageError("the new output needs a name of its own, of the same kind", where=str(out), hint=f"give -o another{output.suffix}")
    with answers_only():
        from es_cli.serving.events import Remark
        from es_cli.serving.reproduce import reproduce as core

        def show(event: Event) -> None:
            if isinstance(event, Remark) and not quiet:
                complain(event.text, "note: ")

        found = core(output, ckpt=ckpt, source=source, params=parameter_sources(files), device=device, keep=out, tell=show)
    if as_json:
        from es_cli.cli.console import answer_json

        answer_json({**vars(found), "relative": found.relative, "same": found.relative <= tolerance})
    else:
        _answer_in_words(output, found, tolerance)
    if found.relative > tolerance:
        raise AnswerIsNo(f"made again, it differs by {found.relative:.2g} of its greatest value", where=str(output), hint="see what has changed since")


def _answer_in_words(output: Path, found: Comparison, tolerance: float) -> None:
    how = "byte for byte" if found.same_bytes else f"within {found.relative:.2g} of its greatest value"
    answer(f"{plain(output)}: {'the same' if found.relative <= tolerance else 'not the same'}, {how}")
    if found.changed:
        answer("the file is another one than was written then")
    for name, (then, now) in found.versions.items():
        answer(f"{name} was {then}, and is {now}")
