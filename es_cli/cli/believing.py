"""What `es reconstruct` writes beside an image, so that somebody can decide whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_cli.cli.console import complain
from es_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from es_cli.reconstruct import Reconstructor

Uncertainty = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write the standard deviation of each pixel over the passes of the test rule, at no further network call, calibrated on held-out "
        "measurements. Real, of the image's shape. A folder (DIR/) takes one for each image.",
        show_default=False,
    ),
]

PartsFolder = Annotated[
    Path | None,
    typer.Option(
        "--parts",
        metavar="DIR",
        help="Also write what the measurements tell of the image, measured.npy, what they cannot, invented.npy (their sum is the image), and parts.png. "
        "With several inputs DIR holds a folder for each.",
        show_default=False,
    ),
]
Consistent = Annotated[
    bool,
    typer.Option("--consistent", help="Move the image to the nearest one that agrees with the measurements to the level of their noise, which the checkpoint's operator says."),
]


@dataclass
class Beside:
    """What was asked for beside each image, and where it goes; `several`: there are more inputs than one.

    Raises UsageError for what cannot be, before anything heavy is loaded.
    """

    uncertainty: Path | None = None
    parts: Path | None = None
    consistent: bool = False
    several: bool = False
    overwrite: bool = False
    quiet: bool = False
    _written: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.uncertainty is not None and not _is_folder(self.uncertainty):
            self._check(self.uncertainty)
        if self.parts is not None and self.parts.is_file():
            raise UsageError("parts need a folder, and this is a file", where=str(self.parts), hint="give --parts DIR")

    def image(
        self, model: Reconstructor, y: np.ndarray[Any, Any], where: str, params: dict[str, Any], target: Path | None, origin: tuple[str, str | None]
    ) -> np.ndarray[Any, Any]:
        """The image of y, after what belongs beside it is written; `target` is where the image goes, None: standard output.

        `origin` is the file of y and the key in it, whose geometry is the image's where the shapes are equal.
        """
        if self.uncertainty is None and self.parts is None and not self.consistent:
            return model.reconstruct(y, where, params)
        from es_cli.examine import examine

        found = examine(model, y, where, params, error_bar=self.uncertainty is not None, parts=self.parts is not None, agree=self.consistent)
        stem = "stdin" if target is None else target.name.removesuffix("".join(target.suffixes)) or target.name
        if self.uncertainty is not None and found.error_bar is not None:
            place = self.uncertainty / f"{stem}.std.npy" if _is_folder(self.uncertainty) else self.uncertainty
            self._write(place, found.error_bar.values, y.shape, origin)
            if not self.quiet:
                complain(f"error bar: {found.error_bar.in_words}", "note: ")
        if self.parts is not None and found.parts is not None:
            folder = self.parts / stem if self.several or self.parts / "measured.npy" in self._written else self.parts
            for name in ("measured", "invented"):
                self._write(folder / f"{name}.npy", getattr(found.parts, name), y.shape, origin)
            found.draw_parts(self._claimed(folder / "parts.png"))
        return found.image

    def _write(self, path: Path, values: np.ndarray[Any, Any], shape: tuple[int, ...], origin: tuple[str, str | None]) -> None:
        from es_cli.data import readers, writers

        source, key = origin
        kept = source != "-" and values.shape == shape and writers.suffix_of(path) in writers.GEOMETRIC
        writers.write_array(self._claimed(path), values, readers.read_geometry(Path(source), key) if kept else None)

    def _claimed(self, path: Path) -> Path:
        if path in self._written:
            raise UsageError("two images would write to this file", where=str(path), hint=f"give a folder, {path.with_suffix('')}/, or one input at a time")
        self._check(path)
        self._written.add(path)
        return path

    def _check(self, path: Path) -> None:
        from es_cli.data.writers import SUFFIXES, suffix_of

        if suffix_of(path) not in SUFFIXES:
            raise UsageError(f"no writer for {path.suffix or 'a name without suffix'}", where=str(path), hint=f"es writes {', '.join(SUFFIXES)}; a folder ends with /")
        if path.exists() and not self.overwrite:
            raise UsageError("this output exists", where=str(path), hint="give another name, or --overwrite to replace it")


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix
