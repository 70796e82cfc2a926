"""`es simulate`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from es_cli.cli.console import answer, answers_only, complain, counting, quoted
from es_cli.cli.options import Overrides, Overwrite, Quiet, Verbose
from es_cli.errors import UsageError


def simulate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML spec.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder that is made.", show_default=False)],
    overrides: Overrides = None,
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="DIR", help="Pictures or arrays: a folder, a file or a glob, in place of all data of the spec; crop, resize and grey are those of its data.train.images."),
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="N", help="Set so many files aside for the test, or this fraction of them, such as 0.1; none if left out.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make measurements, ground truth and operator from images, once, in files that the other commands read.

    Standard output carries one line, the path of the spec that names them: es train takes it as it is. Operator, noise and held-out samples are those that es train draws when it is given the images. physics.noise_model=ZeroNoise measures without noise.

    \b
    Examples:
      es simulate spec.yaml --images photos --test 0.1 -o data
      es simulate spec.yaml --images x.npy -o data
      es simulate spec.yaml --images photos -o data data.train.images.crop=64
      es train "$(es simulate examples/configs/quickstart.yaml -o data)"
    """
    share = None if test is None else _share(test)
    left_out, changes = ([], []) if images is None else _in_place(spec, images)
    from es_cli.catalog import load_spec
    from es_cli.simulation.folder import check_output

    loaded = load_spec(spec, [*changes, *(overrides or [])])
    # before torch is imported: a name that is taken is answered at once
    check_output(out, overwrite)
    if left_out and not quiet:
        complain(f"--images takes the place of {', '.join(left_out)} of the spec", "note: ")
    with answers_only() as stdout, counting("simulating", quiet) as on_progress:
        from es_cli.simulation.job import simulate as core

        made = core(loaded, out, test=share, overwrite=overwrite, on_progress=on_progress)
        answer(str(made), stdout)
    if not quiet:
        complain(f"try next: es train {quoted(made)}", label="")


def _share(text: str) -> float:
    """A number of files, or a fraction of them. Raises UsageError."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not (0 < share < 1 or (share >= 1 and text.isdecimal())):
        raise UsageError(f"--test {text} is neither a fraction nor a number of files", hint="such as --test 0.1, or --test 20")
    return share


def _in_place(spec: Path, images: str) -> tuple[list[str], list[str]]:
    """The data of the spec that `images` take the place of, and the overrides that put them there. Raises SpecError where it cannot be read."""
    from es_cli.spec.document import read_document
    from es_cli.spec.schema import Pair

    held = read_document(spec).spec
    data = None if held is None else held.data
    file = json.dumps(os.path.abspath(Path(images).expanduser()), ensure_ascii=False)
    train = "data.train.images"
    changes = [f"{train}.file={file}", f"{train}.part=null", f"{train}.key=null", "data.train.measurements=null", "data.test=null"]
    if data is None:
        return [], changes
    left_out = [f"data.train.{name}" for name in ("measurements", "images") if getattr(data.train, name) is not None]
    if isinstance(data.validation, Pair):
        left_out, changes = [*left_out, "data.validation"], [*changes, "data.validation=0.1"]
    return [*left_out, *(["data.test"] if data.test is not None else [])], changes
