"""What scores say of themselves: who made them, and whether they have a sign and a unit."""

from __future__ import annotations

from typing import Any

import pytest

from circuits.base.options import build
from locate.edges import ensemble
from locate.edges.score import score_edges
from locate.search import Scoring
from tests.tiny import equal_length_pairs, tiny_model


def asked(method: str, options: Any = None) -> Scoring:
    return build(Scoring, {"method": method, "options": options})


@pytest.mark.parametrize("of", [("eap", "relp"), ("relp", "eap")])
def test_scores_of_an_ensemble_say_that_an_ensemble_made_them(of):
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)
    scoring = asked("ensemble", {"of": of, "by": "ranks"})
    alone = ensemble.attribute(model, pairs, scoring)
    for found in (alone, score_edges(model, pairs, scoring)):
        assert found.provenance["method"] == "ensemble"
        assert found.provenance["options"] == {"of": list(of), "by": "ranks"}
        assert found.provenance["pairs"] == len(pairs)


@pytest.mark.parametrize(
    ("method", "options", "meaning"),
    [
        ("eap-ig", None, "effect"),
        ("exact", None, "effect"),
        ("atp-star", None, "size"),
        ("atp-star", {"drop": False}, "effect"),
        ("edge-pruning", None, "size"),
        ("ensemble", {"of": ("eap", "gim")}, "sign"),
        ("ensemble", {"of": ("eap", "gim"), "by": "ranks"}, "sign"),
        ("ensemble", {"of": ("eap", "edge-pruning")}, "size"),
        ("ensemble", {"of": ("atp-star", "eap")}, "size"),
    ],
)
def test_what_scores_say_is_the_locator_s_and_its_options_to_decide(method, options, meaning):
    assert asked(method, options).meaning == meaning


def test_scores_say_what_they_mean_and_those_without_a_sign_have_none():
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)[:2]
    absolute, signed = (
        score_edges(model, pairs, asked("atp-star", {"drop": drop})) for drop in (True, False)
    )
    assert (absolute.meaning, signed.meaning) == ("size", "effect")
    assert absolute.values.min() >= 0 > signed.values.min()
    assert "supporting / opposing" in signed.summary().facts
    assert "supporting / opposing" not in absolute.summary().facts
