"""The test rule of a spec: which splits and which elements of the group images are averaged over."""

from __future__ import annotations

from collections.abc import Sequence

from es_cli.building.forward_operator import Operator
from es_cli.building.mask_generator import count_folds
from es_cli.building.parts import Builder
from es_cli.spec.schema import Component, Spec
from es_cli.splitting.averaging import TestRule
from es_cli.splitting.group import IDENTITY, Element, Group
from es_cli.splitting.masks import Splitter
from es_cli.splitting.transforms import TransformGroup, transform_group
from es_cli.streams import stream_seed


def build_test_rule(spec: Spec, operator: Operator, group: Group, splitter: Splitter | None, repeats: int) -> TestRule:
    """`test` of a spec, for a training `group`; `splitter` is None where it asks for no splits, `repeats` how often each pair is taken.

    Raises SpecError where the splits make no partition and complementary ones are asked for, or a transform does not fit the images.
    """
    test = spec.test
    draws = test.samples if test.group == "random" else None
    elements = _elements(spec, operator, group)
    if test.splits == "complementary":
        assert splitter is not None  # it asks for splits
        return TestRule(count_folds(splitter, operator, test.folds, "test"), elements, draws, repeats, complementary=True)
    return TestRule(test.splits, elements, draws, repeats)


def _elements(spec: Spec, operator: Operator, group: Group) -> tuple[Element, ...]:
    test = spec.test
    if isinstance(test.group, tuple):
        return tuple(build_transform_group(test.group, "test.group", operator, spec.seed).elements())
    if test.group == "full":
        return tuple(group.representatives(test.samples, stream_seed(spec.seed, "test-group")))
    return (IDENTITY,)  # trivial; random elements are drawn for each split; load_spec leaves no None


def build_transform_group(parts: Sequence[Component], path: str, operator: Operator, seed: int) -> TransformGroup:
    """The product of the transforms that a spec lists at `path`. Raises SpecError where one does not map the images to themselves."""
    paths = [f"{path}.{i}" for i in range(len(parts))]
    built = [Builder(seed=seed).build(part, at, "transform")[0] for part, at in zip(parts, paths, strict=True)]
    return transform_group(built, operator.image.shape, paths, operator.sizes)
