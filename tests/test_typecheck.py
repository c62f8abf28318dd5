"""The checks of annotations that all tests run under."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from circuits.base.arrays import kind_of
from circuits.facts.facts import Fact
from circuits.model.metrics import answer_probability
from circuits.model.norms import Norm

LOGITS = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("called", "given"),
    [
        (kind_of, (1,)),
        (Fact, ("r", "Peru", 1)),
        (answer_probability, (LOGITS, [0, 1])),
        (answer_probability, (LOGITS, torch.zeros(3, dtype=torch.int64))),
        (Norm, (torch.zeros(2, 2), None, 1e-5, True)),
        (Norm, (torch.zeros(2), torch.zeros(3), 1e-5, True)),
    ],
)
def test_what_is_of_another_type_or_shape_is_refused(called: Any, given: Any):
    with pytest.raises(TypeCheckError):
        called(*given)
