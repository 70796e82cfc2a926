"""`es list`: what a spec can name, from the catalogue alone."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from es_cli.catalog import KINDS, entries
from es_cli.cli.app import app


def run(*arguments: str):
    return CliRunner().invoke(app, ["list", *arguments])


def test_every_component_that_can_be_built_has_its_line():
    lines = [line.split("\t") for line in run().stdout.splitlines()]
    assert [(kind, name) for kind, name, *_ in lines] == [(entry.kind, entry.name) for entry in entries() if entry.refused is None]
    assert {kind for kind, *_ in lines} == set(KINDS)


def test_a_line_holds_parameters_with_what_is_known_from_the_data_in_brackets():
    lines = {line.split("\t")[1]: line.split("\t") for line in run("noise").stdout.splitlines()}
    assert lines["GaussianNoise"][4] == "sigma=0.1"
    assert "[img_size], mask=null" in run("physics", "Inpainting").stdout.splitlines()[0]


def test_a_kind_lists_itself_alone():
    lines = run("noise").stdout.splitlines()
    assert {line.split("\t")[0] for line in lines} == {"noise"}
    assert any(line.split("\t")[1] == "GaussianNoise" for line in lines)


@pytest.mark.parametrize("arguments", [("GaussianNoise",), ("noise", "GaussianNoise")])
def test_a_name_shows_its_parameters_with_their_defaults(arguments):
    first, *parameters = [line.split("\t") for line in run(*arguments).stdout.splitlines()]
    assert first[:3] == ["noise", "GaussianNoise", "deepinv"]
    sigma = next(cells for cells in parameters if cells[0] == "sigma")
    assert sigma[1] == "0.1" and "number" in sigma[2]


def test_json_holds_what_the_lines_say():
    found = json.loads(run("noise", "GaussianNoise", "--json").stdout)["components"]
    assert [one["name"] for one in found] == ["GaussianNoise"]
    assert {one["name"]: one["default"] for one in found[0]["parameters"]}["sigma"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(("phisics",), "physics"), (("physics", "Inpaintin"), "Inpainting"), (("GausianNoise",), "GaussianNoise"), (("nois", "GaussianNoise"), "noise")],
)
def test_a_mistyped_word_is_answered_with_the_nearest(arguments, hint):
    result = run(*arguments)
    assert result.exit_code == 2 and f"did you mean {hint}?" in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(("physics", "GaussianNoise"), "GaussianNoise is no physics, but a noise; es list noise GaussianNoise"), (("LPIPS",), "cannot be built from a spec")],
)
def test_what_is_of_another_kind_or_cannot_be_built_is_said(arguments, what):
    result = run(*arguments)
    assert result.exit_code == 2 and what in result.stderr and not result.stdout
