"""What the tests of edit methods share: a request, a text, and the weights to compare."""

from __future__ import annotations

import torch

from circuits.edits.edit import EditRequest
from circuits.edits.parts.corpus import Corpus
from circuits.model.model import Model
from tests.tiny import CORPUS

REQUEST = EditRequest("The capital of {} is", "France", "Tokyo")
OTHER = EditRequest("In {} the capital is", "Norway", "Lima")
TEXT = Corpus("test text", tuple(CORPUS.strip().splitlines()[:4]))
QUICK = {"contexts": {"lengths": (4, 6), "copies": 1}}


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.bridge.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
