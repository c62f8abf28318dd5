"""What leaves the program: whole folders of results, and text that is only text."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from circuits.base.errors import OptionError, StoreError
from circuits.base.origin import check_writable, mixed, staged, timestamp, write_all
from circuits.base.writing import atomic_write
from circuits.files.exchange import save_eap_ig
from circuits.graph.circuit import Circuit
from circuits.model.wiring import Wiring
from experiments.cli.main import main

RED = "\x1b[31mred\x07"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write(folder: Path, files: dict[str, str], owned: tuple[str, ...] = ()) -> None:
    with staged(folder, owned) as stage:
        for name, text in files.items():
            (stage / name).write_text(text)


def test_a_file_that_no_summary_lists_is_never_removed(tmp_path: Path):
    (tmp_path / "roles").write_text("the user's own")
    write(tmp_path, {"circuit": "new"}, ("roles",))
    assert contents(tmp_path) == {"circuit": "new", "roles": "the user's own"}


def test_a_folder_that_holds_an_input_is_not_written_to(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text("the user's own")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(OptionError, match="name another folder"):
            check_writable(out, [None, tmp_path / "pairs.jsonl"])
    check_writable(tmp_path / "out", [tmp_path / "pairs.jsonl"])


@pytest.mark.parametrize("epoch", ["", "abc", "1e400", "nan"])
def test_a_source_date_that_is_none_is_no_error(epoch: str, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert timestamp().startswith("20")


def test_an_earlier_runs_files_do_not_stand_beside_a_later_runs(tmp_path: Path):
    optional = ("curve", "roles")
    listed = '{"files": ["x/circuit", "x/curve", "x/roles"]}'
    old = {"circuit": "old", "curve": "old", "roles": "old", "summary.json": listed}
    write(tmp_path, old, optional)
    (tmp_path / "notes").write_text("the user's own")
    new = {"circuit": "new", "roles": "new", "summary.json": "{}"}
    write(tmp_path, new, optional)
    assert contents(tmp_path) == {**new, "notes": "the user's own"}


def test_a_folder_in_the_way_is_refused_before_any_file_is_replaced(tmp_path: Path):
    write(tmp_path, {"a": "old"})
    (tmp_path / "b").mkdir()
    with pytest.raises(StoreError, match="b is a folder"):
        write(tmp_path, {"a": "new", "b": "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_failed_run_leaves_no_folder_and_names_the_one_that_was_asked_for(tmp_path: Path):
    def fail() -> None:
        with staged(tmp_path / "new") as stage:
            (stage / "a").mkdir()
            atomic_write(stage / "a", "text")

    with pytest.raises(StoreError) as caught:
        fail()
    assert str(caught.value).startswith(f"{tmp_path / 'new' / 'a'}: ")
    assert os.listdir(tmp_path) == []


def test_two_runs_into_one_folder_leave_the_files_of_one_of_them(tmp_path: Path):
    names = [f"file{number}" for number in range(40)]

    def run(label: str) -> None:
        for _ in range(10):
            write(tmp_path, dict.fromkeys(names, label))

    threads = [threading.Thread(target=run, args=(label,)) for label in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert len(set(contents(tmp_path).values())) == 1


def test_a_pipe_or_device_is_never_replaced_by_a_file(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path):
        with pytest.raises(StoreError, match="not a regular file"):
            atomic_write(target, "text")
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_file_where_a_folder_should_be_is_called_one(tmp_path: Path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="file is a file"):
        check_writable(tmp_path / "file" / "below")


def test_no_text_from_a_file_reaches_the_terminal_as_a_command_to_it(tmp_path: Path, capsys):
    wiring, path = Wiring(2, 2, 2), tmp_path / "c.json"
    provenance = {"model": RED, RED: "x", "nested": {RED: [RED]}}
    save_eap_ig(Circuit.full(wiring), path)
    assert main(["show", str(path)]) == 0
    plain = capsys.readouterr().out
    circuit = Circuit(wiring, Circuit.full(wiring).kept, None, {}, {"m0": RED}, provenance)
    save_eap_ig(circuit, path)
    assert main(["show", str(path)]) == 0
    assert main(["facts", RED]) == 2
    assert main(["show", str(tmp_path / RED)]) == 2
    captured = capsys.readouterr()
    assert r"\x1b[31mred" in captured.out
    assert r"\x1b[31mred" in captured.err
    assert not any(char in captured.out + captured.err for char in "\x1b\x07")
    assert len(captured.out.splitlines()) > len(plain.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "x" * 400],
        ["facts", "--facts", "x" * 400],
        ["facts", "--facts", "~nobody-of-this-name/facts.csv"],
        ["discover", "-m", "x" * 400, "-r", "country_capital"],
        ["discover", "-m", "~nobody-of-this-name/model", "-r", "country_capital"],
        ["discover", "-m", " ", "-r", "country_capital"],
        ["discover", "-m", "facts-gpt2", "-r", "country_capital", "--out", "x" * 400],
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_a_name_that_the_system_cannot_use_is_one_line(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) > 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.startswith("kc: error: ") for line in captured.err.splitlines()] == [True]
    assert "unexpected" not in captured.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_is_no_error(closed: str):
    script = Path(sys.executable).with_name("kc")
    arguments = {"1": ["facts"], "2": ["facts", "no-such-relation"]}[closed]
    command = f'exec "$@" {closed}>&-'
    done = subprocess.run(["sh", "-c", command, "sh", script, *arguments], capture_output=True)
    assert done.returncode == {"1": 0, "2": 2}[closed]
    assert done.stdout + done.stderr == b""


def test_a_full_disk_is_one_line_and_no_file():
    if not Path("/dev/full").is_char_device():
        pytest.skip("this system has no /dev/full")
    code = "import sys; from experiments.cli.main import main; sys.exit(main(['facts']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 4
    assert done.stderr.decode().strip() == "kc: error: No space left on device"


def test_half_a_file_of_a_killed_run_is_removed_by_the_next(tmp_path: Path):
    killed = """
import os, signal, sys
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
from circuits.base.writing import atomic_write
atomic_write(sys.argv[1], "x")
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "a")], check=False)
    assert len(list(tmp_path.glob(".kc-*.tmp"))) == 1
    atomic_write(tmp_path / "b", "y")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path):
    killed = """
import os, signal, sys
from pathlib import Path
from circuits.base.origin import staged
with staged(Path(sys.argv[1])) as stage:
    (stage / "half.txt").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob(".kc-*.tmp"))) == 1
    with staged(tmp_path) as outer, staged(tmp_path) as inner:
        assert {path.name for path in tmp_path.iterdir()} == {outer.name, inner.name}
        (inner / "whole.txt").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.txt"]


def test_a_file_that_vanishes_while_it_is_written_is_missed(tmp_path: Path):
    writers = {"a.txt": lambda path: path.write_text("a"), "b.txt": lambda path: None}
    with pytest.raises(StoreError, match=r"b\.txt vanished"):
        write_all(tmp_path / "out", writers)
    assert not (tmp_path / "out").exists()


def summary(path: Path) -> None:
    path.write_text("{}")


def text(words: str):
    return lambda path: path.write_text(words)


def test_a_file_of_the_users_is_never_replaced_by_one_of_the_same_name(tmp_path: Path):
    for name in ("pairs.jsonl", "summary.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("{}")
        writers = {"pairs.jsonl": text("ours"), "summary.json": summary}
        with pytest.raises(OptionError, match=f"{name} that no"):
            write_all(folder, writers)
        assert contents(folder) == {name: "{}"}
        with pytest.raises(OptionError, match=f"{name} that no"):
            check_writable(folder, names=writers)


def test_a_file_that_an_earlier_run_lists_is_replaced(tmp_path: Path):
    for words in ("one", "two"):
        write_all(tmp_path, {"a.txt": text(words), "summary.json": summary})
        assert (tmp_path / "a.txt").read_text() == words


def test_files_of_different_runs_in_one_folder_are_noticed(tmp_path: Path):
    names = ("a.txt", "b.txt")
    for words in ("one", "two"):
        files = {name: text(words) for name in names}
        write_all(tmp_path / words, {**files, "c.svg": text(words), "summary.json": summary})
        assert mixed(tmp_path / words) is None
    first, second = tmp_path / "one", tmp_path / "two"
    (first / "c.svg").write_text("touched up")
    assert mixed(first) is None
    (first / "a.txt").write_bytes((second / "a.txt").read_bytes())
    assert str(mixed(first)).endswith("written with other a.txt")
    (first / "b.txt").unlink()
    assert str(mixed(first)).endswith("written with other a.txt, b.txt")
    assert mixed(tmp_path) is None


@pytest.mark.parametrize("moved", range(3))
def test_a_kill_between_two_files_leaves_what_is_noticed_and_can_be_written_again(
    tmp_path: Path, moved: int
):
    old = {"a.txt": text("old"), "b.txt": text("old"), "summary.json": summary}
    new = {"a.txt": text("new"), "d.txt": text("new"), "summary.json": summary}
    write_all(tmp_path, old, ("b.txt",))
    killed = """
import os, signal, sys
from pathlib import Path
from circuits.base import origin
replace, moved = os.replace, [0]
def stopping(source, target):
    if Path(target).parent == Path(sys.argv[1]):
        if moved[0] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        moved[0] += 1
    replace(source, target)
os.replace = stopping
write = lambda words: lambda path: path.write_text(words)
files = {"a.txt": write("new"), "d.txt": write("new"), "summary.json": write("{}")}
origin.write_all(Path(sys.argv[1]), files, ("b.txt",))
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path), str(moved)], check=False)
    assert mixed(tmp_path) is not None
    write_all(tmp_path, new, ("b.txt",))
    assert mixed(tmp_path) is None
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "d.txt", "summary.json"}
