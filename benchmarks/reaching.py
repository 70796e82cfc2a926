"""How long it took to be how good, from whole trainings of several lengths: straight lines between measured points, and nothing beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Curve = Sequence[tuple[float, float]]
Run = dict[str, Any]
ABOVE_ADJOINT = 3.0  # dB


def curve(runs: Sequence[Run], who: str, lr: float | None = None) -> list[tuple[float, float]]:
    """(wall time in s, PSNR on test in dB) of each run of `who`, in order of time; those with the learning rate `lr`, None: all."""
    return sorted((run["wall"], run["psnr"]) for run in runs if run["who"] == who and (lr is None or run["lr"] == lr))


def psnr_at(points: Curve, wall: float) -> float | None:
    """PSNR at a wall time, by a straight line between its neighbours; after the last point that of the last, before the first None."""
    before = [point for point in points if point[0] <= wall]
    after = [point for point in points if point[0] > wall]
    if not before:
        return None
    if not after:
        return before[-1][1]
    (t0, p0), (t1, p1) = before[-1], after[0]
    return p0 + (p1 - p0) * (wall - t0) / (t1 - t0)


def time_to(points: Curve, psnr: float) -> dict[str, Any] | None:
    """When the curve first reaches `psnr`, in s; None where it does not. `known` is "at most" where the first point is above it already."""
    if points and points[0][1] >= psnr:
        return {"seconds": points[0][0], "known": "at most"}
    for (t0, p0), (t1, p1) in zip(points, points[1:], strict=False):
        if p0 < psnr <= p1:
            return {"seconds": t0 + (t1 - t0) * (psnr - p0) / (p1 - p0), "known": "between points"}
    return None


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """What follows from the runs of one task: for each run of the peer, when `es` reached its PSNR and what `es` had reached by its wall time; for the
    peer at its best learning rate, the time of both to the adjoint's PSNR + 3 dB. Empty where one of the two has no run yet."""
    ours = curve(runs, "es")
    theirs = sorted((run for run in runs if run["who"] == "peer"), key=lambda run: (run["steps"], run["lr"]))
    if not ours or not theirs:
        return {}
    adjoint = next(run["adjoint"] for run in runs if run["who"] == "es")
    rates = sorted({run["lr"] for run in theirs})
    early = _early(runs, ours, rates, adjoint + ABOVE_ADJOINT)
    return {"adjoint": adjoint, "against": [_against(ours, run) for run in theirs], "to_adjoint_and_3_dB": early}


def _against(ours: Curve, run: Run) -> dict[str, Any]:
    """`es` against one run of the peer."""
    reached, at_wall = time_to(ours, run["psnr"]), psnr_at(ours, run["wall"])
    found = {name: run[name] for name in ("steps", "lr", "wall", "validation", "psnr")}
    if reached is not None:
        found["es_seconds"], found["known"] = reached["seconds"], reached["known"]
        found["ratio"] = reached["seconds"] / run["wall"]
        found["ratio_without_its_validation"] = reached["seconds"] / (run["wall"] - run["validation"])
    if at_wall is not None:
        found["es_psnr"], found["gain_dB"] = at_wall, at_wall - run["psnr"]
    return found


def _early(runs: Sequence[Run], ours: Curve, rates: Sequence[float], psnr: float) -> dict[str, Any]:
    """The time of both to `psnr`. Where the peer never reaches it, it took more than its longest run, and the ratio is less than is said; where its
    first point is above already, nobody knows how much sooner it was, and there is no ratio."""
    reached = time_to(ours, psnr)
    found: dict[str, Any] = {"psnr": psnr, "es": reached, "peer": None, "lr": None}
    theirs = {lr: at for lr in rates if (at := time_to(curve(runs, "peer", lr), psnr)) is not None}
    if theirs:
        found["lr"] = min(theirs, key=lambda lr: theirs[lr]["seconds"])
        found["peer"] = theirs[found["lr"]]
    else:
        found["peer"] = {"seconds": max(wall for wall, _ in curve(runs, "peer")), "known": "not by then"}
    if reached is not None and found["peer"]["known"] != "at most":
        found["ratio"] = reached["seconds"] / found["peer"]["seconds"]
    return found
