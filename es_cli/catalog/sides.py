"""The two sides of equivariant splitting in a spec: which losses can stand there, with which noise, and their weights."""

from __future__ import annotations

from es_cli.catalog.entries import Found, find
from es_cli.spec.component import Component
from es_cli.spec.schema import Spec

EQUIVARIANT_SPLITTING = "EquivariantSplittingLoss"
MEASURED = "MCLoss"
SIDES = ("consistency_loss", "prediction_loss")
# a consistency loss that knows about noise: the noise models that it knows, and its own parameters that name them
NOISE_AWARE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "R2RLoss": (("GaussianNoise", "PoissonNoise", "GammaNoise"), ("noise_model",)),
    "SureGaussianLoss": (("GaussianNoise",), ("sigma",)),
    "SurePoissonLoss": (("PoissonNoise",), ("gain",)),
    "SurePGLoss": (("PoissonGaussianNoise",), ("sigma", "gain")),
}


def side_of(part: Component, side: str) -> tuple[Component | None, float]:
    """The loss on one side of equivariant splitting and its weight; MCLoss where the spec is silent, None where it says null."""
    given = part.parameters.get(side, Component(name=MEASURED))
    if not isinstance(given, Component):
        return (None, 1.0) if given is None else (Component(name=str(given)), 1.0)
    rest = {name: value for name, value in given.parameters.items() if name != "weight"}
    return Component(name=given.name, parameters=rest), given.parameters.get("weight", 1.0)


def without_weights(part: Component) -> Component:
    """The loss with the weights taken out of its sides, which no class knows."""
    sides = {side: side_of(part, side)[0] for side in SIDES if side in part.parameters}
    return Component(name=part.name, parameters={**part.parameters, **sides})


def check_sides(spec: Spec) -> Found:
    """(path, what, hint) of what cannot stand on a side of equivariant splitting."""
    found: Found = []
    for i, term in enumerate(spec.losses):
        if term.loss.name != EQUIVARIANT_SPLITTING:
            continue
        path = f"losses.{i}"
        (consistency, _), (prediction, _) = (side_of(term.loss, side) for side in SIDES)
        if consistency is None and prediction is None:
            found.append((path, "both sides of the loss are switched off", "leave prediction_loss out"))
        if prediction is not None and _other_loss(prediction):
            what = f"{prediction.name} cannot be the prediction loss: what it is compared with was not fed to the network, so that its noise is independent"
            found.append((f"{path}.prediction_loss", what, "use MCLoss with any metric, or null"))
        found += [(f"{path}.{at}", f"wanted a weight of 0 or more, got {weight}", "such as weight: 0.5") for at, weight in _bad_weights(term.loss)]
        if consistency is not None and _other_loss(consistency):
            found += _check_noise_aware(consistency, f"{path}.consistency_loss", spec.physics)
    return found


def _other_loss(part: Component) -> bool:
    """Whether a side is a loss of the catalogue other than the one of noiseless measurements; an unknown name is reported as such already."""
    return part.name != MEASURED and find(part.name, ("loss",)) is not None


def _bad_weights(part: Component) -> list[tuple[str, object]]:
    weights = [(f"{side}.weight", side_of(part, side)[1]) for side in SIDES]
    return [(at, w) for at, w in weights if isinstance(w, bool) or not isinstance(w, (int, float)) or not w >= 0]


def _check_noise_aware(part: Component, path: str, physics: Component) -> Found:
    if part.name not in NOISE_AWARE:
        what = f"{part.name} cannot judge the part of a measurement that a split gives to the network"
        return [(path, what, f"use MCLoss, {', '.join(NOISE_AWARE)} or null here; {part.name} may be a loss of its own")]
    known, parameters = NOISE_AWARE[part.name]
    if part.parameters.get("B") is not None:
        return [(f"{path}.B", "a metric of the image cannot be masked by a split", "leave B out")]
    own = [part.parameters.get(name) for name in parameters]
    noise = next((value for value in (*own, physics.parameters.get("noise_model")) if isinstance(value, Component)), None)
    if noise is not None and noise.name not in known and not all(value is not None for value in own):
        return [(path, f"{part.name} does not know {noise.name}", f"it knows {' and '.join(known)}")]
    if noise is None and not all(value is not None for value in own):
        return [(path, f"{part.name} needs to know the noise", f"add noise_model: {{name: {known[0]}, …}} to physics")]
    return []
