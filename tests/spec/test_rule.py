from __future__ import annotations

import pytest

from es_cli.errors import SpecError
from es_cli.spec.document import PLACEHOLDERS, from_dict
from es_cli.spec.rule import read_rule, rule_in_words

WRITTEN = [
    ("full", {"group": "full"}), ("one", {"group": "trivial"}), ("paper", {"splits": 10, "group": "random", "samples": 1}),
    ("splits=4", {"splits": 4}), (" splits = none , group = full,samples=16 ", {"splits": "none", "group": "full", "samples": 16}),
    ("splits=complementary,folds=5,group=random,samples=1", {"splits": "complementary", "folds": 5, "group": "random", "samples": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "section"), WRITTEN)
def test_a_rule_on_one_line_is_the_section_of_a_spec(text, section):
    assert read_rule(text) == from_dict({**PLACEHOLDERS, "test": section}).test


@pytest.mark.parametrize("text", ["full", "one", "paper", "splits=3,group=trivial", "splits=complementary,folds=4,group=full,samples=2", "splits=2"])
def test_words_are_read_back_as_the_same_rule(text):
    assert read_rule(rule_in_words(read_rule(text))) == read_rule(text)


def test_a_list_of_transforms_is_told_by_names():
    rule = from_dict({**PLACEHOLDERS, "test": {"group": ["Rotate", {"name": "Reflect", "dim": [-1]}]}}).test
    assert rule_in_words(rule) == "splits=none,group=[Rotate, Reflect]"


@pytest.mark.parametrize(("text", "faults"), [
    ("papers", ["--test-rule: 'papers' is not KEY=VALUE; write splits=10,group=random,samples=1, or full, one, paper"]),
    ("split=3,samples=0", ["--test-rule: test.split: unknown key; did you mean splits?", "--test-rule: test.samples: must be more than 0, got 0"]),
    ("splits=-2", ["--test-rule: test.splits: must be more than 0, got -2"]), ("group=Rotate", ["--test-rule: test.group: must be full, random, trivial"]),
    ("splits=2,splits=3,group=", ["--test-rule: splits is given twice", "--test-rule: 'group=' is not KEY=VALUE"]),
    ("folds=3", ["--test-rule: test: folds only goes with splits: complementary"]),
], ids=str)  # fmt: skip
def test_all_that_is_wrong_with_a_rule_is_said_at_the_flag(text, faults):
    with pytest.raises(SpecError) as refused:
        read_rule(text)
    said = sorted(str(fault) for fault in refused.value.faults)
    assert len(said) == len(faults) and all(one.startswith(start) for one, start in zip(said, sorted(faults), strict=True))
