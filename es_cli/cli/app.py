"""The command `es`: the one place where a fault becomes text on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import click
import typer

from es_cli.cli import evaluate, info, reconstruct, train
from es_cli.cli.console import errors
from es_cli.errors import EsError

MAX_LINES = 10
app = typer.Typer(
    name="es",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train image-reconstruction networks from measurements alone, and reconstruct with them.",
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("info")(info.info)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version
        from platform import python_version

        from es_cli import __version__

        others = ", ".join(f"{name} {version(name)}" for name in ("torch", "deepinv", "safetensors"))
        typer.echo(f"es {__version__} ({others}, python {python_version()})")
        raise typer.Exit


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Name the versions that matter.")] = False) -> None:
    """Train image-reconstruction networks from measurements alone, and reconstruct with them."""


def main() -> None:
    """The console script. Exit codes: 0 done, 1 a fault of ours, 2 usage or spec, 3 data, 4 checkpoint, 5 device, 6 the answer is no, 130/143 signal, 141 closed pipe."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; every fault ends here."""
    verbose = any(a in {"-v", "--verbose"} for a in arguments)
    try:
        result: Any = app(arguments, standalone_mode=False, prog_name="es")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except EsError as error:
        _tell([str(fault) for fault in error.faults], verbose)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _tell(["stopped"], verbose=False)
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain once more when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        _tell([f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "this is a fault of es, not yours; -v shows where it happened"], verbose)
        return 1
    except BaseException as error:
        signal = getattr(error, "signal", None)
        if signal is None:
            raise
        errors().print(f"stopped; the state is saved. Continue with: es train --resume {getattr(error, 'run_dir', '')}", markup=False)
        return 128 + int(signal)


def _tell(lines: list[str], verbose: bool) -> None:
    if verbose:
        errors().print(traceback.format_exc(), markup=False, highlight=False)
    shown = lines[:MAX_LINES] if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], f"… and {len(lines) - MAX_LINES + 1} more"]
    for line in shown:
        errors().print(f"[bold red]error[/]: {_escaped(line)}", highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
