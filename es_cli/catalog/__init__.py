"""The classes that a spec may name, what they take, and the check of a spec against them. Importing this imports neither torch nor deepinv."""

from es_cli.catalog.checking import check, weight_files
from es_cli.catalog.entries import CONTEXT_PARAMETERS, KINDS, Entry, Parameter, entries, find, load_class, suggest
from es_cli.catalog.loading import check_spec, load_spec, parts_of, resolve, with_fresh_weights, without_weight_files

__all__ = [
    "CONTEXT_PARAMETERS",
    "KINDS",
    "Entry",
    "Parameter",
    "check",
    "check_spec",
    "entries",
    "find",
    "load_class",
    "load_spec",
    "parts_of",
    "resolve",
    "suggest",
    "weight_files",
    "with_fresh_weights",
    "without_weight_files",
]
