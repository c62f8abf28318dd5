"""Fixtures that all tests share. Nothing here reaches the network, and of the tests
only those of `test_real_model.py`, which are slow ones, may."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests import typecheck

# Shapes and types in the signatures are checked at every call; this stands before the imports.
typecheck.install()

from circuits.base import writing
from tests.forms import checked

# Whatever is printed or written as JSON is held to the form that it names; before other modules
# take the function.
writing.to_json = checked(writing.to_json)

import viz
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from experiments.analyses.engine.context import Context
from tests.tiny import byte_level_tokenizer, equal_length_pairs, gpt2_hf, tiny_model

viz.offer()
torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_finish() -> None:
    """Leave alone, when memory is cleaned up, what is there for as long as the tests run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each architecture in turn."""
    return request.param


@pytest.fixture(scope="session")
def _models() -> dict[str, Model]:
    return {}


@pytest.fixture
def model(kind: str, _models: dict[str, Model]) -> Model:
    """A tiny random model, shared by the tests of a session (no test may leave it changed)."""
    if kind not in _models:
        _models[kind] = tiny_model(kind)
    return _models[kind]


@pytest.fixture
def pairs(model: Model) -> list[TokenPair]:
    """Encoded prompt pairs of several lengths for the tiny model."""
    return equal_length_pairs(model)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model with random weights, which knows nothing."""
    folder = tmp_path_factory.mktemp("tiny")
    gpt2_hf().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """What a module's analyses run in: an embedded model, and a folder of the module's own."""
    return Context("facts-gpt2", tmp_path_factory.mktemp("run"), device="cpu")
