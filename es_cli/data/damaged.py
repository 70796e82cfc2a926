"""Samples that cannot be read any more while a network trains: the end of the run, or left out, each said once by its name."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from es_cli.data.measurements import Measurements
from es_cli.errors import DataError

TRIED = 1000  # samples, in place of one that is damaged


class Samples:
    """The samples of a data set. With `skip` the place of a damaged one is taken by the next one of its shape that can be read, wherever it comes.

    `bad` are the positions of those that are known to be damaged; `news` says what is to be told about new ones.
    """

    def __init__(self, data: Measurements, skip: bool, bad: Iterable[int] = ()) -> None:
        self.data, self.skip, self.bad = data, skip, set(bad)
        self.shapes = data.shapes
        self.news: deque[str] = deque()

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, positions: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The samples at `positions`, as `Measurements.batch`. Raises DataError with the name of the file, with `skip` only where too few can be read."""
        try:
            return self._read([self._instead(position) if position in self.bad else position for position in positions], device)
        except DataError:
            if not self.skip:
                raise
        return self._read([self._instead(position) for position in positions], device)

    def _instead(self, position: int) -> int:
        """`position`, or where its sample is damaged that of the next one that is not."""
        count, shapes = len(self.data), self.shapes
        first: DataError | None = None
        for other in ((position + i) % count for i in range(min(count, TRIED))):
            if shapes is not None and shapes[other] != shapes[position]:
                continue
            if other not in self.bad:
                try:
                    self._read([other], "cpu")
                    return other
                except DataError as error:
                    first = first or error
                    self.bad.add(other)
                    self.news.append(f"{error.fault.where}: {error.fault.what}; the sample is left out, and others take its place")
        raise DataError("too few samples can be read", where=self.data.names([position])[0], hint="look at the files of data.train and data.validation") from first

    def _read(self, positions: Sequence[int], device: torch.device | str) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        try:
            return self.data.batch(positions, device)
        except OSError as error:
            names = self.data.names(positions)
            where = str(error.filename or names[0] + (f" to {names[-1]}" if len(names) > 1 else ""))
            raise DataError(f"cannot be read any more: {error.strerror or error}", where=where, hint="bring the file back") from error
