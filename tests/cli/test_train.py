from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import es_cli.cli.training_display as display
from es_cli.cli.app import app
from es_cli.errors import Diverged
from es_cli.training import run
from es_cli.training.events import Note, Previewed, Started, Step, Stopped, Validated
from es_cli.training.folder import RunFolder

SPEC = """
name: tiny
physics: {name: Inpainting, mask: 0.5}
data: {train: {images: {sample: photo, part: train, crop: 16}}%s}
model: {name: ArtifactRemoval, backbone_net: {name: UNet, in_channels: 3, out_channels: 3, scales: 2, batch_norm: false}}
"""
TEST = ", test: {images: {sample: photo, part: test, crop: 16}}"
RUN = Path("runs") / "tiny"
EVENTS = [
    Started(RUN, 3, 0, 1234, 40, 4, "cpu", 8),
    Step(1, 0.5, 1e-3, {"es": 0.5}, 0.1),
    Validated(1, 0.4, True, 21.5, 0.1),
    Step(2, 0.25, 1e-3, {"es": 0.25}, 0.1),
    Validated(2, 0.45, False, None, 0.1),
    Previewed(RUN / "previews" / "step-2.png"),
    Note("something to know"),
    Stopped(2, "finished", 1, 0.4),
]


@pytest.fixture
def es(monkeypatch, tmp_path):
    """`es train …` in an empty folder with a spec, around a core that only tells its events; `calls` is what the core was asked."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC % TEST)
    RUN.mkdir(parents=True)
    (RUN / "spec.yaml").write_text(SPEC % "")

    def tell(on_event):
        print("chatter of a library")
        for event in EVENTS:
            on_event(event)
        return RUN / "model.safetensors"

    def train(spec, folder, **options):
        command.calls.append(("train", spec, folder, options))
        return tell(options["on_event"])

    def resume(stopped, **options):
        stopped.release()
        command.calls.append(("resume", stopped, options))
        return tell(options["on_event"])

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "resume", resume)

    def command(*arguments):
        return CliRunner().invoke(app, ["train", *arguments])

    command.calls = []
    return command


def test_standard_output_is_the_path_and_nothing_else(es):
    result = es("spec.yaml")
    assert result.exit_code == 0
    assert result.stdout == f"{RUN / 'model.safetensors'}\n"
    assert "chatter of a library" in result.stderr


def test_standard_error_tells_the_story_and_the_command_to_try_next(es):
    lines = es("spec.yaml").stderr.splitlines()
    assert lines[1] == f"{RUN}: 1,234 parameters, 40 measurements to train on, 4 held out, 3 steps, cpu; 8 network calls for each image at test"
    assert lines[-5:] == [
        "something to know",
        "finished at step 2; the best weights are those of step 1, held-out loss 0.4",
        f"checkpoint: {RUN / 'model.safetensors'}",
        f"preview:    {RUN / 'previews' / 'step-2.png'}",
        f"try next:   es evaluate --ckpt {RUN / 'model.safetensors'}",
    ]


def test_without_ground_truth_the_next_command_reconstructs(es):
    assert "es reconstruct --ckpt" in es("--resume", str(RUN)).stderr.splitlines()[-1]


def test_validations_that_improved_are_told_only_when_verbose(es):
    told = "step 1: held-out loss 0.4 (21.50 dB), the best so far"
    verbose = es("spec.yaml", "-v").stderr
    assert told in verbose and "step 2: held-out" not in verbose
    assert told not in es("spec.yaml").stderr


def test_quiet_says_nothing_but_the_path(es):
    result = es("spec.yaml", "-q")
    assert result.stdout.startswith(str(RUN))
    assert result.stderr == "chatter of a library\n"


def test_options_reach_the_core(es):
    es("spec.yaml", "training.steps=7", "losses.0.weight=2", "-o", "out", "--device", "cuda:1", "--init-from", "m.safetensors")
    es("spec.yaml", "-o", str(RUN), "--overwrite")
    (_, spec, folder, options), (_, _, replaced, _) = es.calls
    assert (spec.training.steps, spec.losses[0].weight, folder) == (7, 2, RunFolder(Path("out")))
    assert (options["device"], options["init_from"]) == ("cuda:1", Path("m.safetensors"))
    assert replaced == RunFolder(RUN, replaces=True)


def test_the_folder_and_its_spec_are_there_before_the_core_is_called(es):
    es("spec.yaml", "training.steps=7", "-o", "out")
    assert "steps: 7" in Path("out/spec.yaml").read_text()


def test_a_second_run_of_a_default_name_gets_a_number(es):
    es("spec.yaml")
    ((_, _, folder, _),) = es.calls
    assert folder == RunFolder(Path("runs/tiny-2"))


def test_resume_goes_on_in_the_folder_of_the_run(es):
    assert es("--resume", str(RUN), "--device", "cpu").stdout == f"{RUN / 'model.safetensors'}\n"
    ((verb, stopped, options),) = es.calls
    assert (verb, stopped.path, stopped.changes, options["device"]) == ("resume", RUN, [], "cpu")


def test_resume_takes_changes_that_a_run_can_go_on_with(es):
    es("--resume", str(RUN), "training.steps=7", "training.batch_size=3")
    ((_, stopped, _),) = es.calls
    assert [str(change) for change in stopped.changes] == ["training.epochs 100 → nothing", "training.steps nothing → 7", "training.batch_size 8 → 3"]
    refused = es("--resume", str(RUN), "physics.mask=0.4", "training.steps=7", "seed=3")
    assert refused.exit_code == 2 and len(es.calls) == 1
    assert "physics.mask: this run was begun with 0.5, and 0.4 is asked for" in refused.stderr
    assert "seed: this run was begun with 0, and 3 is asked for" in refused.stderr and "training.steps" not in refused.stderr


def test_resume_takes_a_changed_spec(es):
    Path("longer.yaml").write_text(SPEC % "" + "training: {epochs: 500}\n")
    assert es("longer.yaml", "training.batch_size=3", "--resume", str(RUN)).exit_code == 0
    ((_, stopped, _),) = es.calls
    assert [str(change) for change in stopped.changes] == ["training.epochs 100 → 500", "training.batch_size 8 → 3"]
    Path("other.yaml").write_text((SPEC % "").replace("0.5", "0.4"))
    refused = es("other.yaml", "--resume", str(RUN))
    assert refused.exit_code == 2 and "physics.mask: this run was begun with 0.5, and 0.4 is asked for" in refused.stderr and len(es.calls) == 1
    assert es("other.yaml", "--resume", "nothing").exit_code == 4


@pytest.mark.parametrize("arguments", [["-o", "x"], ["--overwrite"], ["--init-from", "m"]], ids=" ".join)
def test_resume_takes_no_other_wishes(es, arguments):
    result = es("--resume", str(RUN), *arguments)
    assert result.exit_code == 2 and "given too" in result.stderr and not es.calls


def test_a_wrong_spec_is_exit_2_before_the_core_is_asked(es):
    result = es("spec.yaml", "training.stepss=7")
    assert result.exit_code == 2 and "did you mean" in result.stderr and not es.calls and result.stdout == ""


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(es, monkeypatch, number, code):
    def train(spec, run_dir=None, **options):
        raise run.Interrupted(number, Path("runs/my run"))

    monkeypatch.setattr(run, "train", train)
    result = es("spec.yaml")
    assert result.exit_code == code and result.stdout == ""
    assert "es train --resume 'runs/my run'" in result.stderr or sys.platform == "win32"


def test_divergence_is_exit_6(es, monkeypatch):
    def train(spec, run_dir=None, **options):
        raise Diverged("the loss is nan at step 3")

    monkeypatch.setattr(run, "train", train)
    result = es("spec.yaml")
    assert result.exit_code == 6 and "nan at step 3" in result.stderr


def test_without_a_terminal_a_plain_line_comes_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(display.time, "monotonic", lambda: next(now))
    with display.TrainingDisplay() as shown:
        shown(Started(RUN, 1000, 0, 1, 1, 1, "cpu", 1))
        for step in range(1, 13):
            shown(Step(step, 0.5, 1e-3, {}, 6.0))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert 1 < len(lines) < 8
    assert re.fullmatch(r"step \d+/1000, loss 0.5, 0.167 steps/s, 1 h 40 min left", lines[0])


def test_on_a_terminal_there_is_a_bar_with_loss_validation_rate_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = sys.stderr
    with display.TrainingDisplay() as shown:
        for event in EVENTS:
            shown(event)
    text = terminal.getvalue()
    assert "2/3" in text and "loss 0.487" in text and "held-out 0.45" in text and "10 steps/s" in text
    assert re.search(r"\d:\d\d:\d\d|-:--:--", text)
