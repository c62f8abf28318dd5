"""A model of the package index is fetched once, checked, and there whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from circuits.base.errors import ModelNotFoundError
from circuits.model import packaged
from circuits.model.packaged import PACKAGED, PackagedModel, fetched

CONTENT = b"GGUF of a small model"
NAME = "standin-model"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A model whose wheel lies in a folder that is the only index."""
    standin = replace(
        PACKAGED["smollm2-135m"],
        name=NAME,
        package="kc-standin==1.0",
        member="kc_standin/model.gguf",
        bytes=len(CONTENT),
        sha256=sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(PACKAGED, NAME, standin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return standin


def publish(tmp_path: Path, content: bytes = CONTENT) -> None:
    """Put the wheel into the index."""
    (tmp_path / "index").mkdir(exist_ok=True)
    info = "kc_standin-1.0.dist-info"
    with ZipFile(tmp_path / "index" / "kc_standin-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kc_standin/model.gguf", content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: kc-standin\nVersion: 1.0\n"
        )
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_it_is_fetched_once_and_afterwards_no_index_is_asked(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(tmp_path)
    assert not model.is_cached
    assert fetched(NAME).read_bytes() == CONTENT
    assert model.is_cached
    monkeypatch.setattr(subprocess, "run", None)  # any call would raise
    assert fetched(NAME) == model.path


def test_an_index_without_it_costs_one_line_and_leaves_nothing(
    model: PackagedModel, tmp_path: Path
):
    with pytest.raises(ModelNotFoundError, match=r"kc-standin==1\.0.*\.gguf file") as refused:
        fetched(NAME)
    assert "\n" not in str(refused.value)
    assert not files(tmp_path)


def test_another_file_than_the_pinned_one_is_not_used(model: PackagedModel, tmp_path: Path):
    publish(tmp_path, CONTENT[::-1])
    with pytest.raises(ModelNotFoundError, match="SHA-256"):
        fetched(NAME)
    assert not files(tmp_path)


def test_a_damaged_copy_is_fetched_anew(model: PackagedModel, tmp_path: Path):
    publish(tmp_path)
    fetched(NAME).write_bytes(CONTENT[::-1])
    assert fetched(NAME).read_bytes() == CONTENT


def test_two_at_once_both_get_it(model: PackagedModel, tmp_path: Path):
    publish(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetched, [NAME, NAME])) == [model.path] * 2
    assert files(tmp_path) == [model.path]


def test_an_installer_that_unpacks_serves_as_well(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unpacking(each: PackagedModel, folder: Path) -> list[str]:
        text = f"import pathlib; p = pathlib.Path({str(folder)!r}) / 'kc_standin'; p.mkdir(); "
        return [sys.executable, "-c", text + f"(p / 'model.gguf').write_bytes({CONTENT!r})"]

    monkeypatch.setattr(packaged, "_installer", unpacking)
    assert fetched(NAME).read_bytes() == CONTENT


def test_without_pip_uv_is_used_and_without_both_that_is_said(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    places: dict[str, Any] = {"uv": "/bin/uv"}
    monkeypatch.setattr("circuits.model.packaged.shutil.which", places.get)
    assert packaged._installer(model, tmp_path)[:3] == ["/bin/uv", "pip", "install"]
    places.clear()
    with pytest.raises(ModelNotFoundError, match="neither pip nor uv"):
        fetched(NAME)
