"""What a sweep does in bad hours: memory that ends, processes that are killed, folders that go."""

from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from circuits.base.errors import StoreError
from circuits.files.sweep import read_failure
from circuits.files.units import Store
from experiments.cli.main import main
from experiments.executors.base import Executing, Status
from experiments.sweeps.running import plan, run, status
from experiments.sweeps.spec import parse_spec
from experiments.sweeps.verbs import VERBS

pytestmark = pytest.mark.slow

RELATIONS = ["animal_class", "country_capital", "country_language"]
LENS = {"verb": "lens", "relation": RELATIONS, "n-pairs": 2}
SPEC = {"models": ["facts-gpt2"], "units": [LENS]}
ROOT = Path(__file__).parent.parent
PLUGIN = """
import os, resource, signal
from dataclasses import replace
from experiments.sweeps.verbs import VERBS

real = VERBS["lens"]

def run(model, source, looking):
    if source.relation == "animal_class":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory ends
    if source.relation == "country_capital":
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**34, limits[1]))
        try:
            held = bytearray(2**35)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    return real.run(model, source, looking)

VERBS["lens"] = replace(real, run=run)
"""


def spec_file(folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


def stored(folder: Path) -> dict[str, bytes]:
    return {key: Path(entry.path).read_bytes() for key, entry in Store(folder).files()}


def command(tmp_path: Path) -> int:
    return main(["sweep", str(spec_file(tmp_path)), "--out", str(tmp_path / "out")])


def before_unit(monkeypatch: pytest.MonkeyPatch, number: int, work: Callable[[], Any]) -> None:
    """Have something happen as the unit of this number begins."""
    real, begun = VERBS["lens"], []

    def begins(*given: Any) -> Any:
        begun.append(given)
        if len(begun) == number:
            work()
        return real.run(*given)

    monkeypatch.setitem(VERBS, "lens", replace(real, run=begins))


def test_a_unit_that_runs_out_of_memory_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def hungry() -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        before_unit(patched, 2, hungry)
        told = run(plan(parse_spec(SPEC), tmp_path), Executing(threads=1))
    assert (told.done, told.ended) == (2, 3)
    ((key, failure),) = Store(tmp_path).errors().items()
    assert failure["reason"] == "MemoryError"
    assert failure["settings"]["relation"] == RELATIONS[1]
    unit = read_failure(key, failure)
    assert unit.error == "failed: MemoryError"
    assert (unit.settings["relation"], unit.settings["seed"]) == (RELATIONS[1], "0")
    assert run(plan(parse_spec(SPEC), tmp_path), Executing(threads=1)).done == 1
    assert not Store(tmp_path).errors()


@pytest.mark.slow
def test_a_worker_that_is_killed_or_has_no_memory_takes_no_other_unit_with_it(tmp_path: Path):
    plugin = tmp_path / "hungry.py"
    plugin.write_text(PLUGIN)
    words = ["sweep", str(spec_file(tmp_path)), "--out", str(tmp_path / "out")]
    code = "import sys; from experiments.cli.main import main; sys.exit(main(sys.argv[1:]))"
    where = ["--executor", "process", "--workers", "2", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, "--plugin", str(plugin), *words, *where],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "2 failed; `kc sweep status" in done.stderr
    assert "Traceback" not in done.stderr
    reasons = {
        each["settings"]["relation"]: (each["status"], each["reason"])
        for each in Store(tmp_path / "out").errors().values()
    }
    assert reasons == {
        "animal_class": (Status.CRASHED, "its process died 3 times (killed, or out of memory)"),
        "country_capital": (Status.FAILED, "MemoryError"),
    }
    (row,) = status(tmp_path / "out")["units"]
    assert (row["planned"], row["done"], row["failed"]) == (3, 1, 2)
    assert main(words) == 0
    assert len(stored(tmp_path / "out")) == 3
    assert not Store(tmp_path / "out").errors()


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_stops_the_sweep_in_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    real = builtins.open

    def refused(path: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        if set(mode) & set("wxa"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, mode, *given, **options)

    with monkeypatch.context() as patched:
        # Root may write anywhere, so that permissions alone would refuse nothing here.
        before_unit(
            patched,
            2,
            lambda: patched.setattr("circuits.base.writing.open", refused, raising=False),
        )
        assert command(tmp_path) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Read-only file system" in last
    assert str(tmp_path / "out") in last
    before = stored(tmp_path / "out")
    assert len(before) == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert command(tmp_path) == 0
    after = stored(tmp_path / "out")
    assert len(after) == 3
    assert before.items() <= after.items()


def test_a_folder_that_goes_away_stops_the_sweep_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    away = tmp_path / "away"

    def goes() -> None:
        (tmp_path / "out").rename(away)
        (tmp_path / "out").write_text("")  # nothing can be made there, not by root either

    with monkeypatch.context() as patched:
        before_unit(patched, 2, goes)
        assert command(tmp_path) == 4
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "cannot be written" in told.splitlines()[-1]
    assert (tmp_path / "out").read_text() == ""
    assert len(stored(away)) == 1
    (tmp_path / "out").unlink()
    away.rename(tmp_path / "out")
    assert command(tmp_path) == 0
    assert len(stored(tmp_path / "out")) == 3


@pytest.mark.parametrize("name", ["out", "out/logs", "out/units", "out/plans"])
def test_a_file_where_a_folder_must_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert command(tmp_path) == 4
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert str(tmp_path / "out") in told.splitlines()[-1]
    assert path.read_text() == "mine"


def test_a_record_of_a_failure_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match=r"cannot be removed: Read-only file system"):
        Store(tmp_path).forgive("ab")
