"""A spec and its data → live objects, by catalogue name only: operator, splits, losses, operator parameters of samples."""
