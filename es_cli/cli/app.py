"""The command `es`: the one place where a fault becomes text on standard error and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from es_cli.cli import check, compare, completion, evaluate, info, init, listing, reconstruct, report, reproduce, schema, simulate, train
from es_cli.cli.console import complain
from es_cli.errors import KNOBS, DataError, DeviceError, EsError, Fault, out_of_memory, shortened

FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO}  # files are written by the writers, which answer for themselves; this is what is left
LINES = 10  # of an error; a person reads no more
FACTS = ("torch", "deepinv", "safetensors")
# what the parser raises: typer brings its own copy of click since 0.26, so that it has to be found through typer
ParserError: type[Any] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


class ReaderHasGone(Exception):
    """A BrokenPipeError under a name that click does not know: it would end with code 1 instead of the shell's 141."""


class Es(TyperGroup):
    """All commands. Whatever a command raises ends here, also under Typer's own test runner."""

    verbose = False  # set by the option -v, see options.py

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _renamed_broken_pipe():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _renamed_broken_pipe():
            return super().invoke(ctx)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and exit with its code."""
        sys.exit(self._code(*args, **{**kwargs, "standalone_mode": False}))

    def _code(self, *args: Any, **kwargs: Any) -> int:
        try:
            result = super().main(*args, **kwargs)
            sys.stdout.flush()
            return result if isinstance(result, int) else 0
        except EsError as error:
            self._tell(error.faults)
            return error.exit_code
        except ParserError as error:
            # `es` alone shows its help, and has nothing more to say
            if message := error.format_message().rstrip("."):
                command = error.ctx.command_path if getattr(error, "ctx", None) else "es"
                self._tell([Fault(message, hint=f"see {command} --help")])
            return int(error.exit_code)
        except (KeyboardInterrupt, typer.Abort):
            complain("stopped")
            return 130
        except (BrokenPipeError, ReaderHasGone):
            _let_go_of_stdout()
            return 141
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None:
                self._tell([Fault(f"cannot be used: {error.strerror}", shortened(error.filename), "check this name, its permissions and the disk")])
                return DataError.exit_code
            if isinstance(error, OSError) and error.errno in FULL:
                self._tell([Fault(f"cannot be written: {error.strerror}", "standard output", "make room, or write to a file elsewhere with -o")])
                _let_go_of_stdout()
                return DataError.exit_code
            if out_of_memory(error):
                self._tell([Fault("the memory is too small", hint=f"lower training.batch_size, {KNOBS}")])
                return DeviceError.exit_code
            self._tell([Fault(f"{type(error).__name__}: {error}", "this is a fault of es, not yours", "" if self.verbose else "-v shows where it happened")])
            return 1

    def _tell(self, faults: list[Fault] | tuple[Fault, ...]) -> None:
        """Every fault on a line of its own; no more than fit into LINES unless -v asks for all."""
        if self.verbose:
            complain(traceback.format_exc(), label="")
        shown = faults if self.verbose or len(faults) <= LINES else faults[: LINES - 1]
        for fault in shown:
            complain(str(fault))
        if len(shown) < len(faults):
            complain(f"... and {len(faults) - len(shown)} more (-v shows all)", label="")


app = typer.Typer(name="es", cls=Es, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command("check")(check.check)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("reproduce")(reproduce.reproduce)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("info")(info.info)
app.command("list")(listing.list_components)
app.command("init")(init.init)
app.command("schema")(schema.schema)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from es_cli import __version__

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    typer.echo(f"es {__version__} ({', '.join(f'{name} {installed(name)}' for name in FACTS)}, python {python_version()})")
    raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Name the versions that matter and exit.")] = False,
) -> None:
    """Train image-reconstruction networks from measurements alone, with no ground truth, and reconstruct with them.

    es --install-completion lets the shell that it is typed into (bash, zsh or fish) complete commands, components, templates, files and keys of a spec.

    \b
    Examples:
      es train examples/configs/quickstart.yaml -o run
      es evaluate --ckpt run/model.safetensors
      es reconstruct --ckpt run/model.safetensors y.npy -o x.npy

    \b
    Exit codes:
      0 done, 1 a fault of es, 2 usage or spec, 3 data, 4 checkpoint,
      5 device or memory, 6 the answer is no, 124 stopped by --max-time with the
      state saved, 130 and 143 stopped by a signal with the state saved,
      141 the reader of the output has gone
    """


def main() -> None:
    """The console script."""
    if not sys.warnoptions:
        # what libraries say to programmers; `python -W default -m es_cli` shows it
        warnings.simplefilter("ignore")
    completion.prepare()
    app(prog_name="es")


@contextlib.contextmanager
def _renamed_broken_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderHasGone from error


def _let_go_of_stdout() -> None:
    """Whoever read our output has gone; Python would complain once more when it flushes the stream at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
