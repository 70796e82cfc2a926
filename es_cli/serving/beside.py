"""What is written beside an image, so that somebody can decide whether to believe it: its error bar, its measured and its invented part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_cli.data import writers
from es_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from es_cli.examine import Examined
    from es_cli.reconstruct import Reconstructor
    from es_cli.serving.measured import Measured


@dataclass
class Beside:
    """What was asked for beside each image, and where it goes; `several`: there is more than one input.

    `uncertainty` is a file or a folder for error bars, `parts` a folder, None: not asked for. `consistent`: images are moved to agree with their
    measurements. Raises UsageError for what cannot be, before anything heavy is loaded.
    """

    uncertainty: Path | None = None
    parts: Path | None = None
    consistent: bool = False
    several: bool = False
    overwrite: bool = False
    _written: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.uncertainty is not None and not _is_folder(self.uncertainty):
            self._check(self.uncertainty)
        if self.parts is not None and self.parts.is_file():
            raise UsageError("parts need a folder, and this is a file", where=str(self.parts), hint="give --parts DIR")

    @property
    def asked(self) -> bool:
        """Whether images are looked at, and not made alone."""
        return self.uncertainty is not None or self.parts is not None or self.consistent

    def examine(self, model: Reconstructor, measured: Measured, params: Mapping[str, Any]) -> Examined:
        """The image of a measurement, and what was asked for beside it. Raises as `es_cli.examine.examine` does."""
        from es_cli.examine import examine

        return examine(
            model, measured.array, measured.where, params, error_bar=self.uncertainty is not None, parts=self.parts is not None, agree=self.consistent
        )

    def write(self, found: Examined, measured: Measured, target: Path | None, tell: Callable[[str], None]) -> None:
        """Write what belongs beside an image that goes to `target`, None: standard output. Raises UsageError where another file lies there, OutputError."""
        stem = "stdin" if target is None else target.name.removesuffix("".join(target.suffixes)) or target.name
        if self.uncertainty is not None and found.error_bar is not None:
            self._array(self.uncertainty / f"{stem}.std.npy" if _is_folder(self.uncertainty) else self.uncertainty, found.error_bar.values, measured)
            tell(f"error bar: {found.error_bar.in_words}")
        if self.parts is not None and found.parts is not None:
            folder = self.parts / stem if self.several or self.parts / "measured.npy" in self._written else self.parts
            self._array(folder / "measured.npy", found.parts.measured, measured)
            self._array(folder / "invented.npy", found.parts.invented, measured)
            found.draw_parts(self._claimed(folder / "parts.png"))

    def _array(self, path: Path, values: np.ndarray[Any, Any], measured: Measured) -> None:
        geometry = measured.geometry(values) if writers.suffix_of(path) in writers.GEOMETRIC else None
        writers.write_array(self._claimed(path), values, geometry)

    def _claimed(self, path: Path) -> Path:
        if path in self._written:
            raise UsageError("two images would write to this file", where=str(path), hint=f"give a folder, {path.with_suffix('')}/, or one input at a time")
        self._check(path)
        self._written.add(path)
        return path

    def _check(self, path: Path) -> None:
        if writers.suffix_of(path) not in writers.SUFFIXES:
            hint = f"es writes {', '.join(writers.SUFFIXES)}; a folder ends with /"
            raise UsageError(f"no writer for {path.suffix or 'a name without suffix'}", where=str(path), hint=hint)
        if path.exists() and not self.overwrite:
            raise UsageError("this output exists", where=str(path), hint="give another name, or --overwrite to replace it")


def in_pieces(where: str) -> DataError:
    """What is said of an image that is made in pieces: error bars, parts and identifiers are those of a whole image."""
    what = "error bars, parts, agreement and identifiers are those of images that are made whole, and this one is made in pieces"
    return DataError(what, where=where, hint="leave --uncertainty, --parts, --consistent and --keep-identifiers out, or raise --memory")


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix
