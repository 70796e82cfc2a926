"""What several tests of runs need."""

from __future__ import annotations

from concurrent.futures import wait

import pytest

from es_cli.training.saving import Saver


@pytest.fixture
def saved_at_once(monkeypatch):
    """Training waits until its thread has written what it was told to write, so that how fast a disk is makes no difference to what a test sees."""
    flush = Saver.flush

    def flush_and_wait(saver):
        flush(saver)
        if saver._under_way is not None:
            wait([saver._under_way])

    monkeypatch.setattr(Saver, "flush", flush_and_wait)
