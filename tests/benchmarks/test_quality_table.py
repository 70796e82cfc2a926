"""The README's table of quality, from results as `quality.py` writes them."""

from __future__ import annotations

import json

import quality_table


def row(method, steps, seed, psnr):
    baseline = {"PSNR": 20.0, "SSIM": 0.5}
    made = {"date": f"2026-01-0{seed + 1}", "task": "mri64", "method": method, "seed": seed, "steps": steps, "network_calls": 8, "PSNR": psnr, "SSIM": 0.75}
    return {**made, "baselines": {"adjoint": baseline, "pseudoinverse": baseline}}


def test_runs_of_unequal_length_are_never_averaged_and_a_part_of_the_recipe_is_compared_with_its_own_seed(tmp_path, monkeypatch, capsys):
    runs = [row("es", 100, 0, 25.0), row("es", 100, 1, 26.0), row("es", 200, 0, 30.0), row("splitting", 100, 0, 24.0), row("es, no EMA", 100, 1, 25.75), row("es, D4", 300, 0, 1.0)]
    runs.append(row("es, no EMA, D4", 100, 1, 26.0))
    (tmp_path / "quality.json").write_text(json.dumps({"machine": "abacus", "runs": runs}))
    monkeypatch.setattr("sys.argv", ["quality_table.py", str(tmp_path / "quality.json")])
    quality_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert "| | 100 | **equivariant splitting** | 2 | 25.50 ± 0.71 | 0.750 ± 0.000 | 8 |" in lines
    assert "| | 200 | **equivariant splitting** | 1 | 30.00 | 0.750 | 8 |" in lines
    assert "| | 100 | splitting, no group | 1 | 24.00 | 0.750 | 8 |" in lines
    changed = [line for line in lines if line.startswith("| ") and "dB" in line]
    assert changed == ["| **equivariant splitting** | no EMA | -0.25 dB (1) |", "| es, no EMA | D4 | +0.25 dB (1) |"], "no run of the whole recipe is as long as that of 300 steps"
    assert lines[-1] == "2026-01-01 to 2026-01-02; seeds 0, 1; abacus."
