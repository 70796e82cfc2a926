"""The classes that a spec may name, what they take, and the check of a spec against them. Importing this imports neither torch nor deepinv."""

from es_cli.catalog.checking import check, weight_files
from es_cli.catalog.consistency import LEVELS, pairs
from es_cli.catalog.entries import CONTEXT_PARAMETERS, KINDS, Entry, Parameter, entries, find, load_class, registered_entries, suggest
from es_cli.catalog.loading import check_spec, load_spec, parts_of, resolve, with_fresh_weights, without_weight_files
from es_cli.catalog.parameters import OF_PHYSICS, check_parameters, described, left_to_samples, operator_parameters, wanted
from es_cli.catalog.sides import EQUIVARIANT_SPLITTING, side_of

__all__ = [
    "CONTEXT_PARAMETERS",
    "EQUIVARIANT_SPLITTING",
    "KINDS",
    "LEVELS",
    "OF_PHYSICS",
    "Entry",
    "Parameter",
    "check",
    "check_parameters",
    "check_spec",
    "described",
    "entries",
    "find",
    "left_to_samples",
    "load_class",
    "load_spec",
    "operator_parameters",
    "pairs",
    "parts_of",
    "registered_entries",
    "resolve",
    "side_of",
    "suggest",
    "wanted",
    "weight_files",
    "with_fresh_weights",
    "without_weight_files",
]
