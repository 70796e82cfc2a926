"""Runs and their results → one HTML page that needs nothing else, and the same numbers as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from es_cli import __version__
from es_cli.report.pictures import curves, data_uris
from es_cli.report.results import ADJOINT, ERROR_BAR, INVENTED, MEASURED, PSNR, RECONSTRUCTION, REFERENCE, Results, Sample
from es_cli.report.runs import Run
from es_cli.spec.document import from_dict, to_yaml
from es_cli.without_truth import NAMES, trust

Entry = tuple[Run, Results]
MISSING = "–"


def numbers(entries: Sequence[Entry]) -> dict[str, Any]:
    """All numbers of the page, by run: what `es report --json` prints."""
    return {"es": __version__, "runs": [{"label": run.label, **_numbers(run, results)} for run, results in entries]}


def _numbers(run: Run, results: Results) -> dict[str, Any]:
    return {
        "held_out_loss": run.metadata.validation.get("loss"),
        "best_step": run.metadata.validation.get("step"),
        "evaluation": None if results.evaluation is None else {**results.evaluation.to_dict(), "per_image": results.evaluation.rows()},
        "no_evaluation_because": results.missing or None,
        "curves": list(run.rows),
        "environment": run.environment,
        "versions": run.metadata.versions,
        "sha256": run.sha256,
        "fingerprint": run.metadata.fingerprint,
        "spec": run.metadata.spec,
    }


def page(entries: Sequence[Entry], title: str) -> str:
    """The page of these runs as HTML."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=False).from_string(files("es_cli.report").joinpath("page.html").read_text())
    runs = [run for run, _ in entries]
    columns, table = _table(entries)
    return template.render(
        version=__version__,
        title=title,
        subtitle=_subtitle(entries),
        numbers_caption="Mean ± standard deviation over the test images; the best of each column in bold." if len(entries) > 1 else "Mean ± standard deviation over the test images.",
        columns=columns,
        table=table,
        notes=_notes(entries),
        judged=judged_table(entries),
        galleries=_galleries(entries),
        gallery_words=_gallery_words(entries),
        curves=curves(runs),
        runs=[{"label": run.label, "facts": _facts(run, results), "per_image": [] if results.evaluation is None else _rounded(results.evaluation.rows()), "spec": to_yaml(from_dict(run.metadata.spec))} for run, results in entries],
    )


def _subtitle(entries: Sequence[Entry]) -> str:
    counted = [results.with_truth.n for _, results in entries if results.with_truth is not None]
    tested = f", {counted[0]} test images with ground truth" if counted and len(set(counted)) == 1 else ""
    return f"{len(entries)} run{'s' if len(entries) > 1 else ''}{tested}. Made by es {__version__}; everything on this page lies in this file."


def _table(entries: Sequence[Entry]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows: metrics of the reconstruction, gain over the adjoint, what an image costs, and what selected the weights."""
    metrics = list(dict.fromkeys(name for _, results in entries if results.with_truth for name in results.with_truth.values[RECONSTRUCTION]))
    found: list[dict[str, Any]] = []
    for run, results in entries:
        cells: dict[str, tuple[str, float | None]] = {}
        if results.with_truth is not None:
            made = results.with_truth.values
            for name in metrics:
                values = made[RECONSTRUCTION][name]
                cells[_unit(name)] = f"{values.mean():.3f} ± {values.std():.3f}", float(values.mean())
            for who in made:
                if who != RECONSTRUCTION and PSNR in made[who]:
                    gain = float(made[RECONSTRUCTION][PSNR].mean() - made[who][PSNR].mean())
                    cells[f"gain over {who} (dB)"] = f"{gain:+.2f}", None
        if results.evaluation is not None:
            cells["network calls"] = str(results.evaluation.network_calls), None
            cells["s an image"] = f"{results.evaluation.seconds_per_image:.2g}", None
        loss, step = run.metadata.validation.get("loss"), run.metadata.validation.get("step")
        cells["held-out loss"] = (f"{loss:.4g}" if isinstance(loss, (int, float)) else MISSING), None
        cells["at step"] = str(step if step is not None else MISSING), None
        found.append({"label": run.label, "cells": cells})
    columns = list(dict.fromkeys(name for row in found for name in row["cells"]))
    best = {name: max((row["cells"][name][1] for row in found if row["cells"].get(name, ("", None))[1] is not None), default=None) for name in columns}
    rows = []
    for row in found:
        shown = [(row["cells"].get(name, (MISSING, None)), best[name]) for name in columns]
        rows.append({"label": row["label"], "cells": [{"text": text, "best": len(entries) > 1 and value is not None and value == top} for (text, value), top in shown]})
    return columns, rows


def judged_table(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row for each number that measurements alone give: what it is, its mean for each run with the 95 % interval, and how far it is to be trusted."""
    found = [results.evaluation.to_dict() if results.evaluation is not None else {} for _, results in entries]
    names = [name for name in NAMES if any(name in one.get("without_truth", {}) for one in found)]
    return [{"name": NAMES[name][0], "values": [_interval(one.get("without_truth", {}).get(name)) for one in found], "trust": trust(name)} for name in names]


def _interval(value: dict[str, float] | None) -> str:
    if value is None:
        return MISSING
    return f"{value['mean']:.4g}" + ("" if math.isnan(value["low"]) else f" ({value['low']:.4g} to {value['high']:.4g})")


def _unit(metric: str) -> str:
    return f"{metric} (dB)" if metric == PSNR else metric


def _notes(entries: Sequence[Entry]) -> list[str]:
    notes = [f"{run.label} was not evaluated: {results.missing}." for run, results in entries if results.missing]
    notes += [f"{run.label} has no ground truth: it was judged on {results.evaluation.source}." for run, results in entries if results.evaluation and not results.with_truth]
    conventions = {"; ".join(f"{name}: {text}" for name, text in results.evaluation.conventions.items()) for _, results in entries if results.evaluation}
    return notes + [f"{text}." for text in sorted(conventions)]


def _gallery_words(entries: Sequence[Entry]) -> str:
    truth = any(results.with_truth for _, results in entries)
    first = "From the image that was reconstructed worst to the best, evenly" + ("." if truth else ", by the error on measurements that were held out.")
    window = f"One grey window for each sample: 0 to the 99.5th percentile of its {REFERENCE if truth else RECONSTRUCTION}; the error bar has its own."
    return f"{first} {window} The measured part is what the measurements tell, the invented part is what they cannot. Drag the slider, or use the arrow keys on it."


def _galleries(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One gallery for all runs that have the same samples to show, side by side; else one for each."""
    made = []
    for group in _alike([(run, results) for run, results in entries if results.samples]):
        results = group[0][1]
        samples = [_sample(group, position) for position in range(len(results.samples))]
        names = [picture["name"] for picture in samples[0]["pictures"]]
        right = REFERENCE if REFERENCE in names else names[0]
        made.append({"label": ", ".join(run.label for run, _ in group), "samples": samples, "names": names, "left": names[1], "right": right})
    return made


def _alike(entries: Sequence[Entry]) -> list[list[Entry]]:
    groups: list[list[Entry]] = []
    for entry in entries:
        for group in groups:
            if _same_samples(group[0][1].samples, entry[1].samples):
                group.append(entry)
                break
        else:
            groups.append([entry])
    return groups


def _same_samples(one: Sequence[Sample], other: Sequence[Sample]) -> bool:
    if [sample.number for sample in one] != [sample.number for sample in other]:
        return False
    by = REFERENCE if REFERENCE in one[0].images else ADJOINT
    return all(by in b.images and a.images[by].shape == b.images[by].shape and np.array_equal(a.images[by], b.images[by]) for a, b in zip(one, other, strict=True))


def _sample(group: Sequence[Entry], position: int) -> dict[str, Any]:
    first = group[0][1].samples[position]
    images, psnr = {ADJOINT: first.images[ADJOINT]}, {ADJOINT: first.psnr.get(ADJOINT)}
    for run, results in group:
        name = RECONSTRUCTION if len(group) == 1 else run.label
        images[name] = results.samples[position].images[RECONSTRUCTION]
        psnr[name] = results.samples[position].psnr.get(RECONSTRUCTION)
    if len(group) == 1:
        images |= {name: first.images[name] for name in (MEASURED, INVENTED, ERROR_BAR) if name in first.images}
    if REFERENCE in first.images:
        images[REFERENCE] = first.images[REFERENCE]
    uris = data_uris(images, REFERENCE if REFERENCE in images else list(images)[1], own=(ERROR_BAR,))
    pictures = []
    for name, uri in uris.items():
        value = psnr.get(name)
        told = f", {value:.1f} dB" if value is not None else ""
        pictures.append({"name": name, "uri": uri, "alt": f"sample {first.number}, {name}{told}", "psnr": f"{value:.2f}" if value is not None else ""})
    return {"number": first.number, "pictures": pictures}


def _facts(run: Run, results: Results) -> dict[str, str]:
    validation, environment = run.metadata.validation, run.environment
    versions = ", ".join(f"{name} {number}" for name, number in run.metadata.versions.items())
    facts = {
        "trained": f"{run.rows[-1]['step']} steps, the weights are those of step {validation.get('step')}" if run.rows else f"the weights are those of step {validation.get('step')}",
        "throughput": _throughput(run),
        "trained on": ", ".join(f"{name} {environment[name]}" for name in ("device", "threads", "python") if name in environment),
        "versions": versions,
        "SHA-256 of the checkpoint": run.sha256,
        "fingerprint of its tensors": run.metadata.fingerprint,
    }
    return {name: value for name, value in facts.items() if value}


def _throughput(run: Run) -> str:
    speeds = [row["samples_per_second"] for row in run.rows if row.get("samples_per_second")]
    memory = [row["peak_memory_mib"] for row in run.rows if row.get("peak_memory_mib")]
    said = [f"{statistics.median(speeds):.3g} samples a second"] if speeds else []
    return ", ".join(said + ([f"{max(memory):.0f} MiB at most"] if memory else []))


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows]
