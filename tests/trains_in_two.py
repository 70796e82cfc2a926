"""What each of two processes does for test_processes.py, started by torchrun: it trains all cases one after the other, as `es train` would."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")  # as the command line does

from deepinv.models import UNet  # noqa: E402

from es_cli.catalog import load_spec  # noqa: E402
from es_cli.training import several  # noqa: E402
from es_cli.training.changes import reopen  # noqa: E402
from es_cli.training.events import Note  # noqa: E402
from es_cli.training.folder import claim  # noqa: E402
from es_cli.training.launching import Others, find_place  # noqa: E402
from es_cli.training.run import Interrupted, resume, train  # noqa: E402
from es_cli.training.saving import StateFiles  # noqa: E402
from es_cli.training.state import read_snapshot  # noqa: E402
from es_cli.training.stopping import Rests  # noqa: E402

R2R = "losses=[{name: EquivariantSplittingLoss, consistency_loss: {name: R2RLoss, alpha: 0.15}}]"
CASES = {
    "complementary": ["training.splits=complementary"],
    "uneven": ["training.splits=random", "training.batch_size=5"],
    "noisy": [R2R, "physics.noise_model={name: GaussianNoise, sigma: 0.05}"],
    "overlapping": ["training.splits=random"],
    "small": [],
    "cut": [],
}


class Session:
    """The cases, in the folder of their spec; process 1 writes nothing, and says what it would have."""

    def __init__(self, folder: Path) -> None:
        place = find_place(None, None, os.environ)
        assert place is not None
        self.folder, self.number, self.written = folder, place.number, list[str]()
        sys.addaudithook(self._look)
        self.together = several.join(place, "cpu", Others())

    def run(self) -> None:
        for name, changes in CASES.items():
            several.OVERLAPPING = ("cpu",) if name == "overlapping" else ()
            forward, due, write = UNet.forward, Rests.due, StateFiles.write
            if self.number == 1 and name == "small":
                UNet.forward = room_for_one(forward)
            if self.number == 1 and name == "cut":
                Rests.due = asked_to_end(due)
            if self.number == 0 and name == "cut":
                StateFiles.write = slow(write)
            self._train(name, changes)
            UNet.forward, Rests.due, StateFiles.write = forward, due, write
        resume(reopen(self.folder / "alone-cut", ours=self.number == 0), device="cpu", processes=self.together)
        written = [path for path in self.written if str(self.folder) in path]
        (self.folder / f"written-by-{self.number}.txt").write_text("\n".join(written))
        self.together.leave()

    def _train(self, name: str, changes: list[str]) -> None:
        spec, said = load_spec(self.folder / "spec.yaml", changes), list[str]()
        folder = claim(spec, self.folder / f"two-{name}") if self.number == 0 else None
        try:
            train(spec, folder, device="cpu", processes=self.together, on_event=lambda event: said.append(event.text) if isinstance(event, Note) else None)
        except Interrupted as stop:
            assert name == "cut" and stop.signal == signal.SIGTERM
            # whoever leaves before the state is written has its launcher kill the process that writes
            assert read_snapshot(self.folder / "two-cut" / "state" / "state.safetensors").step == 2
        if self.number == 0:
            (self.folder / f"said-{name}.txt").write_text("\n".join(said))

    def _look(self, event: str, given: Any) -> None:
        if event in {"os.rename", "os.mkdir", "os.remove"} or (event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)):
            self.written.append(str(given[0]))


def room_for_one(forward: Any) -> Any:
    """A network that has room for one image, as an allocator would say it."""

    def limited(network: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if len(x) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(network, x, *args, **kwargs)

    return limited


def slow(write: Any) -> Any:
    """A disk that takes its time."""

    def later(*given: Any) -> None:
        time.sleep(0.5)
        write(*given)

    return later


def asked_to_end(due: Any) -> Any:
    """A signal comes before the second look at the clock."""
    looked: list[int] = []

    def at_second(rests: Rests) -> bool:
        looked.append(len(looked))
        if len(looked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return bool(due(rests))

    return at_second


if __name__ == "__main__":
    Session(Path(sys.argv[1])).run()
