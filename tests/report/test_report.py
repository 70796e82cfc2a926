"""A report says what the runs say, holds nothing of the machine, and needs nothing outside of itself."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from problems import es, train_in, write_spec

from es_cli.catalog import load_spec
from es_cli.errors import CheckpointError, UsageError
from es_cli.evaluate import evaluate
from es_cli.report.make import report
from es_cli.report.pictures import data_uris
from es_cli.report.results import results_of, spread
from es_cli.report.runs import read_runs


def decoded(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_numbers_are_those_of_es_evaluate_and_the_worst_image_comes_first(inpainting):
    model = train_in(inpainting.parent / "run", load_spec(inpainting))
    made, found = report([model.parent], images=3, device="cpu"), evaluate(model, device="cpu")
    own = made.numbers["runs"][0]["evaluation"]
    assert own["metrics"] == found.to_dict()["metrics"] and own["baselines"] == found.to_dict()["baselines"]
    judged = evaluate(model, device="cpu", judging=True).to_dict()["without_truth"]
    assert {name: value["mean"] for name, value in own["without_truth"].items()} == {name: value["mean"] for name, value in judged.items()}
    psnr = [row["PSNR"] for row in own["per_image"]]
    assert psnr == sorted(found.values["reconstruction"]["PSNR"].tolist()) and len(psnr) == 4
    shown = re.findall(r"<h3>Sample (\d+)</h3>", made.html)
    order = np.argsort(found.values["reconstruction"]["PSNR"], kind="stable")
    assert [int(number) for number in shown] == [order[0], order[2], order[3]]
    assert f"{found.values['reconstruction']['PSNR'].mean():.3f}" in made.html


def test_the_page_needs_nothing_outside_of_it_and_says_nothing_of_the_machine(inpainting):
    run = train_in(inpainting.parent / "run", load_spec(inpainting)).parent
    html = report([run], images=2, device="cpu").html
    outside = [value for value in re.findall(r'(?:src|href)="([^"]*)"', html) if not value.startswith(("data:", "#"))]
    assert not outside and "@import" not in html and "default-src 'none'" in html
    assert str(run.parent) not in html and "/home" not in html and inpainting.name not in html
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids)), "a chart points at parts of another"


def test_what_a_spec_says_is_text_and_not_html(inpainting):
    spec = load_spec(inpainting, ["training.steps=1"])
    model = train_in(inpainting.parent / "run", spec)
    html = report([model], images=0, device="cpu", title="<script>alert(1)</script>").html
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_several_runs_stand_side_by_side_where_they_have_the_same_test_images(inpainting):
    one = train_in(inpainting.parent / "a", load_spec(inpainting))
    other = train_in(inpainting.parent / "b", load_spec(inpainting, ["training.steps=1", "seed=3"]))
    made = report([one.parent, other], images=4, device="cpu")
    assert [run["label"] for run in made.numbers["runs"]] == ["tiny (a)", "tiny (b)"]
    assert made.html.count('<div class="gallery">') == 1 and made.html.count('data-name="reference"') == 4
    assert made.html.count('data-name="tiny (a)"') == made.html.count('data-name="tiny (b)"') == 4
    better = max(made.numbers["runs"], key=lambda run: run["evaluation"]["metrics"]["PSNR"]["mean"])
    row = re.search(rf'<th scope="row">{re.escape(better["label"])}</th>(.*?)</tr>', made.html, re.S)
    assert row is not None and row[1].lstrip().startswith('<td class="best">')


def test_a_run_without_ground_truth_is_judged_by_what_was_held_out(inpainting):
    spec = write_spec(inpainting.parent / "bare.yaml", data={"train": {"measurements": "train_y.npy"}, "validation": 0.2})
    run = train_in(inpainting.parent / "run", load_spec(spec)).parent
    made = report([run], images=2, device="cpu")
    evaluation = made.numbers["runs"][0]["evaluation"]
    assert "metrics" not in evaluation and evaluation["n"] == 4
    assert "has no ground truth: it was judged on the run&#39;s validation measurements" in made.html
    worst = max(evaluation["per_image"], key=lambda row: row["held_out_nrmse"])["image"]
    shown = re.findall(r"<h3>Sample (\d+)</h3>", made.html)
    assert len(shown) == 2 and int(shown[0]) == worst and 'data-name="reference"' not in made.html
    assert f"{evaluation['without_truth']['held_out_nrmse']['mean']:.4g} (" in made.html
    (inpainting.parent / "train_y.npy").unlink()
    gone = report([run], images=2, device="cpu")
    assert "was not evaluated: there is no such file" in gone.html and "<h3>Sample" not in gone.html


def test_parts_add_up_to_the_image_and_the_error_bar_has_a_window_of_its_own(inpainting):
    model = train_in(inpainting.parent / "run", load_spec(inpainting))
    sample = results_of(read_runs([model])[0], 1, "cpu").samples[0]
    np.testing.assert_array_equal(sample.images["measured part"] + sample.images["invented part"], sample.images["reconstruction"])
    mask = np.load(inpainting.parent / "mask.npy")
    assert not (sample.images["measured part"] * (1 - mask)).any() and (sample.images["error bar"] >= 0).all()
    shown = {name: decoded(uri) for name, uri in data_uris({"x": np.ones((1, 4, 4)), "bar": np.full((1, 4, 4), 0.01)}, "x", own=["bar"]).items()}
    assert shown["bar"].min() == 255


def test_complex_images_are_shown_by_magnitude(mri):
    run = train_in(mri.parent / "run", load_spec(mri)).parent
    html = report([run], images=1, device="cpu").html
    assert {decoded(uri).shape for uri in re.findall(r'src="(data:image/png[^"]+)"', html)} == {(16, 16)}


def test_one_grey_window_serves_all_pictures_of_a_sample():
    image = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4)
    shown = {name: decoded(uri) for name, uri in data_uris({"half": image / 2, "whole": image}, "whole").items()}
    assert shown["whole"].max() == 255 and abs(int(shown["half"].max()) - 127) <= 2


@pytest.mark.parametrize(("values", "count", "chosen"), [([3.0, 1.0, 2.0], 2, [1, 0]), ([3.0, 1.0, 2.0], 9, [1, 2, 0]), ([1.0], 3, [0]), ([1.0, 2.0], 0, [])])
def test_samples_are_spread_from_the_worst_to_the_best(values, count, chosen):
    assert spread(values, count) == chosen


def test_damaged_metrics_and_a_checkpoint_alone_still_make_a_page(inpainting, tmp_path):
    run = train_in(inpainting.parent / "run", load_spec(inpainting)).parent
    with open(run / "metrics.jsonl", "a") as file:
        file.write("{damaged\n")
    (run / "environment.json").write_text("[")
    assert len(read_runs([run])[0].rows) == (run / "metrics.jsonl").read_text().count('"step"') and read_runs([run])[0].environment == {}
    alone = tmp_path / "alone" / "m.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((run / "model.safetensors").read_bytes())
    html = report([alone], device="cpu").html
    assert "How training went" not in html and "was not evaluated: no spec.yaml lies beside it" in html


def test_faults_are_named(inpainting, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        report([tmp_path])
    run = train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"])).parent
    with pytest.raises(UsageError, match="named twice"):
        report([run, run / "model.safetensors"])


def test_the_command_writes_a_page_or_prints_numbers_and_replaces_nothing_unasked(inpainting, monkeypatch, capfd):
    monkeypatch.chdir(inpainting.parent)
    train_in(inpainting.parent / "run", load_spec(inpainting, ["training.steps=1"]))
    assert es(["report", "run", "--images", "1", "--device", "cpu"]) == 0
    assert capfd.readouterr().out == "report.html\n"
    assert es(["report", "run"]) == 2 and "this file exists" in capfd.readouterr().err
    assert es(["report", "run", "-o", "page.pdf"]) == 2 and "give -o NAME.html" in capfd.readouterr().err
    assert es(["report", "run", "--json", "--device", "cpu"]) == 0
    numbers = json.loads(capfd.readouterr().out)
    assert numbers["runs"][0]["label"] == "tiny" and numbers["runs"][0]["evaluation"]["n"] == 4
    assert es(["report", "run", "--images", "0", "--device", "cpu", "--overwrite", "--title", "Anew"]) == 0
    assert "<title>Anew</title>" in (inpainting.parent / "report.html").read_text()
