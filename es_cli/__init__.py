"""Self-supervised image reconstruction by equivariant splitting, from the command line."""

__version__ = "0.1.0"
