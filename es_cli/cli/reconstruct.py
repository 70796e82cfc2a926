"""`es reconstruct`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from es_cli.cli.console import answer, answers_only, calls_in_words, complain, counting, plain
from es_cli.cli.options import (
    Checkpoint,
    Device,
    KeepIdentifiers,
    Overwrite,
    Param,
    Precision,
    Quiet,
    TestRule,
    Verbose,
    named_files,
    read_parameters,
    read_test_rule,
)
from es_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

STREAM = "-"
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, as file systems have it


def reconstruct(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files of measurements; - for .npy on standard input.", show_default=False)],
    ckpt: Checkpoint,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="OUT", help="A file (.npy .npz .h5 .zarr .nii .cfl .png .tif), a folder, or - for .npy on standard output; ./STEM.recon.npy if left out."),
    ] = None,
    overwrite: Overwrite = False,
    key: Annotated[str | None, typer.Option("--key", metavar="NAME", help="Which array of an .npz, .h5, .zarr or .mat file; needed where it holds several.")] = None,
    param: Param = None,
    test_rule: TestRule = None,
    device: Device = "auto",
    precision: Precision = "float32",
    keep_identifiers: KeepIdentifiers = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make images from measurements: one or a batch, told apart by the operator's shape; complex in, complex out.

    Prints the path of each output. Voxel size and position go from input to output where both have a place for them. Several arrays on standard input, one after another, are several inputs. Nothing but the checkpoint is needed.

    \b
    Examples:
      es reconstruct --ckpt m.safetensors y.npy -o x.png
      es reconstruct --ckpt m.safetensors a.npy b.npy -o images
      es reconstruct --ckpt m.safetensors series/ -o x.nii.gz
      es reconstruct --ckpt m.safetensors y.npy --param mask=mask.npy
      es reconstruct --ckpt m.safetensors y.npy --test-rule one
      cat y.npy | es reconstruct --ckpt m.safetensors - -o - > x.npy
    """
    files, rule, targets = named_files(param), read_test_rule(test_rule), output_files(inputs, out, overwrite)
    if keep_identifiers:
        _check_identifiers(inputs, targets)
    one_file = out not in (None, STREAM) and not _is_folder(out, inputs)
    within = None if out in (None, STREAM) or one_file else Path(str(out))
    with answers_only() as stdout, counting("reconstructing", quiet or len(inputs) == 1) as on_progress:
        from es_cli.reconstruct import Reconstructor

        model = Reconstructor.load(ckpt, device, precision, rule)
        params = read_parameters(files)
        if not quiet and (verbose or rule is not None or sys.stderr.isatty()):
            complain(f"{calls_in_words(model.network_calls)} for each image", "note: ")
        for name in model.per_sample:
            if name not in params and not quiet:
                complain(f"each sample had its own {name} in training; this is the one of the checkpoint, give --param {name}=FILE for another", "note: ")
        for done, (source, target) in enumerate(zip(inputs, targets, strict=True), 1):
            for number, (where, measured) in enumerate(_measurements(source, key, one_file), 1):
                image = model.reconstruct(measured, where, params)
                place = target if number == 1 else _numbered(target, number, overwrite)
                _write(image, place, stdout, (source, key, measured.shape), within, keep_identifiers)
            on_progress(done, len(inputs))


def output_files(inputs: list[str], out: str | None, overwrite: bool) -> list[Path | None]:
    """Where each input goes, None for standard output. Raises UsageError, before anything heavy is loaded, where that cannot be."""
    if inputs.count(STREAM) > 1:
        raise UsageError("standard input (-) can be read only once")
    if out == STREAM:
        return [None] * len(inputs)
    if out is not None:
        _check_name(Path(out))
    names = [f"{'stdin' if name == STREAM else Path(name).stem}.recon.npy" for name in inputs]
    if out is None:
        paths = [Path(name) for name in names]
    elif _is_folder(out, inputs):
        _check_folder(Path(out))
        paths = [Path(out) / name for name in names]
    else:
        _check_suffix(Path(out))
        paths = [Path(out)]
    for source, path in zip(inputs, paths, strict=True):
        _check_name(path)
        if paths.count(path) > 1:
            raise UsageError("two inputs would be written to this file", where=str(path), hint="rename one, or reconstruct one at a time")
        if source != STREAM and path.exists() and Path(source).exists() and path.samefile(source):
            raise UsageError("the output would replace the input", where=str(path), hint="give another -o")
        if out is not None and path.exists() and not overwrite:
            raise UsageError("this output exists", where=str(path), hint="give another -o, or --overwrite to replace it")
    return list(paths)


def _check_name(path: Path) -> None:
    if "\0" in str(path) or len(os.fsencode(path.name)) > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        raise UsageError("no file can have this name", where=str(path)[:LONGEST_NAME], hint="give a shorter -o FILE")


def _check_identifiers(inputs: list[str], targets: list[Path | None]) -> None:
    """Raises UsageError where --keep-identifiers finds no place, DataError where it finds nothing to keep; before anything heavy is loaded."""
    from es_cli.data.identifiers import PLACES, read_identifiers
    from es_cli.data.writers import suffix_of

    for source, target in zip(inputs, targets, strict=True):
        if target is None or suffix_of(target) not in PLACES:
            hint = f"give -o FILE with one of {', '.join(PLACES)}"
            raise UsageError("--keep-identifiers has no place in this output", where=str(target or "standard output"), hint=hint)
        if source == STREAM:
            raise UsageError("standard input has no identifiers to keep", hint="leave --keep-identifiers out")
        read_identifiers(Path(source))


def _is_folder(out: str | None, inputs: list[str]) -> bool:
    # a .zarr is a folder to the system and a file to whoever writes it
    existing = out is not None and Path(out).is_dir() and Path(out).suffix.lower() != ".zarr"
    return out is not None and (len(inputs) > 1 or out.endswith(("/", "\\")) or existing)


def _check_folder(folder: Path) -> None:
    if folder.is_file() or (folder.suffix and not folder.exists()):
        raise UsageError("several inputs need a folder, and this is a file", where=str(folder), hint="give -o DIR")


def _check_suffix(path: Path) -> None:
    from es_cli.data.writers import INSTEAD, SUFFIXES, suffix_of

    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        hint = INSTEAD.get(suffix, f"es writes {', '.join(SUFFIXES)}; a folder ends with /")
        raise UsageError(f"no writer for {path.suffix or 'a name without suffix'}", where=str(path), hint=hint)


def _measurements(source: str, key: str | None, one_file: bool) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The arrays of one input, with what to call each. Raises UsageError where a stream holds several and `one_file` is to take them."""
    from es_cli.data import images, readers

    if source != STREAM:
        array = readers.open_array(Path(source), key)
        if Path(source).suffix.lower() in readers.PICTURES and array.dtype.kind in "bu":
            # integers of a picture are read as training reads them, in [0, 1]; without a channel axis if there was none
            picture = images.to_picture(array, source)
            array = picture[0] if array.ndim == 2 else picture
        yield source, array
        return
    frames = readers.read_npy_stream(sys.stdin.buffer)
    first = next(frames, None)
    if first is None:
        raise DataError("nothing came in", where="standard input", hint="pipe in what numpy.save writes")
    if one_file and next(frames, None) is not None:
        raise UsageError("standard input holds several arrays, and -o names one file", hint="give -o DIR/, or -o -")
    yield "standard input, array 1", first
    for number, frame in enumerate(frames, 2):
        yield f"standard input, array {number}", frame


def _numbered(target: Path | None, number: int, overwrite: bool) -> Path | None:
    """The file of a stream's second, third … array: stdin-2.recon.npy beside stdin.recon.npy."""
    if target is None:
        return None
    path = target.with_name(f"stdin-{number}.recon.npy")
    if target.parent != Path() and path.exists() and not overwrite:
        raise UsageError("this output exists", where=str(path), hint="give another -o, or --overwrite to replace it")
    return path


def _write(
    image: np.ndarray[Any, Any], target: Path | None, stdout: TextIO, origin: tuple[str, str | None, tuple[int, ...]], within: Path | None, identified: bool
) -> None:
    """Write one image; `origin` is the file, the key and the shape of its measurements, whose geometry is the image's where the shapes are equal.

    `within` is the folder of all outputs, None: each has a name of its own, which may be a link. `identified`: with whom it shows.
    """
    from es_cli.data import identifiers, readers, writers

    if target is None:
        writers.write_npy(stdout.buffer, image)
        return
    source, key, shape = origin
    kept = source != STREAM and image.shape == shape and writers.suffix_of(target) in writers.GEOMETRIC
    geometry = readers.read_geometry(Path(source), key) if kept else None
    writers.write_array(target, image, geometry, within, identifiers.read_identifiers(Path(source)) if identified else None)
    # a terminal obeys what it is shown; whoever reads a pipe gets the very name
    answer(plain(target, blank=False) if stdout.isatty() else str(target), stdout)
