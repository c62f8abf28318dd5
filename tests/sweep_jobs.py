"""Jobs that processes can take up, which do to them what jobs do in bad hours."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from circuits.base.errors import PromptError, StoreError
from circuits.base.writing import atomic_write
from experiments.executors.base import Job, Workplace


@dataclass(frozen=True)
class Writing(Job):
    """Writes its number; `does` says what happens on the way."""

    folder: Path
    number: int
    does: str = ""

    @property
    def label(self) -> str:
        """Its number."""
        return str(self.number)

    def run(self, place: Workplace) -> None:
        """Do it."""
        tried = self.folder / f"{self.number}.tried"
        tries = len(tried.read_text()) if tried.exists() else 0
        tried.write_text("x" * (tries + 1))
        if self.does == "dies" or (self.does == "dies once" and not tries):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "refuses":
            raise PromptError("nothing to be asked")
        if self.does == "errs":
            raise ZeroDivisionError("of its own")
        if self.does == "full":
            raise StoreError("no space left")
        if self.does == "waits a little":
            time.sleep(2)
        if self.does == "waits":
            time.sleep(60)
        made = place.once("made", lambda: os.getpid())
        atomic_write(self.folder / str(self.number), str(made))
