from __future__ import annotations

import sys

import turns


def test_each_way_is_taken_once_in_every_round():
    taken = []
    seconds = turns.in_turns({"a": lambda: taken.append("a"), "b": lambda: taken.append("b")}, rounds=2, warm_up=1)
    assert "".join(taken) == "ababab"
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_ratio_is_that_of_the_rounds_and_not_of_the_medians():
    found = turns.ratio([1.0, 4.0, 9.0], [1.0, 2.0, 9.0], at_most=1.05)
    assert (found["ratio"], found["low"], found["high"]) == (1.0, 1.0, 2.0)
    assert (found["seconds"], found["against"]) == (4.0, 2.0)
    assert found["rounds"] == 3
    assert found["at_most"] == 1.05


def test_the_command_names_no_folder_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", "/somewhere/tasks", "-o", "a file.json"])
    assert turns.command() == "python benchmarks/speed.py tasks -o 'a file.json'"
