"""Laws of results on the hub, held against a small stand-in of it on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

import knowledge_circuits as kc
from circuits.base.errors import CircuitFileError, FileFormatError, OptionError, StoreError
from circuits.files.hub import Address, fetched
from circuits.files.reading import read_circuit
from experiments.cli.main import main
from tests import results
from tests.circuit_strategies import assert_identical
from tests.hub_standin import TOKEN, Hub, hub


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = huggingface_hub.constants
    with hub() as found:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, with something of the user's beside it."""
    made = tmp_path / "run"
    results.circuit().save(made / "circuit.kc.safetensors")
    results.trace().save(made / "more" / "trace.kc.safetensors")
    (made / "summary.md").write_text("# A run\n")
    (made / "secret.py").write_text("KEY = 1\n")
    return made


def test_what_is_pushed_is_opened_again_the_same(server: Hub, folder: Path):
    address = kc.push(folder, "someone/circuits")
    assert address == f"{server.address}/datasets/someone/circuits"
    stored = server.repos["someone/circuits"]
    assert set(stored) == {"circuit.kc.safetensors", "more/trace.kc.safetensors", "summary.md"}
    assert stored["circuit.kc.safetensors"] == (folder / "circuit.kc.safetensors").read_bytes()
    assert_identical(kc.open("hf://someone/circuits"), kc.open(folder / "circuit.kc.safetensors"))
    trace = kc.open("hf://datasets/someone/circuits@main/more/trace.kc.safetensors")
    assert trace.prompt == results.trace().prompt
    assert kc.open("hf://someone/circuits/more").prompt == trace.prompt


def test_a_folder_stands_for_its_main_result_here_as_on_the_hub(folder: Path, tmp_path: Path):
    stored = kc.open(folder / "circuit.kc.safetensors")
    results.trace().save(folder / "trace.kc.safetensors")
    assert_identical(kc.open(folder), stored)
    assert_identical(read_circuit(folder), stored)
    assert kc.open(folder / "more").prompt == results.trace().prompt
    with pytest.raises(OptionError, match=r"name one: run/circuit\.kc\.safetensors, "):
        kc.open(tmp_path)
    with pytest.raises(CircuitFileError, match="holds a 'trace'"):
        read_circuit(folder / "more")


def test_a_file_and_a_folder_go_where_the_address_says(server: Hub, folder: Path, capsys):
    stored = folder / "circuit.kc.safetensors"
    assert main(["push", str(stored), "hf://someone/all/capitals", "--private"]) == 0
    assert main(["push", str(folder), "hf://someone/all/runs/1"]) == 0
    names = set(server.repos["someone/all"])
    assert {"capitals/circuit.kc.safetensors", "runs/1/more/trace.kc.safetensors"} < names
    capsys.readouterr()
    assert main(["show", "hf://someone/all/capitals", "--edges", "1"]) == 0
    assert "edges" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "words"),
    [("hf://someone/none", "no such repository"), ("hf://someone/all/x", "no such result")],
)
def test_what_is_not_there_costs_one_line(server: Hub, address: str, words: str, capsys):
    server.repos["someone/all"] = {"summary.md": b"x"}
    with pytest.raises(FileFormatError, match=words):
        kc.open(address)
    assert main(["show", address]) == 2
    assert words in capsys.readouterr().err


def test_without_a_token_a_network_or_a_result_nothing_is_sent(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    with pytest.raises(OptionError, match="no stored result"):
        kc.push(folder / "none", "someone/circuits")
    with pytest.raises(OptionError, match="no stored result"):
        kc.push(folder / "secret.py", "someone/circuits")
    with pytest.raises(OptionError, match="no address"):
        kc.push(folder, "circuits")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["push", str(folder), "someone/circuits"]) == 4
    assert "no token; log in with `hf auth login`" in capsys.readouterr().err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "other")
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(StoreError, match="asks for a login"):
        kc.push(folder, "someone/circuits")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be reached"):
        kc.push(folder, "someone/circuits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileFormatError, match="offline mode is on"):
        fetched("hf://someone/circuits")
    assert server.repos == {}


@pytest.mark.parametrize("text", ["hf://", "hf://x", "hf://a/b/../c", "hf://a b/c", "a/b"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(OptionError, match="no address"):
        Address.parse(text)


def test_an_address_names_repository_revision_and_path():
    assert Address.parse("hf://a/b") == Address("a/b")
    assert Address.parse("hf://datasets/a/b@v1/c/d.json") == Address("a/b", "v1", "c/d.json")
