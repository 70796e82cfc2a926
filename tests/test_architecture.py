"""The rules of the house, read from the imports: who may know whom, what is loaded when, and who may talk to the user."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import es_cli

PACKAGE = Path(es_cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# a room knows those below it, and those on its own floor
FLOORS = [
    {"errors"},
    {"spec"},
    {"catalog"},
    {"streams"},
    {"data", "splitting", "networks"},
    {"figures"},
    {"checkpoint", "building", "inspecting"},
    {"experiment"},
    {"judging", "card"},
    {"training", "reconstruct", "simulation", "tiles"},
    {"examine", "judged_samples", "without_truth"},
    {"evaluate", "diagnostics", "serving"},
    {"model", "report"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"torch", "torchvision", "deepinv", "numpy", "matplotlib", "scipy", "h5py", "tifffile", "PIL", "safetensors"}
LIGHT_ROOMS = {"errors", "spec", "catalog", "cli", "streams"}
LINES = 400


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, absolute module, whether only when a function runs) of each import; those for the type checker alone are left out."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]

    def walk(node: ast.AST, in_function: bool) -> Iterator[tuple[int, str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from (found for other in child.orelse for found in walk(other, in_function))
                continue
            if isinstance(child, ast.Import):
                yield from ((child.lineno, alias.name, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) + 1 - child.level] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                yield from ((child.lineno, f"{module}.{alias.name}", in_function) for alias in child.names)
            yield from walk(child, in_function or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def test_every_room_has_its_floor():
    assert {room(path) for path in MODULES} - set(FLOOR) <= {"__init__", "__main__"}


def test_imports_point_down():
    wrong = []
    for path in MODULES:
        for line, module, _ in imports(path):
            target = module.split(".")[1] if module.startswith("es_cli.") else None
            if target in FLOOR and room(path) in FLOOR and FLOOR[target] > FLOOR[room(path)]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {room(path)} must not know {module}")
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other():
    knows: dict[str, set[str]] = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found = {module for _, module, later in imports(path) if not later and module.startswith("es_cli.")}
        # `from package.module import name` knows the module, `from package import module` the module too
        knows[name] = found | {module.rpartition(".")[0] for module in found}
    assert not [(a, b) for a, others in knows.items() for b in others if b in knows and a != b and a in knows[b]]


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) in LIGHT_ROOMS], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_rooms_load_heavy_libraries_only_when_a_function_runs(path):
    heavy = [f"line {line}: {module}" for line, module, later in imports(path) if not later and module.split(".")[0] in HEAVY]
    assert not heavy


def test_commands_import_the_heavy_rooms_only_when_they_run():
    light = LIGHT_ROOMS | {"__version__"}
    for path in (p for p in MODULES if room(p) == "cli"):
        eager = {module.split(".")[1] for _, module, later in imports(path) if not later and module.startswith("es_cli.")}
        assert eager <= light, f"{path.name}: {eager - light}"


def test_only_the_command_line_talks_to_the_user():
    wrong = []
    for path in MODULES:
        if room(path) in {"cli", "__main__"}:
            continue
        wrong += [f"{path.name}:{line}: {m}" for line, m, _ in imports(path) if m.split(".")[0] in {"typer", "click", "rich", "argparse"}]
        if path.name != "generate.py":  # a tool of the developers that runs as a script
            wrong += [f"{path.name}:{line}: {f}" for line, f in calls(path) if f in {"print", "sys.exit", "exit", "quit", "os._exit", "input"}]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_swallowed_and_nothing_is_evaluated():
    wrong = []
    for path in MODULES:
        wrong += [f"{path.name}:{line}: {f}" for line, f in calls(path) if f in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(inner, ast.Pass) for inner in node.body):
                wrong.append(f"{path.name}:{node.lineno}: an exception is swallowed")
    assert not wrong, "\n".join(wrong)


def test_no_module_loads_what_only_posix_has():
    posix = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
    wrong = [f"{p.name}:{line}: {m}" for p in MODULES for line, m, later in imports(p) if not later and m.split(".")[0] in posix]
    assert not wrong, "\n".join(wrong)


def test_rooms_are_small_and_say_what_lives_in_them():
    nameless = [p.name for p in MODULES if p.stem in {"utils", "helpers", "common", "misc", "tools"}]
    large = [f"{p.name}: {n} lines" for p in MODULES if (n := p.read_text(encoding="utf-8").count("\n")) > LINES]
    silent = [str(p) for p in MODULES if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert not nameless + large + silent


LOADED_BY_MAIN = """
import sys
from es_cli.cli.app import main
sys.argv[0] = "es"
try:
    main()
finally:
    sys.stderr.write("LOADED " + " ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_a_run_that_exists_is_answered_without_loading_torch(python, inpainting):
    (inpainting.parent / "taken").mkdir()
    said, loaded = python(LOADED_BY_MAIN, "train", str(inpainting), "-o", str(inpainting.parent / "taken")).stderr.decode().split("LOADED ")
    assert "this output exists" in said
    assert not {"torch", "deepinv", "matplotlib"} & set(loaded.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["train", "missing.yaml"], ["trian"]], ids=" ".join)
def test_the_command_line_answers_without_loading_anything_heavy(python, arguments):
    loaded = python(LOADED_BY_MAIN, *arguments).stderr.decode().split("LOADED ")[1].split()
    assert "typer" in loaded
    assert not HEAVY & set(loaded)
