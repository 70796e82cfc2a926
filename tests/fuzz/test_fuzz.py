"""A few hundred hostile files of every kind, the same ones each time; `benchmarks/fuzz.py` runs as many as one likes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if not sys.platform.startswith("linux"):
    pytest.skip("memory is measured as Linux counts it", allow_module_level=True)

from hostile import ARRAYS, KINDS, command, make_seeds, whole  # noqa: E402 (not to be had elsewhere)
from judging import confined, run  # noqa: E402

CASES = {"spec": 30, "checkpoint": 30, "run": 20}
OF_ARRAYS = 12


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_hostile_file_is_answered(kind: str, seeds: Path, tmp_path: Path) -> None:
    @settings(
        max_examples=CASES.get(kind, OF_ARRAYS), phases=[Phase.generate],  # what is found first is shown, and not made smaller for minutes
        derandomize=True, database=None, deadline=None, print_blob=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.randoms(use_true_random=False))
    def hold(random) -> None:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        arguments = command(random, kind, seeds, folder)
        with confined():
            end = run(arguments)
        assert not end.fault, (end.fault, end.text)

    hold()


FOUND = {
    "measures complex numbers": (2, ["physics={name: PtychographyLinearOperator}"], 3),
    "draws masks without end": (0, ["mask_generator={name: GaussianSplittingMaskGenerator, img_size: [1000000, 16, 16], split_ratio: 0.7}"], 2),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name: str, seeds: Path, tmp_path: Path) -> None:
    number, changes, code = FOUND[name]
    end = run(["train", str(seeds / f"spec-{number}.yaml"), *changes, "-o", str(tmp_path / "run"), "--device", "cpu", "-q"])
    assert (end.code, end.fault) == (code, ""), end.text


@pytest.mark.parametrize("kind", ARRAYS)
def test_what_is_mutated_works_as_it_is(kind: str, seeds: Path, tmp_path: Path) -> None:
    """Or else the cases would all be refused at the door."""
    end = run(whole(kind, seeds, tmp_path))
    assert (end.code, end.fault) == (0, "")
