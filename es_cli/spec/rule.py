"""A test rule on one line: `splits=10,group=random,samples=1` is the section `test` of a spec, and so are a few names."""

from __future__ import annotations

import re
from typing import Any

from es_cli.errors import Fault, SpecError
from es_cli.spec.document import PLACEHOLDERS, from_dict
from es_cli.spec.schema import Test

# names for what is asked for most: the whole group on the full measurement, one network call, and ten splits with one random element each
NAMED: dict[str, dict[str, Any]] = {
    "full": {"group": "full"},
    "one": {"group": "trivial"},
    "paper": {"splits": 10, "group": "random", "samples": 1},
}
FORM = f"write splits=10,group=random,samples=1, or {', '.join(NAMED)}"


def read_rule(text: str, where: str = "--test-rule") -> Test:
    """The section that `text` stands for, a name or KEY=VALUE,KEY=VALUE,…; keys that are left out are at their defaults.

    Raises SpecError with all faults, each below `where`.
    """
    if text.strip() in NAMED:
        return Test(**NAMED[text.strip()])
    given: dict[str, Any] = {}
    faults = []
    for item in text.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if not key or not value:
            faults.append(Fault(f"'{item.strip()}' is not KEY=VALUE", where, FORM))
        elif key in given:
            faults.append(Fault(f"{key} is given twice", where, "leave one of them out"))
        else:
            given[key] = int(value) if re.fullmatch(r"[+-]?\d{1,9}", value) else value
    if faults:
        raise SpecError(faults)
    return from_dict({**PLACEHOLDERS, "test": given}, where).test


def rule_in_words(rule: Test) -> str:
    """What `read_rule` reads back; a list of transforms by its names."""
    transforms = f"[{', '.join(part.name for part in rule.group)}]" if isinstance(rule.group, tuple) else rule.group
    samples = rule.samples if rule.group in ("random", "full") else None
    values: dict[str, Any] = {"splits": rule.splits or "none", "folds": rule.folds, "group": transforms, "samples": samples}
    return ",".join(f"{key}={value}" for key, value in values.items() if value is not None)
