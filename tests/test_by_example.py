"""What heads write, pair by pair: the counts are those of a plain reading, stored and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.base.arrays import save_arrays
from circuits.base.errors import FileFormatError, OptionError
from circuits.facts.pairs import TokenPair, encode_pairs
from circuits.model.model import Model
from locate.heads import best_tokens, roles
from locate.heads.best_tokens import BestTokens
from locate.heads.by_example import ByExample, Example, of_record
from locate.heads.head_role import HeadRole
from locate.heads.role_criteria import RoleCriteria
from locate.heads.role_report import RoleReport
from locate.heads.roles import head_roles
from locate.looks import roles as looks
from locate.states.attribution import head_logits
from tests import results
from tests.forms import check_form
from tests.test_app_pages import texts
from viz.app.details import role_evidence
from viz.page.nodes import node_notes
from viz.screen.heads import roles_figure

LOOSE = RoleCriteria(attention=0.05, share=0.001, resamples=200)
TOLD = ByExample(5, 12, 11, 1, (Example("France", " Paris", (" Paris", " Lyon", " French")),))


def plain_best(model: Model, pair: TokenPair, n: int) -> torch.Tensor:
    """Every head's n best tokens in one pair, from the logits over the whole vocabulary."""
    sites = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    logits = head_logits(model, torch.tensor([pair.clean.ids]), sites)[0]
    return logits.topk(n, -1).indices


def plain_counts(model: Model, pairs: list[TokenPair], n: int) -> dict[str, tuple[int, int]]:
    counts = np.zeros((model.n_layers * model.n_heads, 2), dtype=int)
    for pair in pairs:
        for place, best in enumerate(plain_best(model, pair, n).tolist()):
            counts[place] += [pair.answer in best, pair.foil in best]
    names = [f"a{layer}.h{h}" for layer in range(model.n_layers) for h in range(model.n_heads)]
    return {name: tuple(row) for name, row in zip(names, counts.tolist(), strict=True)}


def counts_of(report: RoleReport) -> dict[str, tuple[int, int]]:
    return {head.name: (head.by_example.answers, head.by_example.foils) for head in report.heads}


# --- the counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize(("sample", "chunk", "at_once"), [(512, 8192, 128), (7, 50, 3)])
def test_the_counts_are_those_of_a_plain_reading(
    model, pairs, n, sample, chunk, at_once, monkeypatch
):
    for name, value in {"SAMPLE": sample, "CHUNK": chunk, "AT_ONCE": at_once}.items():
        monkeypatch.setattr(best_tokens, name, value)
    found = counts_of(head_roles(model, pairs, check=False, n_written=n))
    assert found == plain_counts(model, pairs, n)
    assert n == 5 or 0 < sum(map(sum, found.values())) < 2 * len(pairs) * len(found)


def test_batches_and_order_change_no_count(model, pairs):
    together = head_roles(model, pairs, check=False, n_written=40)
    alone = head_roles(model, pairs[::-1], check=False, n_written=40, batch_size=1)
    assert counts_of(alone) == counts_of(together)


def test_a_sample_leaves_few_heads_to_be_read_in_full(model, pairs, monkeypatch):
    """What makes it cheap: with one best token a small sample rules nearly all heads out."""
    read: list[int] = []
    count = BestTokens._count

    def counted(self: BestTokens) -> None:
        read.append(sum(len(each.heads) for each in self._open))
        count(self)

    monkeypatch.setattr(BestTokens, "_count", counted)
    monkeypatch.setattr(best_tokens, "SAMPLE", 60)
    found = head_roles(model, pairs, check=False, n_written=1)
    assert counts_of(found) == plain_counts(model, pairs, 1)
    assert sum(read) < 0.2 * len(pairs) * len(found.heads)


def test_a_head_that_writes_nothing_holds_no_answer(model, pairs):
    """All its logits are the same, so that no token is better than another."""
    best = BestTokens(model, pairs, 5)
    nothing = torch.zeros(len(pairs), model.n_heads, model.d_model)
    best.see(1, range(len(pairs)), nothing)
    told = best.told([])
    assert {(each.answers, each.foils) for each in told.values()} == {(0, 0)}


def test_more_tokens_than_there_are_hold_every_answer(model, pairs):
    found = head_roles(model, pairs, check=False, n_written=model.d_vocab + 9)
    assert set(counts_of(found).values()) == {(len(pairs), len(pairs))}


def test_who_asks_for_labels_only_gets_no_examples(model, pairs):
    found = head_roles(model, pairs, check=False, by_example=False)
    assert {head.by_example for head in found.heads} == {None}


# --- the examples --------------------------------------------------------------------------------


def test_examples_are_the_best_tokens_of_the_first_subjects(model, pairs, monkeypatch):
    monkeypatch.setattr(roles, "WITH_EXAMPLES", 2)
    twice = [pairs[0], *pairs]
    report = head_roles(model, twice, criteria=LOOSE, check=False)
    subjects = list(dict.fromkeys(pair.text.subject for pair in pairs))[:3]
    asked = [next(p for p in pairs if p.text.subject == subject) for subject in subjects]
    shown = [head for head in report.heads if head.by_example.examples]
    named = {head.name for head in (*report.labelled, *report.heads[:2])}
    assert named == {head.name for head in shown}
    assert 0 < len(report.labelled) < len(report.heads)
    for place, (subject, pair) in enumerate(zip(subjects, asked, strict=True)):
        best = plain_best(model, pair, 5).tolist()
        for head in shown:
            found = head.by_example.examples[place]
            tokens = best[head.layer * model.n_heads + head.head]
            assert found.best == tuple(map(model.tokenizer.token_string, tokens))
            assert (found.subject, found.answer) == (
                subject,
                model.tokenizer.token_string(pair.answer),
            )
            assert found.hit == (pair.answer in tokens)


def test_a_subject_may_be_named_as_a_span(model, pairs):
    texts = [replace(p.text, subject=None, spans=(("subject", p.text.subject, 1),)) for p in pairs]
    named = encode_pairs(model.tokenizer, texts)
    first = head_roles(model, named, check=False).heads[0].by_example
    assert [each.subject for each in first.examples] == [p.text.subject for p in pairs[:3]]


# --- files ---------------------------------------------------------------------------------------


def old_form(report: RoleReport, path: Path) -> RoleReport:
    """The report from a file as it was written before anything was told by example."""
    content = json.loads(json.dumps(report.metadata()))
    for head in content["heads"]:
        del head["by_example"]
    save_arrays(path, RoleReport.KIND, report.arrays(), content)
    return RoleReport.load(path)


def test_what_is_told_is_stored_and_in_the_published_form(model, pairs, tmp_path: Path):
    report = head_roles(model, pairs, check=False)
    report.save(tmp_path / "roles.kc.safetensors")
    again = RoleReport.load(tmp_path / "roles.kc.safetensors")
    assert [head.by_example for head in again.heads] == [head.by_example for head in report.heads]
    record = looks.roles(report).record
    check_form(json.loads(json.dumps(record)))
    told = report.heads[0].by_example
    assert record["heads"][0]["by_example"]["answers"] == told.answers
    assert len(record["heads"][0]["by_example"]["examples"]) == 3
    table = report.to_pandas()
    assert table["answers_in_best"].tolist() == [h.by_example.answers for h in report.heads]
    assert table["examples"][0] == [str(each) for each in told.examples]


def test_an_older_file_is_read_and_shown_as_it_was(tmp_path: Path):
    report = results.roles()
    first = replace(report.heads[0], by_example=TOLD, written=(" Paris", "Rome"))
    report = replace(report, heads=(first, *report.heads[1:]))
    old = old_form(report, tmp_path / "old.kc.safetensors")
    assert {head.by_example for head in old.heads} == {None}
    assert old.heads[0].writes == old.rows()[0]["writes"] == "Paris Rome"
    assert old.rows()[0]["answers_in_best"] is None
    assert "Paris Rome" in repr(replace(old, heads=old.heads[:1]))
    record = old.as_dict()["heads"][0]
    assert "Writes, over the pairs" in texts_of(record)
    assert "writes, mean over the pairs" in dict(notes_of(record))
    assert "pair by pair" not in texts_of(record)
    roles_figure(old)


@pytest.mark.parametrize(
    "wrong",
    [
        {"answers": 13},
        {"foils": -1},
        {"pairs": 2.5},
        {"n_best": True},
        {"examples": 3},
        {"examples": [{"subject": "France", "answer": " Paris"}]},
        {"examples": [{"subject": "France", "answer": " Paris", "best": [1]}]},
    ],
)
def test_counts_that_cannot_be_are_refused_in_a_file_and_passed_over_in_evidence(
    wrong, tmp_path: Path
):
    report = results.roles()
    heads = (replace(report.heads[0], by_example=TOLD), *report.heads[1:])
    content = json.loads(json.dumps(replace(report, heads=heads).metadata()))
    assert of_record(content["heads"][0]) == TOLD
    content["heads"][0]["by_example"] |= wrong
    path = tmp_path / "odd.kc.safetensors"
    save_arrays(path, RoleReport.KIND, report.arrays(), content)
    with pytest.raises(FileFormatError, match="is no roles"):
        RoleReport.load(path)
    assert of_record(content["heads"][0]) is None
    notes_of(content["heads"][0])
    texts_of(content["heads"][0])


def test_more_answers_than_pairs_are_refused():
    with pytest.raises(OptionError, match="answers in 3 of 2 pairs"):
        ByExample(5, 2, 3, 0)


# --- what is shown -------------------------------------------------------------------------------


def told_head() -> HeadRole:
    return replace(results.roles().heads[0], by_example=TOLD)


def notes_of(record) -> list[tuple[str, str]]:
    circuit = replace(results.circuit(), evidence={"roles": [record]})
    return node_notes(circuit)[record["name"]]


def texts_of(record) -> str:
    return " ".join(map(texts, role_evidence(record)))


def test_the_app_and_the_page_say_the_counts_and_the_examples():
    record = told_head().as_dict()
    sentence = "the answer is among its 5 best tokens in 11 of 12 pairs, the foil in 1"
    assert str(TOLD) == sentence
    notes = dict(notes_of(record))
    assert notes["what it writes"] == sentence
    assert notes["writes for France (Paris)"] == "Paris Lyon French"
    assert "writes, mean over the pairs" not in notes
    shown = texts_of(record)
    assert sentence[1:] in shown
    assert "France (answer Paris)" in shown
    assert shown.count("token hit") == 1
    assert "Writes, over the pairs" not in shown


def test_tables_have_the_counts_and_three_heads_their_examples(model, pairs):
    report = head_roles(model, pairs, criteria=LOOSE, check=False)
    about = {"relation": "capital"}
    report = replace(report, provenance={**report.provenance, **about})
    assert report.summary().rows[0][5] == report.labelled[0].by_example.counts
    table, examples = looks.roles(report).tables
    assert table.rows[0][table.header.index("writes")] == report.labelled[0].by_example.counts
    assert [row[0] for row in examples.rows] == [
        head.name for head in report.labelled[:3] for _ in range(3)
    ]
    assert any("5 tokens" in line for line in looks.roles(report).lines)
    assert f"writes {report.heads[0].writes}" in str(roles_figure(report).to_dict())
