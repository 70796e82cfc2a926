"""Print the README's lines from what was measured: `python benchmarks/table.py benchmarks/results/time_to_quality.json benchmarks/results/speed.json`.

Takes what `time_to_quality.py` and `speed.py` wrote, in any order; no number in these lines is typed in by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quality_table import SETTING

PICTURE = "benchmarks/results/psnr_over_time.png"
EXPLAINED = (
    "Each point is a training of its own on the measurements alone, its schedule sized to its steps, which stand beside it; wall time is that of the whole "
    "command: start-up, validation, checkpoints; the evaluation on the test images is left out. Between points the table takes straight lines, and nothing "
    "beyond them; ≤ where the first point of `es` was above already. One seed."
)


def time_to_quality(results: Mapping[str, Any]) -> Iterator[str]:
    """The picture, its caption, and a row for each run of the peer."""
    yield f"![PSNR on the test images over wall time]({PICTURE})\n"
    yield f"*{EXPLAINED} {_made(results, _dates(results))}*\n"
    yield "| task | deepinv's Trainer | its PSNR | its wall time | `es` by that time | gain | `es` is as good after | ratio | ratio without its validation |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, task in results["tasks"].items():
        setting = SETTING[name]
        for row in task["compared"].get("against", []):
            yield f"| {setting} | {row['steps']} steps, lr {row['lr']:g} | {row['psnr']:.2f} dB | {row['wall']:.0f} s | {_by_then(row)} | {_as_good(row)} |"
            setting = ""
    yield ""
    for name, task in results["tasks"].items():
        early = task["compared"].get("to_adjoint_and_3_dB")
        if early:
            yield f"{SETTING[name]}: {_early(early)}"


def _by_then(row: Mapping[str, Any]) -> str:
    return f"**{row['es_psnr']:.2f} dB** | {row['gain_dB']:+.2f} dB" if "es_psnr" in row else "not measured |"


def _as_good(row: Mapping[str, Any]) -> str:
    if "ratio" not in row:
        return "not reached | |"
    most = "≤ " if row["known"] == "at most" else ""
    return f"{most}{row['es_seconds']:.0f} s | **{most}{row['ratio']:.2f}** | {most}{row['ratio_without_its_validation']:.2f}"


def _early(early: Mapping[str, Any]) -> str:
    """When both were 3 dB above the adjoint."""
    said = {"at most": "at most ", "between points": "", "not by then": "not within "}
    theirs = f"deepinv's Trainer {said[early['peer']['known']]}{early['peer']['seconds']:.0f} s" + (f" (lr {early['lr']:g})" if early["lr"] else "")
    if early["es"] is None:
        return f"3 dB above the adjoint, at {early['psnr']:.2f} dB: `es` not yet, {theirs}."
    ours = f"`es` after {said[early['es']['known']]}{early['es']['seconds']:.0f} s"
    return f"3 dB above the adjoint, at {early['psnr']:.2f} dB: {ours}, {theirs}."


def speed(results: Mapping[str, Any]) -> Iterator[str]:
    """A row for each ratio, then a row for each size of image."""
    figures = {what: figure for part in results["parts"].values() for what, figure in part["figures"].items()}
    yield "| what, against what | ratio | lowest to highest | | |\n|---|---|---|---|---|"
    for what, figure in figures.items():
        if "ratio" in figure:
            spread = f"{figure['low']:.3g} to {figure['high']:.3g}"
            yield f"| {what} | **{figure['ratio']:.3g}** | {spread} | {_seconds(figure['seconds'])} | {_seconds(figure['against'])} |"
        elif "calls" in figure:
            yield f"| {what}, `es` against deepinv | **{figure['calls'] / figure['against']:.3g}** | counted | {figure['calls']} | {figure['against']} |"
    sizes = {what: figure for what, figure in figures.items() if "MiB before" in figure}
    if sizes:
        yield "\n| artifact removal | time | for a pixel | memory of the process at most |\n|---|---|---|---|"
        yield from (f"| {what} | {_cost(figure)} |" for what, figure in sizes.items())
    yield f"\n{_made(results, results['date'])}"


def _cost(figure: Mapping[str, Any]) -> str:
    if "failed" in figure:
        return f"not made: {figure['failed']} | |"
    return f"{_seconds(figure['seconds'])} | {figure['µs per pixel']:.1f} µs | {figure['MiB at most']} MiB, {figure['MiB before']} of them before the image"


def _seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _dates(results: Mapping[str, Any]) -> str:
    dates = sorted({run["date"] for task in results["tasks"].values() for run in task["runs"]})
    return dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"


def _made(results: Mapping[str, Any], when: str) -> str:
    """When, on what, and by which command, or by which several."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    threads = f"{results['threads']} thread{'s' * (results['threads'] != 1)}"
    return f"{when}; {results['machine']}, {threads}; {versions}. Made by {', '.join(f'`{one}`' for one in results.get('commands', [results['command']]))}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    for path in args.results:
        results = json.loads(path.read_text())
        print("\n".join(time_to_quality(results) if "tasks" in results else speed(results)), end="\n\n")


if __name__ == "__main__":
    main()
