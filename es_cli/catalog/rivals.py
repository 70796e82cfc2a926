"""Rivals of equivariant splitting on the same data: what of a spec is another method, as overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence

from es_cli.catalog.sides import EQUIVARIANT_SPLITTING, MEASURED
from es_cli.errors import Fault, SpecError, UsageError
from es_cli.spec.component import Component, plain
from es_cli.spec.schema import Spec

RIVALS = {
    "es": "equivariant splitting",
    "splitting": "splitting, no group",
    "ei": "equivariant imaging",
    "mc": "consistency only",
    "supervised": "supervised",
}
WHOLE = ("mask_generator=null", "training.splits=random", "training.folds=null")  # nothing is split
NO_GROUP = "transforms={group: trivial}"


def rival_overrides(spec: Spec, method: str) -> list[str]:
    """The `a.b=value` overrides that make another method of a spec of equivariant splitting; all else stays as it is.

    Its consistency term stays too, as that of equivariant imaging and of consistency alone. Raises SpecError where the spec is none of
    equivariant splitting, or has no images to supervise with.
    """
    own = next((term.loss for term in spec.losses if term.loss.name == EQUIVARIANT_SPLITTING), None)
    if own is None:
        raise SpecError([Fault(f"rivals are those of {EQUIVARIANT_SPLITTING}, which this spec does not name", "losses", f"name {EQUIVARIANT_SPLITTING}")])
    consistency = own.parameters.get("consistency_loss") or Component(name=MEASURED)
    alone = json.dumps(plain(consistency))
    if method == "supervised" and (spec.data is None or spec.data.train.images is None):
        raise SpecError([Fault("supervised training needs images, and data.train has none", "data.train.images", "add them, or leave supervised out")])
    return {
        "es": [],
        "splitting": [NO_GROUP],
        "ei": [f"losses=[{alone}, EILoss]", *WHOLE, "test={group: trivial}"],
        "mc": [f"losses=[{alone}]", *WHOLE, NO_GROUP],
        "supervised": ["losses=[SupLoss]", *WHOLE, NO_GROUP],
    }[method]


def read_rivals(text: str) -> list[str]:
    """`es,ei,splitting` → the methods named, each once. Raises UsageError for one that there is not."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in named if name not in RIVALS]
    if wrong or not named:
        what = f"no method is called {wrong[0]!r}" if wrong else "no method is named"
        raise UsageError(what, where="--losses", hint=f"choose of {', '.join(RIVALS)}")
    return list(dict.fromkeys(named))


def named_run(spec: Spec, method: str, steps: int | None) -> Sequence[str]:
    """Overrides that every method of a comparison gets: a name of its own, and equal steps where they are given."""
    return [f"name={spec.name}-{method}", *([] if steps is None else [f"training.steps={steps}", "training.epochs=null"])]
