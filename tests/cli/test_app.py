from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from es_cli import checkpoint, errors
from es_cli.cli import console
from es_cli.cli.app import LINES, app
from es_cli.errors import Fault, SpecError

CODES = [
    (errors.EsError("x"), 1),
    (errors.UsageError("x"), 2),
    (errors.SpecError([Fault("x")]), 2),
    (errors.DataError("x"), 3),
    (errors.OutputError("x"), 3),
    (errors.CheckpointError("x"), 4),
    (errors.DeviceError("x"), 5),
    (errors.AnswerIsNo("x"), 6),
    (errors.Diverged("x"), 6),
    (KeyboardInterrupt(), 130),
    (BrokenPipeError(), 141),
    (MemoryError(), 5),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 5),
    (ZeroDivisionError("by zero"), 1),
]


def es(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def info_raises(monkeypatch):
    """`es info` ends in the given exception."""

    def set_up(error: BaseException) -> None:
        def read_metadata(path):
            raise error

        monkeypatch.setattr(checkpoint, "read_metadata", read_metadata)

    return set_up


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value))
def test_every_fault_has_its_exit_code(info_raises, error, code):
    info_raises(error)
    result = es("info", "m.safetensors")
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_every_class_of_the_error_tree_is_tested():
    def below(cls):
        return {cls} | {inner for child in cls.__subclasses__() for inner in below(child)}

    assert {cls for cls in below(errors.EsError) if cls.__module__ == "es_cli.errors"} == {type(e) for e, _ in CODES if isinstance(e, errors.EsError)}


def test_a_fault_says_where_what_and_what_to_do_next(info_raises):
    info_raises(errors.DataError("the file is cut short", where="y.npy", hint="copy it again"))
    assert es("info", "m").stderr == "error: y.npy: the file is cut short; copy it again\n"


def test_a_long_list_of_faults_is_cut_and_v_shows_all_with_the_traceback(info_raises):
    info_raises(SpecError([Fault(f"fault {i}", f"spec.yaml:{i}") for i in range(30)]))
    lines = es("info", "m").stderr.splitlines()
    assert len(lines) == LINES and lines[0] == "error: spec.yaml:0: fault 0" and lines[-1].startswith("... and 21 more")
    shown = es("info", "m", "-v").stderr
    assert shown.count("error: ") == 30 and "Traceback (most recent call last)" in shown


def test_ten_faults_are_shown_whole(info_raises):
    info_raises(SpecError([Fault(f"fault {i}") for i in range(LINES)]))
    assert es("info", "m").stderr.count("error: fault") == LINES


def test_an_unknown_exception_is_a_fault_of_es_in_one_line(info_raises):
    info_raises(ZeroDivisionError("a long\nstory " * 200))
    shown = es("info", "m").stderr
    assert shown.startswith("error: this is a fault of es, not yours: ZeroDivisionError: a long story")
    assert shown.count("\n") == 1 and len(shown) < 700
    assert "Traceback" in es("info", "m", "--verbose").stderr


def test_verbose_does_not_stay_on(info_raises):
    info_raises(errors.DataError("x"))
    assert "Traceback" in es("info", "m", "-v").stderr
    assert "Traceback" not in es("info", "m").stderr


def test_names_of_files_cannot_steer_the_terminal(info_raises):
    info_raises(errors.DataError("[bold]x[/nothing]", where="\x1b[31m\x07evil\nname"))
    assert es("info", "m").stderr == "error: \\x1b[31m\\x07evil name: [bold]x[/nothing]\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trian"], "No such command 'trian'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["evaluate"], "Missing option '--ckpt'"),
        (["reconstruct", "--ckpt", "m"], "see es reconstruct --help"),
        (["train"], "no spec is named"),
        (["train", "--resume", "run", "spec.yaml", "-o", "x"], "given too: -o"),
        (["evaluate", "--ckpt", "m", "--images", "x.npy"], "--images are compared with what is made of measurements"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_are_exit_2_in_the_form_of_all_errors(arguments, text):
    result = es(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and text in result.stderr and result.stderr.count("\n") == 1


def test_es_alone_shows_its_help_and_the_exit_codes():
    shown = es().output
    assert all(text in shown for text in ("train", "evaluate", "reconstruct", "info", "141"))
    assert "error: " not in shown


def test_version_names_what_matters():
    result = es("--version")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("es 0", "torch ", "deepinv ", "safetensors ", "python 3"))
    assert result.stdout.count("\n") == 1


def test_json_knows_no_infinity(capsys):
    console.answer_json({"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": "é"})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None], "b": {"c": None}, "d": "é"}


def test_what_libraries_print_goes_to_standard_error(capsys):
    with console.answers_only() as stdout:
        print("chatter")
        console.answer("path", stdout)
    console.answer("done")
    captured = capsys.readouterr()
    assert captured.out == "path\ndone\n" and captured.err == "chatter\n"


def test_a_reader_that_has_gone_ends_es_quietly(environment, tmp_path):
    """A real pipe, closed at the other end before es writes to it."""
    code = "import sys; sys.stdin.read(); from es_cli.cli.app import main; sys.argv = ['es', '--version']; main()"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_es_is_also_python_m_es_cli(environment, tmp_path):
    done = subprocess.run([sys.executable, "-m", "es_cli", "--version"], env=environment, cwd=tmp_path, capture_output=True, timeout=600)
    assert done.returncode == 0 and done.stdout.startswith(b"es ")


def test_no_bar_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with console.counting("x") as tell:
        tell(1, 2)
    assert sys.stderr.getvalue() == ""


def test_colours_follow_no_color(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    shown = []
    for wish in ("1", ""):
        monkeypatch.setenv("NO_COLOR", wish)
        monkeypatch.setattr(sys, "stderr", Terminal())
        console.complain("x")
        shown.append(sys.stderr.getvalue())
    assert shown[0] == "error: x\n" and "\x1b[31m" in shown[1]
