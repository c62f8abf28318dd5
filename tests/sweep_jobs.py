"""Jobs that processes can take up, which do to them what jobs do in bad hours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from circuits.base.errors import PromptError, StoreError
from circuits.base.writing import atomic_write
from experiments.executors.base import Job, Workplace

ROOT = Path(__file__).parent.parent


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


@dataclass(frozen=True)
class Loading(Job):
    """Loads a model, edits it, and tells of its weights and of the file they are in."""

    folder: Path
    number: int
    model: str

    @property
    def label(self) -> str:
        """Its number."""
        return str(self.number)

    def run(self, place: Workplace) -> None:
        """Do it."""
        model = place.model(self.model, "cpu", "fp32")
        name = model.parameter_names[0]
        before = model.parameter(name).clone()
        model.set_parameter(name, before + self.number + 1)
        time.sleep(1)  # while the other process does the same
        held = bool((model.parameter(name) == before + self.number + 1).all())
        model.set_parameter(name, before)
        maps = Path("/proc/self/maps").read_text().splitlines()
        files = {line.split()[-1] for line in maps if ".weights" in line}
        said = (str(os.getpid()), str(held), model.provenance["weights_sha256"], *sorted(files))
        atomic_write(self.folder / str(self.number), " ".join(said))


def alone(code: str) -> None:
    """Run it in another Python, which must end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
