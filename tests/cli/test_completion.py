"""Completion as bash, zsh and fish ask for it, and once in a bash that is typed into."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from problems import write_spec

from es_cli.cli import completion
from es_cli.spec.keys import keys_of
from es_cli.spec.starters import starters

# one process answers many lines: what each shell sets in the environment, and the lines that it asks with
ASK = """
import contextlib, io, json, os, sys
from es_cli.cli.app import main
answers = []
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            sys.argv = ["es"]
            main()
        except SystemExit as end:
            answers.append([end.code or 0, out.getvalue()])
print(json.dumps({"answers": answers, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def variables(shell: str, line: str, action: str = "get-args") -> dict[str, str]:
    """What a shell sets for a line with the cursor at its end."""
    if shell == "bash":
        words = line.replace("=", " = ").split() + ([""] if line.endswith(" ") else [])
        return {"_ES_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return {"_ES_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": action}


@pytest.fixture
def ask(environment, tmp_path):
    """The answers to several lines of one shell, (exit code, text) each, in a folder with runs; nothing heavy may be loaded for them."""
    for name in ("one", "two"):
        (tmp_path / "runs" / name / "state").mkdir(parents=True)
        (tmp_path / "runs" / name / "model.safetensors").touch()
    (tmp_path / "mine.safetensors").touch()
    write_spec(tmp_path / "spec.yaml")

    def put(*asked: dict[str, str]) -> list[tuple[int, str]]:
        done = subprocess.run([sys.executable, "-c", ASK, json.dumps(asked)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert not {"torch", "deepinv", "numpy", "matplotlib"} & set(found["loaded"])
        return [(code, text) for code, text in found["answers"]]

    return put


# a line, what is offered for it among other things, and what is not
LINES = [
    ("es in", {"info", "init"}, {"train"}),
    ("es list ph", {"physics"}, {"noise"}),
    ("es list Gaussian", {"GaussianNoise", "GaussianBlurGenerator"} & {name for name, _ in completion._components(None)}, {"PoissonNoise"}),
    ("es list noise P", {"PoissonNoise", "PoissonGaussianNoise"}, {"PnP", "PSNR"}),
    ("es init m", {"mri", "multicoil-mri"}, {"ct"}),
    ("es init --from y.npy --physics Inp", {"Inpainting"}, {"GaussianNoise"}),
    ("es evaluate --ckpt ", {"runs/one/model.safetensors", "runs/two/model.safetensors", "mine.safetensors"}, {"spec.yaml"}),
    ("es evaluate --ckpt mine.safetensors --metric PS", {"PSNR"}, {"SSIM"}),
    ("es reconstruct --ckpt runs/t", {"runs/two/model.safetensors"}, {"runs/one/model.safetensors"}),
    ("es info mi", {"mine.safetensors"}, set()),
    ("es train --resume ", {"runs/one", "runs/two"}, {"mine.safetensors"}),
    ("es train spec.yaml training.st", {"training.steps="}, {"training.epochs="}),
    ("es train spec.yaml physics.ma", {"physics.mask="}, set()),
    ("es check spec.yaml model.backbone_net.ba", {"model.backbone_net.batch_norm="}, set()),
    ("es reconstruct --ckpt mine.safetensors --precision b", {"bfloat16"}, {"tf32"}),
    ("es evaluate --ckpt mine.safetensors --test-rule f", {"full"}, {"one"}),
]


def offers(shell: str, text: str) -> set[str]:
    """The words that a shell takes from an answer."""
    if shell == "zsh":
        inner = text.strip().removeprefix("_arguments '*: :((").removesuffix("))'")
        return {line.split('":"')[0].strip('"').replace("\\\\:", ":") for line in inner.splitlines()} if inner != "_files" else set()
    return {line.split("\t")[0] for line in text.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_what_fits_the_line(shell, ask):
    for (line, wanted, unwanted), (code, text) in zip(LINES, ask(*(variables(shell, line) for line, _, _ in LINES)), strict=True):
        found = offers(shell, text)
        assert code == 0 and wanted <= found and not unwanted & found, f"{line}: {text}"


def test_words_of_a_key_are_offered_after_its_equals_sign(ask):
    lines = ["training.precision=b", "training.optimizer.name=Ada", "transforms.group=D", "training.compile=", "training.batch_size="]
    words = [{"bfloat16"}, {"Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax"}, {"D4"}, {"true", "false"}, {"8"}]
    zsh = ask(*(variables("zsh", f"es train spec.yaml {line}") for line in lines))
    assert [offers("zsh", text) for _, text in zsh] == [{line[: line.index("=") + 1] + word for word in inner} for line, inner in zip(lines, words, strict=True)]
    # bash breaks the word at the equals sign and completes what follows
    bash = ask(*(variables("bash", f"es train spec.yaml seed=1 {line}") for line in lines))
    assert [offers("bash", text) for _, text in bash] == words


def test_a_key_that_is_alone_is_offered_with_its_values_so_that_no_blank_follows_it(ask):
    lines = ["training.batch_", "model.backbone_net.batch_n", "training.preci"]
    found = [offers("bash", text) for _, text in ask(*(variables("bash", f"es train spec.yaml {line}") for line in lines))]
    assert found[:2] == [{"training.batch_size=", "training.batch_size=8"}, {"model.backbone_net.batch_norm=", "model.backbone_net.batch_norm=true"}]
    assert found[2] == {f"training.precision={word}" for word in ("", "tf32", "float32", "bfloat16", "float16")}


def test_fish_completes_files_where_nothing_is_offered(ask):
    asked = [variables("fish", line, "is-args") for line in ("es list ", "es reconstruct --ckpt mine.safetensors y")]
    assert [code for code, _ in ask(*asked)] == [0, 1]


def test_meanings_are_one_line_beside_the_word(ask):
    (_, fish), (_, zsh) = ask(variables("fish", "es list Inp"))[0], ask(variables("zsh", "es list Inp"))[0]
    assert "Inpainting\tInpainting forward operator, keeps a subset of entries" in fish.splitlines()
    assert '"Inpainting":"Inpainting forward operator, keeps a subset of entries"' in zsh


def test_every_key_of_a_spec_is_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {key.path: key for key in keys_of()}
    assert {"name", "training.batch_size", "data.train.images.crop", "losses.0.weight", "test.group", "training.precision"} <= found.keys()
    assert found["training.batch_size"].default == "8" and found["physics"].default == "required"
    assert found["training.splits"].words == ("random", "complementary")
    assert all(key.meaning for key in found.values())


@pytest.mark.parametrize(("shell", "written"), [("bash", ".bash_completions/es.sh"), ("zsh", ".zfunc/_es"), ("fish", ".config/fish/completions/es.fish")])
def test_it_is_switched_on_by_one_command(shell, written, environment, tmp_path):
    """The option asks which shell it is typed into; here it is told."""
    told = {**environment, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    for variables, arguments in (({}, ["--install-completion", shell]), ({"_ES_COMPLETE": f"source_{shell}"}, [])):
        done = subprocess.run([sys.executable, "-m", "es_cli", *arguments], env={**told, **variables}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / written).read_text().strip() and f"complete_{shell}" in done.stdout


@pytest.fixture
def typed(environment, tmp_path):
    """Type into a bash with completion switched on, and see its screen."""
    bash = shutil.which("bash")
    if bash is None or sys.platform == "win32":
        pytest.skip("there is no bash")
    import pty

    place = tmp_path / "bin"
    place.mkdir()
    (place / "es").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m es_cli "$@"\n')
    (place / "es").chmod(0o755)
    (tmp_path / "rc").write_text("PS1='$ '\nbind 'set bell-style none'\nbind 'set enable-bracketed-paste off'\neval \"$(_ES_COMPLETE=source_bash es)\"\n")
    screen, keyboard = pty.openpty()
    surroundings = {**environment, "PATH": f"{place}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), keyboard)
    process = subprocess.Popen([bash, "--noprofile", "--rcfile", "rc", "-i"], cwd=tmp_path, env=surroundings, start_new_session=True, **streams)
    os.close(keyboard)

    def type_in(keys: str, *until: str) -> str:
        os.write(screen, keys.encode())
        seen, end = "", time.monotonic() + 60
        while not all(text in seen for text in until) and time.monotonic() < end:
            if select.select([screen], [], [], 1)[0]:
                seen += os.read(screen, 4096).decode(errors="replace")
        return seen

    yield type_in
    os.write(screen, b"\x15exit\n")
    process.wait(60)
    os.close(screen)


def test_a_bash_that_is_typed_into_completes(typed, tmp_path: Path):
    (tmp_path / "runs" / "mine" / "state").mkdir(parents=True)
    typed("", "$ ")
    assert "es init multicoil-mri " in typed("es init mul\t", "multicoil-mri ")
    assert "GaussianNoise " in typed("\x15es list GaussianNo\t", "GaussianNoise ")
    assert "training.batch_size=8" in typed("\x15es train spec.yaml training.batch_s\t8", "=8")
    assert "--resume runs/mine " in typed("\x15es train --resume r\t", "runs/mine ")
    assert starters().keys() <= set(typed("\x15es init \t\t", *starters()).split())
