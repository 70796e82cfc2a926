"""`es init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from es_cli.cli.completion import complete_templates, components_of
from es_cli.cli.console import answer, complain, quoted
from es_cli.cli.options import Overwrite, Quiet, Verbose
from es_cli.errors import UsageError

if TYPE_CHECKING:
    from es_cli.inspecting.recipe import Draft

STREAM = "-"


def init(
    template: Annotated[
        str | None,
        typer.Argument(metavar="TEMPLATE", help="The kind of problem; left out, all are listed.", show_default=False, autocompletion=complete_templates),
    ] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="PATH", help="Make the spec from measurements: a file, a folder or a glob.", show_default=False)] = None,
    physics: Annotated[
        str | None,
        typer.Option(
            "--physics",
            metavar="NAME",
            help="With --from: the operator, where the data do not say: Inpainting, Denoising, MRI, Tomography, ...",
            show_default=False,
            autocompletion=components_of("physics"),
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="FILE", help="The spec; standard output if left out, or -.", show_default=False)] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a commented spec to start from: a template, or one made from your data.

    A spec made from data says beside each setting why it is so: which mask, how much noise, what fits into memory. Where es.schema.json lies beside it
    (see es schema --help), its first line names it to your editor.

    \b
    Examples:
      es init
      es init mri -o spec.yaml
      es init --from measurements.npy -o spec.yaml
      es init --from data/ --physics Tomography > spec.yaml
    """
    target = _checked(template, source, physics, out, overwrite)
    if source is not None:
        made = _draft(source, physics, target)
        for note in () if quiet else made.notes:
            complain(note, "note: ")
        text = made.text
    else:
        from es_cli.spec.starters import NAMED, read_starter, starters

        if template is None:
            answer("\n".join(f"{name:<15} {line}" for name, line in starters().items()))
            return
        first, _, rest = read_starter(template).partition("\n")
        text = f"{first if target is None else first.replace(NAMED, quoted(target))}\n{rest}"
    if target is None:
        answer(text.removesuffix("\n"))
        return
    from es_cli.data.writers import write_bytes
    from es_cli.spec.starters import MODELINE, SCHEMA

    head = MODELINE if (target.parent / SCHEMA).is_file() else ""  # an editor complains of a schema that is not there
    write_bytes(target, f"{head}{text}".encode())
    if not quiet:
        complain(f"wrote {target}; go on with: es train {quoted(target)}", "note: ")


def _checked(template: str | None, source: str | None, physics: str | None, out: str | None, overwrite: bool) -> Path | None:
    """The file to write, None for standard output. Raises UsageError where the arguments contradict each other, before anything is read."""
    if template is not None and source is not None:
        raise UsageError("a template and --from exclude each other", hint="leave one of them out")
    if physics is not None and source is None:
        raise UsageError("--physics goes with --from", hint="es init --from PATH --physics NAME")
    if template is None and source is None and out not in (None, STREAM):
        raise UsageError("there is nothing to write: no template is named, and no data", hint="es init TEMPLATE -o FILE, or es init --from PATH -o FILE; es init lists the templates")
    if out in (None, STREAM):
        return None
    target = Path(str(out))
    if target.is_dir():
        raise UsageError("a folder, where a file is to be written", where=str(target), hint=f"-o {quoted(target / 'spec.yaml')}")
    if target.exists() and not overwrite:
        raise UsageError("this output exists", where=str(target), hint="give another -o, or --overwrite to replace it")
    return target


def _draft(source: str, physics: str | None, target: Path | None) -> Draft:
    from es_cli.inspecting.look import look
    from es_cli.inspecting.recipe import draft

    folder = Path() if target is None else target.parent
    return draft(look(source, physics), folder, "spec.yaml" if target is None else quoted(target))
