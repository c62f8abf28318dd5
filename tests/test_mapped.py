"""Weights that processes share: the same bits, one copy, and every process its own edits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from circuits.model import mapped
from circuits.model.model import load
from experiments.executors import weights
from experiments.executors.base import ExecutorKind
from tests.sweep_jobs import alone

MODELS = [("facts-gpt2", "fp32"), ("facts-llama", "fp32"), ("facts-llama", "bf16")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), MODELS)
def test_shared_weights_are_the_models_own_bit_for_bit(name: str, dtype: str, tmp_path: Path):
    own = load(name, "cpu", dtype)
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    for _ in range(2):  # who writes the file, and who finds it
        shared = load(name, "cpu", dtype, shared=tmp_path)
        assert shared.provenance == own.provenance
        assert shared.parameter_names == own.parameter_names
        assert torch.equal(shared.last_logits(tokens), own.last_logits(tokens))
        assert not any(each.requires_grad for each in shared.bridge.parameters())


def test_an_edit_is_seen_in_its_own_model_alone(tmp_path: Path):
    one, other = (load("facts-gpt2", "cpu", shared=tmp_path) for _ in range(2))
    (file,) = tmp_path.glob("*.weights")
    stored = sha256(file.read_bytes()).digest()
    name = one.mlp_output_name(0)
    before = other.parameter(name).clone()
    one.set_parameter(name, before + 1)
    assert torch.equal(other.parameter(name), before)
    assert torch.equal(one.parameter(name), before + 1)
    assert sha256(file.read_bytes()).digest() == stored
    assert one.provenance["weights_sha256"] != other.provenance["weights_sha256"]


def test_what_is_read_is_what_was_written_and_stands_where_kernels_want_it(tmp_path: Path):
    values = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).to(torch.bfloat16),
        "c": torch.randn(2, 2, 2, dtype=torch.float64),
    }
    mapped.write(tmp_path / "x.weights", values.items())
    found = mapped.read(tmp_path / "x.weights")
    assert list(found) == list(values)
    for name, value in values.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype
        assert found[name].data_ptr() % mapped.ALIGNMENT == 0


def test_a_folder_that_takes_no_file_leaves_each_process_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*given: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(mapped, "write", full)
    model = load("facts-gpt2", "cpu", shared=tmp_path)
    assert model.provenance == load("facts-gpt2", "cpu").provenance
    assert "no space left" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux' table of mappings")
@pytest.mark.parametrize("kind", [ExecutorKind.PROCESS, ExecutorKind.RAY])
def test_workers_map_one_file_which_is_gone_after_them(kind: ExecutorKind, tmp_path: Path):
    """In a process of its own: Ray stays what it was first started as."""
    if kind == ExecutorKind.RAY:
        pytest.importorskip("ray")
    place, results = tmp_path / "place", tmp_path / "results"
    place.mkdir()
    results.mkdir()
    alone(
        "import tempfile\n"
        "from pathlib import Path\n"
        "from experiments.executors.base import Executing\n"
        "from experiments.executors.execute import execute\n"
        "from tests.sweep_jobs import Loading\n"
        f"tempfile.tempdir, ends = {str(place)!r}, []\n"
        f"jobs = [Loading(Path({str(results)!r}), n, 'facts-gpt2') for n in range(4)]\n"
        f"execute(jobs, Executing({str(kind)!r}, workers=2, threads=1), ends.append)\n"
        "assert [each.reason for each in ends] == [''] * 4, ends\n"
    )
    told = [(results / str(number)).read_text().split() for number in range(4)]
    assert {held for _, held, *_ in told} == {"True"}
    assert {sha256 for _, _, sha256, *_ in told} == {
        load("facts-gpt2", "cpu").provenance["weights_sha256"]
    }
    files = {file for _, _, _, *mappings in told for file in mappings}
    assert len(files) == 1, "a process has a copy of its own"
    assert list(place.glob("kc-weights-*")) == []


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kept = (f"{weights._PREFIX}{os.getpid()}-x", f"kc-weights-elsewhere-{ended.pid}-x", "mine")
    left = f"{weights._PREFIX}{ended.pid}-x"
    for name in (*kept, left):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.weights").write_bytes(b"1")
    with weights.shared_weights(1) as shared:
        assert shared is None
    assert (tmp_path / left).exists()
    with weights.shared_weights(2) as shared:
        assert shared is not None
        assert {each.name for each in tmp_path.iterdir()} == {*kept, shared.name}
    assert {each.name for each in tmp_path.iterdir()} == {*kept}
