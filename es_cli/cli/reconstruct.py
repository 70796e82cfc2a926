"""`es reconstruct`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from es_cli.cli.believing import Consistent, PartsFolder, Uncertainty
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
    bytes_of,
    named_files,
    parameter_sources,
    read_test_rule,
)
from es_cli.errors import AnswerIsNo

if TYPE_CHECKING:
    from collections.abc import Callable

    from es_cli.serving.events import Event, Listener
    from es_cli.serving.job import Outcome


Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT...", help="Files of measurements, folders, globs in quotes, @LIST with one path a line; - for standard input.", show_default=False),
]
Out = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="OUT", help="A file (.npy .npz .h5 .zarr .nii .cfl .png .tif), a folder, or - for standard output; ./STEM.recon.npy if left out."),
]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave out inputs whose output exists: go on where a run was stopped.")]
Part = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N of the sorted inputs, counted from 1, as for the tasks of a SLURM array.", show_default=False)
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="On pipes npy, or bare values in the operator's shape: raw (C order) or cfl (as BART has them). In a folder, the kind of files: npy, nii.gz, png, …", show_default=False),
]
Key = Annotated[str | None, typer.Option("--key", metavar="NAME", help="Which array of an .npz, .h5, .zarr or .mat file; needed where it holds several.")]
Axis = Annotated[int | None, typer.Option("--axis", metavar="N", help="The axis of a volume that counts its slices, from 0; the images lie along it again.", show_default=False)]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Cut images into tiles so that es stays below it, such as 2G; half of what is free if left out. Operators that are not local cannot be cut.", show_default=False),
]
Floats = Annotated[bool, typer.Option("--float", help="Keep floats where integer images (PNG, TIFF, DICOM, NIfTI) would come back as integers.")]
NoProvenance = Annotated[bool, typer.Option("--no-provenance", help="Write no OUTPUT.json beside each output, which `es reproduce` needs.")]
FullPaths = Annotated[bool, typer.Option("--full-paths", help="Name files in OUTPUT.json by their whole paths, which may say who you are.")]


def reconstruct(
    inputs: Inputs,
    ckpt: Checkpoint,
    out: Out = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    shard: Part = None,
    form: Format = None,
    key: Key = None,
    axis: Axis = None,
    memory: Memory = None,
    floats: Floats = False,
    no_provenance: NoProvenance = False,
    full_paths: FullPaths = False,
    param: Param = None,
    test_rule: TestRule = None,
    uncertainty: Uncertainty = None,
    parts: PartsFolder = None,
    consistent: Consistent = False,
    device: Device = "auto",
    precision: Precision = "float32",
    keep_identifiers: KeepIdentifiers = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make images from measurements: one or a batch, told apart by the operator's shape; complex in, complex out.

    Prints the path of each output. Names of folders, globs and lists are mirrored into -o DIR, which gets a manifest.json with the SHA-256 of inputs, checkpoint and outputs. Where one of several inputs fails, the others go on: exit code 6 if some failed, that of the first fault if all did. Voxel size and position go from input to output where both have a place for them, integer images come back as integers. OUTPUT.json beside each output says what it was made from. Several arrays on standard input, one after another, are several inputs. Nothing but the checkpoint is needed.

    \b
    Examples:
      es reconstruct --ckpt m.safetensors a.npy -o x.png
      es reconstruct --ckpt m.safetensors a.npy b.npy -o images
      es reconstruct --ckpt m.safetensors scans/ -o images --skip-existing
      es reconstruct --ckpt m.safetensors 'scans/**/*.h5' -o images
      es reconstruct --ckpt m.safetensors @list.txt -o images --shard 3/8
      es reconstruct --ckpt m.safetensors series/ -o x.nii.gz
      es reconstruct --ckpt m.safetensors volume.nii.gz --axis 2 -o x.nii.gz
      es reconstruct --ckpt m.safetensors 16k.npy --memory 2G -o x.npy
      es reconstruct --ckpt m.safetensors y.npy --param mask=mask.npy
      es reconstruct --ckpt m.safetensors y.npy --test-rule one
      es reconstruct --ckpt m.safetensors y.npy --uncertainty std.npy
      es reconstruct --ckpt m.safetensors y.npy --parts parts/ --consistent
      cat y.npy | es reconstruct --ckpt m.safetensors - -o - > x.npy
      cat *.cfl | es reconstruct --ckpt m.safetensors - -o - --format cfl
    """
    files, rule, allowed = named_files(param), read_test_rule(test_rule), None if memory is None else bytes_of(memory)

    from es_cli.serving import outputs
    from es_cli.serving.beside import Beside
    from es_cli.serving.inputs import Shard, find_inputs
    from es_cli.serving.limits import Limits

    part = None if shard is None else Shard.read(shard)
    folder = outputs.check_out(inputs, out)
    frames, kind = outputs.kinds(form, inputs, out)
    jobs = outputs.plan(find_inputs(inputs, folder), out, folder, kind)
    jobs = jobs if part is None else outputs.part_of(jobs, part)
    beside = Beside(uncertainty, parts, consistent, len(jobs) > 1, overwrite)
    left, done = outputs.to_do(jobs, out is not None, overwrite, skip_existing)
    if keep_identifiers:
        outputs.check_identifiers(left)
    with answers_only() as stdout, counting("reconstructing", quiet or len(jobs) == 1) as on_progress:
        from es_cli.serving.job import Request, reconstruct_all

        request = Request(ckpt, key, parameter_sources(files), device, precision, rule, folder, part, frames, overwrite, Limits(axis, allowed), floats, not no_provenance, full_paths, beside, keep_identifiers)
        show = _shown(stdout, on_progress, quiet, explain=verbose or rule is not None or sys.stderr.isatty())
        outcome = reconstruct_all(request, left, done, stdout=stdout.buffer, tell=show)
    _end(outcome, quiet)


def _shown(stdout: TextIO, on_progress: Callable[[float, int], None], quiet: bool, explain: bool) -> Listener:
    """Shows events: paths of outputs on standard output, everything else on standard error."""
    from es_cli.serving.events import Advanced, Failed, Loaded, Remark, Written

    def show(event: Event) -> None:
        if isinstance(event, Written):
            # a terminal obeys what it is shown; whoever reads a pipe gets the very name
            answer(plain(event.target, blank=False) if stdout.isatty() else str(event.target), stdout)
        elif isinstance(event, Failed):
            complain(str(event.error))
        elif isinstance(event, Advanced):
            on_progress(event.done, event.total)
        elif isinstance(event, Remark) and not quiet:
            complain(event.text, "note: ")
        elif isinstance(event, Loaded) and not quiet:
            if explain:
                complain(f"{calls_in_words(event.network_calls)} for each image", "note: ")
            for name in event.per_sample:
                complain(f"each sample had its own {name} in training; this is the one of the checkpoint, give --param {name}=FILE for another", "note: ")

    return show


def _end(outcome: Outcome, quiet: bool) -> None:
    """How a command ends in which something failed."""
    if outcome.skipped and not quiet:
        complain(f"{outcome.skipped} outputs were there already, and are left as they are", "note: ")
    failed = len(outcome.failures)
    if failed and not outcome.written + outcome.skipped:
        raise typer.Exit(outcome.failures[0].exit_code)
    if failed:
        raise AnswerIsNo(f"{failed} of {failed + outcome.written + outcome.skipped} inputs failed", hint="see above; --skip-existing goes on with them alone")
