"""Runs → one page that needs nothing else, and the same numbers as JSON."""
