"""docs/reference.md: the help of all commands and all keys of a spec on one page, as they are now."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from es_cli.cli.app import app
from es_cli.cli.reference import reference
from es_cli.spec.keys import keys_of

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_page_is_what_the_help_and_the_schema_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "make it anew: python -m es_cli.cli.reference > docs/reference.md"


def test_every_command_option_and_key_is_in_it() -> None:
    page = reference()
    for name, command in typer.main.get_command(app).commands.items():
        section = page.partition(f"### `es {name}`\n")[2].partition("\n### ")[0]
        assert section
        shown = CliRunner().invoke(app, [name, "--help"]).output
        for option in (max(param.opts, key=len) for param in command.params if param.param_type_name == "option"):
            assert option in section and option in shown
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert {key.path for key in keys_of() if not key.path.startswith(("data.test.", "data.validation.", "data.train.images."))} <= rows
    assert "`data.train.images` | images: ground truth beside measurements, else what is simulated from; its keys are those of `data.train.measurements`" in page


def test_what_cannot_be_left_out_says_so() -> None:
    assert {key.path for key in keys_of() if key.default == "required" and "." not in key.path} == {"physics", "data", "model"}
