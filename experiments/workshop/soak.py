"""A long run of what is to break the tool: `make soak`, or with `--seconds` and `--seed`.

1. The fuzzers of the tests (files, model folders, command lines), each round with another seed.
2. Commands that write are killed (SIGKILL) and interrupted (SIGINT) at random moments. Afterwards
   the user's own file is there, the folder is the old or the new one, and the same command, run
   again, ends in the new one with nothing half written left beside it.

Every command is a fork of this process, so that a kill costs a second and not the imports; its
clocks stand still, so that two whole runs write the same bytes. Prints each finding when it is made
and at the end what was tried; the exit code is 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from circuits.model.model import load
from experiments.cli.main import main as kc

ROOT = Path(__file__).parent.parent.parent
FUZZERS = ("files", "models", "cli")
MODEL = ("--model", "facts-gpt2", "--device", "cpu")
MINE = "notes.txt"
"""A file of the user's, in every folder that is written to."""
INTERRUPTED = 130
SHARE = 0.5
"""Of the time, for the fuzzers; the rest is for kills and interrupts."""

Files = dict[str, str]


@dataclass(frozen=True)
class Command:
    """What is killed; with `resumes` it keeps finished parts, so a killed run leaves some."""

    name: str
    words: tuple[str, ...]
    resumes: bool = False

    def with_seed(self, seed: int, folder: Path) -> list[str]:
        """Its arguments; another seed is another result."""
        words = [word.replace("FOLDER", str(folder)) for word in self.words]
        return [*words, *MODEL, "--seed", str(seed), "--out", str(folder / "out")]


EDIT = (
    *("edit", "--prompt", "The capital of {} is", "--subject", "France", "--target", "Rome"),
    *("--method", "rome", "--layers", "3", "--moments", "identity", "--fluency", "0"),
)
SHORT = ("--n-pairs", "4", "--resamples", "20", "--relation")
SETTINGS = ("relations=country_capital,verb_past", "pairs=4", "resamples=0")
COMMANDS = (
    Command("discover", ("discover", *SHORT, "country_capital")),
    Command("edit", EDIT),
    Command("edit --save-model", (*EDIT, "--save-model", "FOLDER/model")),
    Command("run", ("run", "circuits", *(w for s in SETTINGS for w in ("--set", s))), True),
)


class Soak:
    """What was tried, what was found."""

    def __init__(self, seed: int, place: Path) -> None:
        self.random, self.place = random.Random(seed), place
        self.tried: Counter[str] = Counter()
        self.found: list[str] = []

    def finding(self, text: str) -> None:
        """Tell and keep what should not be."""
        print(f"FOUND {text}", flush=True)
        self.found.append(text)

    # --- fuzzers ---------------------------------------------------------------------------------

    def fuzz(self, until: float) -> None:
        """Rounds of the tests' fuzzers until the time is up; one at least."""
        while True:
            for name in FUZZERS:
                seed, counts = str(self.random.randrange(10**9)), self.place / "counts"
                counts.write_text("")
                test = f"tests/test_fuzz_{name}.py"
                done = subprocess.run(
                    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
                    cwd=ROOT,
                    env={**os.environ, "FUZZ_SEED": seed, "FUZZ_COUNTS": str(counts)},
                    capture_output=True,
                    text=True,
                )
                self.tried[f"fuzzed {name}"] += sum(map(int, counts.read_text().split()))
                if done.returncode:
                    last = [line for line in done.stdout.splitlines() if line.startswith("E ")]
                    self.finding(f"FUZZ_SEED={seed} pytest {test}: {' / '.join(last[:5])}")
                if time.monotonic() > until:
                    return

    # --- kills -----------------------------------------------------------------------------------

    def kill(self, until: float) -> None:
        """Kills and interrupts of every command until the time is up; one round at least."""
        load("facts-gpt2", device="cpu")  # libraries and files are warm when children are timed
        known = [(command, *self._whole(command)) for command in COMMANDS]
        while True:
            for command, old, new, seconds in known:
                for number in (signal.SIGKILL, signal.SIGINT):
                    self._one(command, number, old, new, seconds)
            if time.monotonic() > until:
                return

    def _whole(self, command: Command) -> tuple[Path, Files, float]:
        """A folder with an older result, the files after the newer one, and the seconds it takes.

        The newer one is made over the older, as a killed run that is run again makes it.
        """
        folder, newer = (self.place / f"{command.name}-{when}" for when in ("old", "new"))
        (folder / "out").mkdir(parents=True)
        (folder / "out" / MINE).write_text("mine")
        _run(command, 1, folder)
        shutil.copytree(folder, newer)
        shutil.rmtree(newer / "model", ignore_errors=True)
        start = time.monotonic()
        _run(command, 2, newer)
        return folder, _files(newer), time.monotonic() - start

    def _one(
        self, command: Command, number: signal.Signals, old: Path, new: Files, seconds: float
    ) -> None:
        before, folder = _files(old), self.place / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)
        delay = self.random.uniform(0, 1.1 * seconds)
        if command.name.endswith("--save-model"):
            shutil.rmtree(folder / "model")
            before = _files(folder)
        process = _begin(command.with_seed(2, folder))
        time.sleep(delay)
        os.kill(process, number)
        code = _wait(process)
        self.tried[f"{number.name} {command.name}"] += 1

        def finding(text: str) -> None:
            when = f"after {delay:.2f} of {seconds:.2f} s"
            self.finding(f"{command.name}, {number.name} {when}: {text}")

        left = _files(folder)
        if not _either(left, before, new, command.resumes):
            finding(f"a folder that is neither the old nor the new one: {_odd(left, before, new)}")
        if number is signal.SIGINT:
            if code not in (0, INTERRUPTED):
                finding(f"exit code {code}")
            if stages := _stages(folder):
                finding(f"left {stages}")
        if command.name.endswith("--save-model"):
            shutil.rmtree(folder / "model", ignore_errors=True)
        if code := _wait(_begin(command.with_seed(2, folder))):
            finding(f"run again, it ends with {code}")
        if (after := _files(folder)) != new:
            finding(f"run again, it ends in another folder: {_odd(after, new, new)}")
        if stages := _stages(folder):
            finding(f"run again, it leaves {stages}")


def _run(command: Command, seed: int, folder: Path) -> None:
    if code := _wait(_begin(command.with_seed(seed, folder))):
        raise SystemExit(f"kc {command.name} ends with {code} without being killed")


def _begin(words: Sequence[str]) -> int:
    """A fork that runs the command quietly, with clocks that stand still."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    time.perf_counter = time.monotonic = lambda: 0.0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        code = kc(list(words))
    except KeyboardInterrupt:  # before the command was there to hear it
        code = INTERRUPTED
    finally:
        os._exit(code)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _files(folder: Path) -> Files:
    """Hashes of all files but those being written, by their path in the folder.

    What a result says of its making is left out: which copy of the folder, how much was at hand.
    """
    here = re.escape(str(folder.parent).encode())
    making = re.compile(here + rb"/[^/\"]+|\"reused\": \d+")
    return {
        str(path.relative_to(folder)): sha256(making.sub(b"", path.read_bytes())).hexdigest()
        for path in _walk(folder)
        if ".kc-" not in str(path)
    }


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _stages(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".kc-*")]


def _either(left: Files, old: Files, new: Files, resumes: bool) -> bool:
    """Whether a folder is the old or the new one; of parts, each is of either."""
    if resumes:
        kept = left.get(f"out/{MINE}") == old[f"out/{MINE}"]
        return kept and all(each in (old.get(name), new.get(name)) for name, each in left.items())
    tops = {name.partition("/")[0] for name in old | new}  # `out` and the saved model, each whole
    return all(_under(left, top) in (_under(old, top), _under(new, top)) for top in tops)


def _under(files: Files, top: str) -> Files:
    return {name: each for name, each in files.items() if name.partition("/")[0] == top}


def _odd(left: Files, old: Files, new: Files) -> str:
    """The files that are not the same on all sides, each with whose it is."""
    whose = {}
    for name in sorted(left.keys() | old.keys() | new.keys()):
        here = left.get(name)
        if not here == old.get(name) == new.get(name):
            sides = {None: "gone", new.get(name): "new", old.get(name): "old"}
            whose[name] = sides.get(here, "other") if here else "gone"
    return ", ".join(f"{name} {side}" for name, side in whose.items())[:600]


def main() -> int:
    """The run; 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (default: 1800)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("fuzz", "kill"), help="one half alone")
    given = parser.parse_args()
    os.environ |= {"SOURCE_DATE_EPOCH": "0", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        soak = Soak(given.seed, Path(place))
        if given.only != "fuzz":
            soak.kill(start + given.seconds * (1.0 if given.only else 1 - SHARE))
        if given.only != "kill":
            soak.fuzz(start + given.seconds)
    for name, count in sorted(soak.tried.items()):
        print(f"{name}: {count}")
    print(f"{sum(soak.tried.values())} tried, {len(soak.found)} found, seed {given.seed}")
    return 1 if soak.found else 0


if __name__ == "__main__":
    sys.exit(main())
