"""Jobs are done once, wherever they run; what one does to its process harms no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import _ExecutorManagerThread
from pathlib import Path

import pytest

from circuits.base.errors import MissingExtraError, OptionError, StoreError
from experiments.executors.base import TRIES, Executing, ExecutorKind, Outcome, Status
from experiments.executors.execute import execute
from tests.sweep_jobs import ROOT, Writing, alone

HERE = (ExecutorKind.SERIAL, ExecutorKind.PROCESS)


def run(folder: Path, kind: ExecutorKind, **does: str) -> tuple[dict[int, Outcome], list[Writing]]:
    jobs = [Writing(folder, n, does.get(f"n{n}", "")) for n in range(6)]
    found: dict[int, Outcome] = {}

    def report(outcome: Outcome) -> None:
        assert outcome.index not in found, "a job ends once"
        found[outcome.index] = outcome

    execute(jobs, Executing(kind, workers=2, threads=1), report)
    return found, jobs


def written(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


@pytest.mark.parametrize("kind", HERE)
def test_every_job_is_done_once_and_what_fails_harms_no_other(kind: ExecutorKind, tmp_path: Path):
    found, _ = run(tmp_path, kind, n1="refuses", n4="errs")
    assert written(tmp_path) == {0, 2, 3, 5}
    assert {i: each.status for i, each in found.items()} == {
        0: Status.DONE,
        1: Status.FAILED,
        2: Status.DONE,
        3: Status.DONE,
        4: Status.FAILED,
        5: Status.DONE,
    }
    assert found[1].reason == "nothing to be asked"
    assert not found[1].trace
    assert found[4].reason == "ZeroDivisionError: of its own"
    assert "sweep_jobs.py" in found[4].trace
    assert all((tmp_path / f"{n}.tried").read_text() == "x" for n in range(6))


def test_processes_keep_what_they_made_and_are_no_more_than_asked_for(tmp_path: Path):
    run(tmp_path, ExecutorKind.PROCESS)
    processes = {(tmp_path / str(n)).read_text() for n in range(6)}
    assert 1 <= len(processes) <= 2
    assert str(os.getpid()) not in processes


def test_a_job_whose_process_dies_is_tried_again_and_one_that_kills_three_is_left(tmp_path: Path):
    found, _ = run(tmp_path, ExecutorKind.PROCESS, n0="dies", n3="dies once")
    # One that closes while the interpreter does would make it print an error.
    assert not [each for each in threading.enumerate() if isinstance(each, _ExecutorManagerThread)]
    assert found[0].status == Status.CRASHED
    assert (tmp_path / "0.tried").read_text() == "x" * TRIES
    assert found[3].status == Status.DONE
    assert (tmp_path / "3.tried").read_text() == "xx"
    assert written(tmp_path) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("kind", HERE)
def test_a_disk_that_takes_no_more_stops_the_run(kind: ExecutorKind, tmp_path: Path):
    with pytest.raises(StoreError, match="no space left"):
        run(tmp_path, kind, n0="full", n1="full")
    assert len(written(tmp_path)) < 6


def test_no_process_is_left_when_a_run_stops(tmp_path: Path):
    start = time.monotonic()
    with pytest.raises(StoreError):
        run(tmp_path, ExecutorKind.PROCESS, n0="full", n1="waits")
    # The pool's own thread waits for the child too: a `join` here may end before that is noted.
    until = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.01)
    assert not multiprocessing.active_children()
    assert time.monotonic() - start < 50


def test_workers_do_not_outlive_a_driver_that_is_killed(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path\n"
        "from experiments.executors.base import *\n"
        "from experiments.executors.execute import execute\n"
        "from tests.sweep_jobs import Writing\n"
        "if __name__ == '__main__':\n"
        f"    jobs = [Writing(Path({str(tmp_path)!r}), n, 'waits') for n in range(2)]\n"
        "    execute(jobs, Executing(ExecutorKind.PROCESS, workers=2))\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, str(script)], env=environment, cwd=ROOT)
    until = time.monotonic() + 60
    while not all((tmp_path / f"{n}.tried").exists() for n in range(2)):
        assert time.monotonic() < until
        time.sleep(0.1)
    children = children_of(driver.pid)
    assert len(children) >= 2
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until, "a worker lives on"
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    if not found.exists():
        pytest.skip("the system does not tell a process's children")
    return [int(word) for word in found.read_text().split()]


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(OptionError, match="ray_address"):
        Executing(ExecutorKind.PROCESS, ray_address="auto")
    with pytest.raises(OptionError, match="workers"):
        Executing(workers=0)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="extra `ray`"):
        run(tmp_path, ExecutorKind.RAY)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_ray_jobs_are_done_once_and_a_killed_worker_is_replaced(tmp_path: Path):
    """In a process of its own: Ray stays what it was first started as."""
    pytest.importorskip("ray")
    code = (
        "from pathlib import Path\n"
        "from tests.test_executors import *\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "found, _ = run(folder, ExecutorKind.RAY, n0='dies', n1='refuses', n3='dies once')\n"
        "assert {i: str(each.status) for i, each in found.items()} == {0: 'crashed', 1: 'failed',"
        " 2: 'done', 3: 'done', 4: 'done', 5: 'done'}, found\n"
        "assert (folder / '0.tried').read_text() == 'xxx'\n"
        "assert (folder / '3.tried').read_text() == 'xx'\n"
        "assert written(folder) == {2, 3, 4, 5}\n"
    )
    alone(code)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_ray_a_machine_that_is_lost_takes_no_job_with_it(tmp_path: Path):
    """A cluster of two nodes, simulated on this machine; one is killed and none comes back."""
    pytest.importorskip("ray")
    code = (
        "import os\n"
        "os.environ |= {'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0', 'RAY_USAGE_STATS_ENABLED': '0'}\n"
        "from pathlib import Path\n"
        "from ray.cluster_utils import Cluster\n"
        "from tests.test_executors import *\n"
        "small = {'object_store_memory': 100 * 2**20}\n"
        "head = {'num_cpus': 0, 'include_dashboard': False, **small}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
        "nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "jobs = [Writing(folder, n, 'waits a little') for n in range(8)]\n"
        "ends = []\n"
        "def told(outcome):\n"
        "    ends.append(outcome)\n"
        "    if len(ends) == 2:\n"
        "        cluster.remove_node(nodes[0])\n"
        "how = Executing(ExecutorKind.RAY, workers=2, threads=1, ray_address=cluster.address)\n"
        "execute(jobs, how, told)\n"
        "assert sorted(each.index for each in ends) == list(range(8)), ends\n"
        "assert {str(each.status) for each in ends} == {'done'}, ends\n"
        "assert written(folder) == set(range(8))\n"
        "cluster.shutdown()\n"
    )
    alone(code)
