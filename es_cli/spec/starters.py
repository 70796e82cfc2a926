"""The commented starter specs behind `es init`: text, and nothing that has to be imported to read it."""

from __future__ import annotations

from pathlib import Path

from es_cli.errors import UsageError

FOLDER = Path(__file__).parent / "templates"
NAMED = "spec.yaml"  # what the first line of a starter calls the file
SCHEMA = "es.schema.json"  # what the help of `es schema` calls its file
MODELINE = f"# yaml-language-server: $schema={SCHEMA}\n"  # an editor reads the file's name there, relative to the spec


def starters() -> dict[str, str]:
    """What each starter is for, by name; its second line says so."""
    return {path.stem: _second_line(path) for path in sorted(FOLDER.glob("*.yaml"))}


def read_starter(name: str) -> str:
    """The text of a starter. Raises UsageError where none is called `name`."""
    path = FOLDER / f"{name}.yaml"
    if name in (known := starters()):
        return path.read_text(encoding="utf-8")
    from es_cli.spec.wording import did_you_mean  # loads the schema of specs, which takes as long as all the rest

    near = did_you_mean(name, tuple(known))
    what = f"no template is called '{name}'"
    if Path(name).exists():
        raise UsageError(what, hint=f"for a spec that is made from data: es init --from {name}")
    raise UsageError(what, hint=f"did you mean {near}?" if near else f"there are {', '.join(known)}")


def _second_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
