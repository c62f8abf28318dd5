"""Damaged and odd files: whatever a file holds, every reader answers with a value or one line."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.base.arrays import save_arrays
from circuits.base.errors import KnowledgeCircuitsError
from circuits.base.writing import to_json
from circuits.files.kinds import open_result
from experiments.cli import drawing
from tests.fuzzing import chance, tried
from tests.results import STORED
from viz.app.context import Context
from viz.app.library import Library
from viz.app.routes import page_of
from viz.app.state import ViewState

BYTES, ODD, PAGES = 120, 60, 2
"""Mutants of each kind: with damaged bytes, with odd content of a valid hash; pages of those."""
VALUES = (None, True, -1, 0, 3.5, 10**400, "", "x\x00\u202e", [], {}, [[]], {"a": 1}, 1e300)


def one_line(error: KnowledgeCircuitsError) -> None:
    assert len(str(error).splitlines()) == 1, str(error)


def opened(path: Path) -> bool:
    """Whether the file opens; anything but a value or a line of ours fails the test."""
    try:
        found = open_result(path)
    except KnowledgeCircuitsError as error:
        one_line(error)
        return False
    found.summary()
    return True


def looked_at(folder: Path) -> None:
    """The app's list and page of the one file, and what `kc figures` would draw."""
    context = Context(Library(folder))
    for entry in context.library.entries():
        with contextlib.suppress(KnowledgeCircuitsError):
            page_of(context, ViewState(view=entry.kind.view, r=entry.id), "", {})
    stored, unreadable = drawing.find_stored([folder])
    drawing.plan(stored)
    assert all(len(line.splitlines()) == 1 for line in unreadable)


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with one part of it replaced, removed or doubled."""
    places: list[tuple[Any, Any]] = []

    def walk(each: Any) -> None:
        items = each.items() if isinstance(each, dict) else enumerate(each)
        for key, inner in list(items):
            places.append((each, key))
            if isinstance(inner, dict | list):
                walk(inner)

    changed = copy.deepcopy(value)
    walk(changed)
    if places:
        inside, key = rng.choice(places)
        if rng.random() < 0.25:
            del inside[key]
        else:
            inside[key] = rng.choice(VALUES)
    return changed


def odd_arrays(rng: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with one of another type, number of axes or length, or without one."""
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    odd = (
        array.astype(bool),
        array.astype(np.int64),
        array[None],
        array.reshape(-1),
        array[:1],
        array[:0],
        np.float64(1) + np.zeros(()),
    )
    rest = {key: each for key, each in arrays.items() if key != name}
    return rest if rng.random() < 0.1 else {**rest, name: np.asarray(rng.choice(odd))}


@pytest.mark.parametrize("name", STORED)
def test_changed_bytes_never_end_in_anything_but_a_line(name: str, tmp_path: Path):
    rng, path = chance(name), tmp_path / "x.kc.safetensors"
    STORED[name]().save(path)
    whole = path.read_bytes()
    for turn in range(BYTES):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(min(len(data), rng.choice((16, 4000, 10**9))))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if turn % 10 == 0 else data)
        opened(path)
        if turn % 60 == 0:
            looked_at(tmp_path)
    tried(BYTES)


@pytest.mark.parametrize("name", STORED)
@pytest.mark.slow
def test_odd_content_of_a_valid_hash_never_ends_in_anything_but_a_line(name: str, tmp_path: Path):
    rng, path = chance(name), tmp_path / "x.kc.safetensors"
    found = STORED[name]()
    arrays, metadata = found.arrays(), json.loads(to_json(found.metadata()))
    pages = 0
    for turn in range(ODD):
        content = (
            (odd_arrays(rng, arrays), metadata)
            if turn % 3 == 0
            else (arrays, mutated(rng, metadata))
        )
        save_arrays(path, found.KIND, *content)
        if opened(path) and pages < PAGES:
            looked_at(tmp_path)
            pages += 1
    tried(ODD)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e999"])
def test_numbers_too_large_are_damage(number: str, tmp_path: Path):
    path = tmp_path / "x.kc.safetensors"
    header = f'{{"x":{{"dtype":"F32","shape":[1],"data_offsets":[{number},4]}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4)
    assert not opened(path)
    looked_at(tmp_path)
