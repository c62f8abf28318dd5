"""Whether prompts begin with BOS is said by every command that asks, and recorded."""

from __future__ import annotations

import pytest

from circuits.facts.pairs import encode_pairs
from circuits.model.model import Model
from experiments.cli.main import main
from locate.edges.score import score_edges
from locate.heads.roles import head_roles
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution
from tests.tiny import prompt_pairs

FRANCE = "The capital of France is"
WORDS = ("--subject", "France", "--answer", "Paris")
ASKED = ("-p", "The capital of {} is", "-s", "France", "-t", "Lima")
EDIT = (*ASKED, "--method", "ft", "--layers", "1")


@pytest.mark.parametrize(("flag", "words"), [("--bos", "with a"), ("--no-bos", "without a")])
@pytest.mark.parametrize("command", ["trace", "lens", "edit"])
def test_commands_say_how_their_prompts_begin(command: str, flag: str, words: str, tiny, capsys):
    asked = {
        "trace": (FRANCE, *WORDS, "--samples", "1", "--kind", "mlp"),
        "lens": (FRANCE, *WORDS),
        "edit": EDIT,
    }
    assert main([command, *asked[command], "-m", tiny, flag]) == 0
    assert capsys.readouterr().err.count(f"prompts begin {words} BOS token") == 1


@pytest.mark.parametrize("bos", [True, False])
def test_results_on_pairs_record_how_these_began(model: Model, bos: bool):
    pairs = [pair for pair in prompt_pairs() if pair.subject in ("France", "Peru")]
    chosen = encode_pairs(model.tokenizer, pairs[:2], bos)
    found = (
        score_edges(model, chosen, Scoring()),
        head_roles(model, chosen, check=False, by_example=False),
        direct_logit_attribution(model, chosen),
    )
    assert [each.provenance["bos"] for each in found] == [bos] * 3
