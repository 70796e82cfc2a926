"""Packages that register components: a made-up distribution beside the installed ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from es_cli.catalog import entries, find, load_class, load_spec, registered_entries, suggest
from es_cli.catalog.json_schema import json_schema
from es_cli.cli.app import app
from es_cli.errors import SpecError

DEMO = '''
from deepinv.models import Denoiser
from deepinv.physics import Inpainting

print("chatter on import")

class Stripes(Inpainting):
    """Measures every n-th line of an image.

    :param int every: which lines are kept.
    """

    def __init__(self, every: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.every = every

class Mild(Denoiser):
    """Does little."""

    def __init__(self, strength: float):
        super().__init__()

    def forward(self, x, sigma=None):
        return x

HALF = 0.5
'''


def forget() -> None:
    from es_cli.catalog import plugins

    plugins.registered.cache_clear()
    sys.modules["es_cli.catalog.entries"]._plugin.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a distribution on the path: its module, and the names that it registers."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package: str, code: str, **names: str) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [f"{name} = {package}:{value}" for name, value in names.items()]
        (info / "entry_points.txt").write_text("\n".join(["[es_cli.components]", *lines]) + "\n")
        forget()

    yield put
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("es_demo")]:
        del sys.modules[name]
    forget()


def faults(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "s.yaml")
    return [str(fault).replace(str(tmp_path / "s.yaml"), "s.yaml") for fault in caught.value.faults]


SPEC = "data: {train: {images: x}}\nmodel: {name: ArtifactRemoval, backbone_net: UNet}\n"


def test_a_registered_class_is_a_component_like_any_other(install, tmp_path, capsys) -> None:
    install("es_demo", DEMO, Stripes="Stripes", Mild="Mild")
    entry = find("Stripes", ("physics",))
    assert entry is not None and (entry.kind, entry.origin, entry.meaning) == ("physics", "es_demo 1.5", "Measures every n-th line of an image")
    every, mask = entry.parameter("every"), entry.parameter("mask")
    assert every is not None and (every.default, every.types, every.meaning) == (2, ("int",), "which lines are kept")
    assert mask is not None and mask.types == ("array", "float", "null")  # through the class of deepinv that it is built on
    assert load_class(entry).__name__ == "Stripes"
    assert capsys.readouterr().out == ""  # what a package prints is no answer of ours
    mild = find("Mild")
    assert mild is not None and mild.kind == "model" and mild.denoiser and find("Mild", ("physics",)) is None
    assert [one.name for one in registered_entries(("model",))] == ["Mild"]
    text = f"physics: {{name: Stripes, evry: 3}}\n{SPEC}"
    assert faults(tmp_path, text) == ["s.yaml:1: physics.evry: Stripes has no parameter evry; did you mean every?"]
    (tmp_path / "s.yaml").write_text(text.replace("evry", "every"))
    assert load_spec(tmp_path / "s.yaml").physics.parameters == {"every": 3}


def test_es_list_shows_what_a_package_registers_with_the_package(install, tmp_path) -> None:
    install("es_demo", DEMO, Stripes="Stripes", Mild="Mild", Inpainting="Stripes")
    install("es_demo_broken", "import a_package_that_is_not_there\n", Waves="Waves")
    listed = CliRunner().invoke(app, ["list", "physics"])
    lines = [line.split("\t") for line in listed.stdout.splitlines()]
    assert [line[:4] for line in lines if line[1] == "Stripes"] == [["physics", "Stripes", "es_demo 1.5", "Measures every n-th line of an image"]]
    assert next(line for line in lines if line[1] == "Stripes")[4].startswith("every=2, [img_size], mask=null")
    assert [line[2] for line in lines if line[1] == "Inpainting"] == ["deepinv"]
    first, second = (line for line in listed.stderr.splitlines() if line != "chatter on import")
    assert first.startswith("note: Waves is left out: es_demo_broken 1.5, which registers it, cannot be loaded: ModuleNotFoundError")
    assert second == "note: Inpainting (es_demo 1.5) is left out: es has a component of that name"
    one = CliRunner().invoke(app, ["list", "Mild"]).stdout.splitlines()
    assert one[0].startswith("model\tMild\tes_demo 1.5\tDoes little") and one[1].startswith("strength\trequired\ta number")


def test_es_schema_knows_what_a_package_registers(install) -> None:
    install("es_demo", DEMO, Stripes="Stripes")
    schema = Draft7Validator(json_schema())
    spec = {"data": {"train": {"images": "x"}}, "model": {"name": "ArtifactRemoval", "backbone_net": "UNet"}}
    assert schema.is_valid({**spec, "physics": {"name": "Stripes", "every": 3}})
    assert not schema.is_valid({**spec, "physics": {"name": "Stripes", "every": "third"}})


def test_a_broken_package_is_said_in_one_line_and_touches_nothing_else(install, tmp_path) -> None:
    install("es_demo", "import a_package_that_is_not_there\n", Stripes="Stripes")
    what = "es_demo 1.5, which registers it, cannot be loaded: ModuleNotFoundError: No module named 'a_package_that_is_not_there'"
    (found,) = faults(tmp_path, f"physics: Stripes\n{SPEC}")
    assert found.startswith(f"s.yaml:1: physics: Stripes cannot be built from a spec: {what}")
    (entry,) = registered_entries(("loss",))
    assert (entry.kind, entry.refused) == ("", what)
    with pytest.raises(SpecError, match="cannot be loaded"):
        load_class(entry)
    (tmp_path / "s.yaml").write_text(f"physics: Denoising\n{SPEC}")
    assert load_spec(tmp_path / "s.yaml").physics.name == "Denoising"


@pytest.mark.parametrize(("value", "what"), [("HALF", "no class built on"), ("Missing", "has no attribute 'Missing'")])
def test_what_is_no_component_is_refused(install, value, what) -> None:
    install("es_demo", "HALF = 0.5\n", Stripes=value)
    entry = find("Stripes")
    assert entry is not None and entry.refused is not None and what in entry.refused


def test_a_package_cannot_replace_what_es_has(install) -> None:
    install("es_demo", DEMO, Inpainting="Stripes")
    entry = find("Inpainting")
    assert entry is not None and entry.origin == "deepinv" and load_class(entry).__module__.startswith("deepinv")
    assert registered_entries() == []


def test_two_packages_that_claim_one_name_are_told_apart_by_nobody(install) -> None:
    install("es_demo", DEMO, Stripes="Stripes")
    install("es_demo_two", DEMO, Stripes="Stripes")
    entry = find("Stripes")
    assert entry is not None and entry.refused is not None and "both register it" in entry.refused
    assert "es_demo 1.5" in entry.refused and "es_demo_two 1.5" in entry.refused


def test_a_package_is_imported_for_its_own_names_only(install, tmp_path) -> None:
    install("es_demo", "raise SystemError('imported')\n", Stripes="Stripes")
    (tmp_path / "s.yaml").write_text(f"physics: Denoising\n{SPEC}")
    load_spec(tmp_path / "s.yaml")
    assert suggest("Stripe") == "Stripes" and entries() and find("Nothing") is None
    assert "es_demo" not in sys.modules
