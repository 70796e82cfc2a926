from __future__ import annotations

import math

import pytest

from es_cli.errors import SpecError
from es_cli.spec.yaml_reader import read_yaml, scalar


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        read_yaml(text, "s.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5e3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x1f", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("tRue", "tRue"),
        (".inf", math.inf),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_stay_text() -> None:
    assert read_yaml("a: '1e-4'\nb: \"true\"\n", "s.yaml").value == {"a": "1e-4", "b": "true"}


def test_keys_are_text() -> None:
    assert read_yaml("no: 1\n2: x\n", "s.yaml").value == {"no": 1, "2": "x"}


def test_lines_of_keys_and_items() -> None:
    tree = read_yaml("# comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n", "s.yaml")
    assert tree.lines["a",] == 2
    assert tree.lines["a", "b"] == 3
    assert tree.lines["a", "c", 0] == 5
    assert tree.lines["a", "c", 1, "d"] == 6


def test_duplicate_keys_name_both_lines() -> None:
    assert refusal("a: 1\nb: 2\na: 3\n") == "s.yaml:3: the key 'a' stands twice (first on line 1); remove one of them"


def test_all_duplicate_keys_are_reported() -> None:
    assert [line.split(" ")[0] for line in refusal("a: 1\na: 2\nb: {c: 1, c: 2}\n").splitlines()] == ["s.yaml:2:", "s.yaml:3:"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!foo", "!!str", "!!binary"])
def test_tags_are_refused(tag: str) -> None:
    assert refusal(f"a: 1\nb: {tag} x\n").startswith(f"s.yaml:2: the tag {tag} is not allowed")


def test_aliases_are_expanded() -> None:
    assert read_yaml("a: &x {p: 1}\nb: *x\n", "s.yaml").value == {"a": {"p": 1}, "b": {"p": 1}}


def test_alias_bomb_is_refused() -> None:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
    assert "aliases expand to more than" in refusal(f"a0: &a0 [x, x, x, x, x, x, x, x, x]\n{levels}\n")


def test_recursive_alias_is_refused() -> None:
    assert refusal("a: &x\n  b: *x\n") == "s.yaml:1: an alias refers to the part that holds it; write the part out, without * aliases"


def test_unknown_alias() -> None:
    assert refusal("a: 1\nb: *x\n").startswith("s.yaml:2: found undefined alias")


def test_merge_keys_are_refused() -> None:
    assert refusal("a: &x {p: 1}\nb:\n  <<: *x\n").startswith("s.yaml:3: merge keys (<<) are not read")


def test_tabs() -> None:
    assert refusal("a:\n\tb: 1\n") == "s.yaml:2: a tab in the indentation; indent with spaces"


def test_depth_is_bounded() -> None:
    assert "nested more than" in refusal("a: " + "[" * 10_000)


def test_size_is_bounded() -> None:
    assert "a spec takes a few thousand" in refusal("a: " + "x" * (2 << 20))
    assert "more than" in refusal("a: [" + "1," * 100_000 + "]")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\n  b: 2\n", 2),
        ("a: 'x\n", 2),
        ("? [1]\n: 2\n", 1),
        ("a: \x07\n", 1),
    ],
)
def test_syntax_is_reported_in_one_line(text: str, line: int) -> None:
    message = refusal(text)
    assert message.startswith(f"s.yaml:{line}: ")
    assert "\n" not in message
    assert "; " in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('a: &a "' + "x" * 100_000 + '"\nb: [' + "*a, " * 100 + "]\n", "aliases expand to more than 1048576 characters"),
        ('a: "x\\0y"\n', "neither a name nor a file can hold"), ('a: "\\ud800"\n', "neither a name nor a file can hold"), ('"a\\0": 1\n', "no name holds"),
        ("a: \0\n", "cannot stand in YAML"), ("a: [" + "1, " * 30_000 + "]\n", "more than 20000 values"), ("- " * 3000, "nested more than 40 deep"),
        ("\n".join(f"k{i}: &a{i} 1" for i in range(30_000)), "more than 20000 values"), ("%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system x\n", "is not allowed"),
        ("a: !<tag:yaml.org,2002:python/name:os.system> x\n", "is not allowed"), ("---\n" * 100, "second YAML document"), ("? [a]\n: 1\n", "a key that is a list"),
    ],
)  # fmt: skip
def test_hostile_text(text: str, word: str) -> None:
    assert word in refusal(text)
