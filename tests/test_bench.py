"""The bench of speed and memory: what cannot be measured is left out with its reason."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import pytest

from experiments.workshop import bench


@pytest.mark.parametrize("measure", [bench.demo_time, partial(bench.loading_cost, memory=1.5)])
def test_a_model_that_cannot_be_had_is_left_out_with_a_reason(measure):
    told: list[str] = []
    with patch.dict(bench.MEASUREMENTS, real=partial(measure, "/no/such/model", 8.0)):
        assert bench.run(["real"], told.append) == []
    assert told[-1] == "real left out: there is no directory '/no/such/model'"
