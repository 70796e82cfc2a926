"""`es reconstruct`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.options import Checkpoint, Device, Overwrite, Quiet, Verbose
from es_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def reconstruct(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files of measurements, or - for .npy on standard input.")],
    ckpt: Checkpoint,
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="OUT", help="A file, a folder for several inputs, or - for standard output.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make images from measurements. One sample or a batch, told apart by the shape; complex in, complex out.

    [bold]Examples[/]: es reconstruct --ckpt m.safetensors y.npy -o x.npy  ·  cat y.npy | es reconstruct --ckpt m.safetensors - -o - > x.npy
    """
    targets = _targets(inputs, out, overwrite)
    from es_cli.data.writers import write_array, write_npy
    from es_cli.reconstruct import Reconstructor

    model = Reconstructor.load(ckpt, device)
    for source, target in zip(inputs, targets, strict=True):
        for number, (where, array) in enumerate(_arrays(source)):
            image = model.reconstruct(array, where)
            if target is None:
                write_npy(sys.stdout.buffer, image)
                continue
            path = target if number == 0 else target.with_name(f"{target.stem}-{number + 1}{target.suffix}")
            if number and path.exists() and not overwrite:
                raise UsageError("this output exists", where=str(path), hint="give another -o, or --overwrite")
            write_array(path, image)
            typer.echo(path)


def _targets(inputs: list[str], out: str | None, overwrite: bool) -> list[Path | None]:
    """Where each input goes, None for standard output; refused before anything heavy is loaded."""
    if out == "-":
        return [None] * len(inputs)
    stems = ["stdin" if name == "-" else Path(name).stem for name in inputs]
    names = [f"{stem}.recon.npy" for stem in stems]
    if out is None:
        paths = [Path(name) for name in names]
    elif len(inputs) > 1 or Path(out).is_dir():
        paths = [Path(out) / name for name in names]
    else:
        paths = [Path(out)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError("two inputs would be written to this file", where=str(twice), hint="rename one of them, or run es twice")
    from_user = out is not None
    for path in paths:
        if from_user and path.exists() and not overwrite:
            raise UsageError("this output exists", where=str(path), hint="give another -o, or --overwrite to replace it")
    return list(paths)


def _arrays(source: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    from es_cli.data import readers

    if source != "-":
        yield source, readers.open_array(Path(source))
        return
    for number, array in enumerate(readers.read_npy_stream(sys.stdin.buffer)):
        yield f"standard input, array {number + 1}", array
