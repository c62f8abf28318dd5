"""What the fuzzers share: a seed from outside (`FUZZ_SEED`), and a count of what was tried."""

from __future__ import annotations

import os
import random
from pathlib import Path


def chance(name: object) -> random.Random:
    """Draws of a test; the same at every run, unless `FUZZ_SEED` says otherwise."""
    return random.Random(f"{os.environ.get('FUZZ_SEED', '')}{name}")


def tried(count: int) -> None:
    """Tell how many cases there were, in the file `FUZZ_COUNTS`, where there is one."""
    if path := os.environ.get("FUZZ_COUNTS"):
        with Path(path).open("a") as file:
            file.write(f"{count}\n")
