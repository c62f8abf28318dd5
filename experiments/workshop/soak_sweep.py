"""Workers and drivers of a sweep, killed at random moments: nothing is lost, nothing done twice.

Drivers with two processes are started on one folder until `--kills` SIGKILLs have been dealt, each
to a worker or to the driver, and the last one runs to its end. Before half of the kills a unit is
waited for, since processes that are killed as they start never come to store one. Then every unit
has to be there, with the bytes of a sweep that nobody disturbed, and no unit that was stored may
have been written again. The exit code is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SPEC = """
models: [facts-gpt2]
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
units:
  - {verb: lens, relation: each, n-pairs: 2}
"""
WORKERS, DRIVERS, AT_WORK = 2, 0.2, 0.5
"""Processes, the share of kills that hit the driver, and of those that wait for a unit."""
START = "from knowledge_circuits.command import main; raise SystemExit(main())"


def main() -> int:
    """The run; 1 where something was lost or done again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as held:
        place = Path(held)
        (place / "spec.yaml").write_text(SPEC, encoding="utf-8")
        _driver(place, "whole").wait()
        whole = _units(place / "whole")
        first: dict[str, tuple[int, int]] = {}
        rewritten: set[str] = set()
        kills = starts = drivers = at_work = 0
        while kills < given.kills and (not first or len(first) < len(whole)):
            starts += 1
            driver = _driver(place, "killed")
            while driver.poll() is None and len(_children(driver.pid)) < WORKERS + 1:
                time.sleep(0.2)
            while driver.poll() is None and kills < given.kills:
                before, waits = len(first), chance.random() < AT_WORK
                rewritten |= _seen(place / "killed", first)
                while waits and driver.poll() is None and len(first) == before:
                    time.sleep(0.2)
                    rewritten |= _seen(place / "killed", first)
                at_work += len(first) > before
                time.sleep(chance.uniform(0.0, 2.0 if waits else 6.0))
                rewritten |= _seen(place / "killed", first)
                if driver.poll() is not None:  # its number may be another process's by now
                    break
                workers = _children(driver.pid)
                is_driver = not workers or chance.random() < DRIVERS
                victim = driver.pid if is_driver else chance.choice(workers)
                with contextlib.suppress(OSError):
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                if is_driver:
                    drivers += 1
                    break
            if kills >= given.kills:
                break
            driver.wait()
            # A driver that finds all units stored may be gone before it was looked at.
            rewritten |= _seen(place / "killed", first)
        _driver(place, "killed").wait()
        rewritten |= _seen(place / "killed", first)
        left = _units(place / "killed")
    lost = [name for name in whole if name not in left]
    other = [name for name in left if left[name] != whole.get(name)]
    print(
        f"{len(whole)} units, {kills} kills, {drivers} of them of drivers, {at_work} after a unit "
        f"was stored, {starts} starts: {len(lost)} lost, {len(other)} with other bytes, "
        f"{len(rewritten)} done again"
    )
    return 1 if lost or other or rewritten else 0


def _driver(place: Path, name: str) -> subprocess.Popen[bytes]:
    words = ["sweep", str(place / "spec.yaml"), "--out", str(place / name), "--threads", "1"]
    words += ["--executor", "process", "--workers", str(WORKERS)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-c", START, *words], cwd=ROOT, stderr=quiet, stdout=quiet
    )


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:
        return []
    return [int(word) for word in found.split()]


def _units(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "units").glob("*/*.safetensors")}


def _seen(folder: Path, first: dict[str, tuple[int, int]]) -> set[str]:
    """Units that have been written again since they were first seen."""
    again = set()
    for path in (folder / "units").glob("*/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            mark = (state.st_ino, state.st_mtime_ns)
            if first.setdefault(path.name, mark) != mark:
                again.add(path.name)
    return again


if __name__ == "__main__":
    sys.exit(main())
