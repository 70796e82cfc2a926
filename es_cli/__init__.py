"""Self-supervised image reconstruction by equivariant splitting, from the command line, and from Python: `es_cli.load(path)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_cli.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `Model`, when they are asked for: importing es_cli alone loads neither torch nor deepinv."""
    if name not in ("Model", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from es_cli import model

    return getattr(model, name)
