"""Every script of benchmarks/ says what it is for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if "\ndef main(" in path.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_a_script_is_for_and_how_it_is_called(name, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"usage: {name}.py" in said
    assert script.__doc__.split()[0] in said
