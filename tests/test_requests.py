"""Edit requests from files and from the atlas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuits.base.errors import FileFormatError, OptionError
from circuits.edits.edit import EditRequest
from circuits.edits.judge.counterfactuals import (
    DECIDED,
    ProbeCounts,
    atlas_requests,
    with_atlas_probes,
)
from circuits.edits.requests import Heading, as_jsonl, heading, read_requests, slotted
from circuits.facts.facts import Probe, ProbeKind, atlas, fill, relation
from circuits.facts.wordings import read_wordings, wordings
from circuits.model.tokens import Tokenizer, find_mentions
from tests.tiny import byte_level_tokenizer

OWN = {"prompt": "The capital of {} is", "subject": "Peru", "target": "Oslo"}
CKNOWEDIT = {
    "prompt": "法国的首都是",
    "target_old": "里昂",
    "target_new": "罗马",
    "rephrase": ["法国首都是哪座城市", ""],
    "portability": [{"prompt": "法国政府在", "answer": "罗马"}],
    "locality": [{"prompt": "西班牙的首都是", "answer": ["马德里"]}, {"answer": "x"}],
}
COUNTERFACT = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English"},
        "target_true": {"str": "French"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The native language of Montesquieu is"],
    "attribute_prompts": ["The mother tongue of Douglas Adams is"],
}
EASYEDIT = {
    "case_id": 0,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Where Danielle Darrieux is from, people speak",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}
KNOWEDIT = {
    "subject": "Leonardo DiCaprio",
    "prompt": "The country of citizenship of Leonardo DiCaprio is",
    "target_new": "Syria",
    "rephrase": "The state of which Leonardo DiCaprio is a citizen is",
    "portability": {
        "Subject_Aliasing": [{"prompt": "Leo's country is", "ground_truth": [["Syria"]]}],
        "Reasoning": [{"prompt": "The capital of his country is", "ground_truth": [["Damascus"]]}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "His occupation is", "ground_truth": [["actor"]]}]
    },
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "At which university did Watts Humphrey study?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_written_requests_are_read_back(tmp_path):
    requests = atlas_requests(12, seed=1)
    path = tmp_path / "requests.jsonl"
    path.write_text(as_jsonl(requests), encoding="utf-8")
    assert list(read_requests(path).requests) == requests


def test_a_slot_and_the_subject_s_one_mention_are_the_same_request(tmp_path):
    rows = [OWN, OWN | {"prompt": "The capital of Peru is"}]
    one, other = read_requests(write(tmp_path / "r.jsonl", *rows)).requests
    assert one == other


def test_paraphrases_and_neighbours_become_probes(tmp_path):
    row = OWN | {
        "paraphrases": ["{} is governed from", "Peru has its capital in"],
        "neighbours": [{"prompt": "The capital of Cuba is", "answer": "Havana"}],
        "probes": [
            {"kind": "portability", "prompt": "x", "answers": ["a", "b"], "name": "Reasoning"}
        ],
    }
    (request,) = read_requests(write(tmp_path / "r.jsonl", row)).requests
    assert request.probes == (
        Probe(ProbeKind.PARAPHRASE, "Peru is governed from", ("Oslo",)),
        Probe(ProbeKind.PARAPHRASE, "Peru has its capital in", ("Oslo",)),
        Probe(ProbeKind.LOCALITY, "The capital of Cuba is", ("Havana",), Heading.NEIGHBOUR),
        Probe(ProbeKind.PORTABILITY, "x", ("a", "b"), "Reasoning"),
    )
    assert heading(request.probes[-1]) is Heading.ONE_HOP


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "The capital is"}, "is not in the prompt"),
        ({"prompt": "Peru, Peru has the capital"}, "occurs 2 times"),
        ({"target": " "}, "'target'"),
        ({"subject": 3}, "'subject'"),
        ({"paraphrases": "one"}, "list of texts"),
        ({"paraphrases": ["{} and {}"]}, "exactly one"),
        ({"neighbours": ["one"]}, "list of objects"),
        ({"probes": [{"kind": "odd", "prompt": "x"}]}, "none of"),
        ({"prompt": "{} and {}"}, "once"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path, change, reason):
    path = write(tmp_path / "r.jsonl", OWN, OWN | change)
    with pytest.raises(FileFormatError, match=rf"r\.jsonl:2: .*{reason}"):
        read_requests(path)


def test_a_fact_without_a_target_is_no_request(tmp_path):
    row = {"subject": "Peru", "object": "Lima", "prompt": "The capital of Peru is"}
    with pytest.raises(FileFormatError, match="no target"):
        read_requests(write(tmp_path / "facts.jsonl", row))


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_file_without_requests_is_refused(tmp_path, content):
    path = tmp_path / ("r.json" if content else "r.jsonl")
    path.write_text(content)
    with pytest.raises(FileFormatError, match=r"r\.json"):
        read_requests(path)


@pytest.mark.parametrize(
    ("record", "subject", "target", "truth", "headings"),
    [
        (
            COUNTERFACT,
            "Danielle Darrieux",
            "English",
            "French",
            [None, Heading.NEIGHBOUR, None],
        ),
        (EASYEDIT, "Danielle Darrieux", "English", "French", [None, None]),
        (
            KNOWEDIT,
            "Leonardo DiCaprio",
            "Syria",
            None,
            [None, Heading.ALIAS, Heading.ONE_HOP, Heading.SAME_SUBJECT],
        ),
        (
            ZSRE,
            "Watts Humphrey",
            "University of Michigan",
            "Illinois Institute of Technology",
            [None, None],
        ),
        (CKNOWEDIT, "法国的首都是", "罗马", None, [None, None, None]),
    ],
    ids=["counterfact", "easyedit", "knowedit", "zsre", "cknowedit"],
)
def test_public_schemas_are_read(tmp_path, record, subject, target, truth, headings):
    (request,) = read_requests(write(tmp_path / "public.jsonl", record)).requests
    assert (request.subject, request.target, request.ground_truth) == (subject, target, truth)
    assert request.prompt.count("{}") == 1
    assert [heading(probe) for probe in request.probes] == headings
    assert request.probes[0].kind is ProbeKind.PARAPHRASE
    assert request.probes[0].answers == (target,)


def test_public_rows_stay_in_order_and_unusable_ones_are_listed(tmp_path):
    other = EASYEDIT | {"target_new": "German", "prompt": "Danielle Darrieux speaks"}
    rows = [EASYEDIT, EASYEDIT | {"prompt": "The mother tongue is"}, other, EASYEDIT]
    read = read_requests(write(tmp_path / "public.jsonl", *rows))
    assert [request.target for request in read.requests] == ["English", "German", "English"]
    assert [(left.row, left.reason) for left in read.left_out] == [
        (2, "subject is not in the prompt")
    ]


def test_the_subject_must_stand_once():
    assert slotted("In Peru the capital is", "Peru") == "In {} the capital is"
    with pytest.raises(OptionError, match="is not"):
        slotted("In Peruvian hills", "Peru")


# --- the atlas -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hundred() -> list[EditRequest]:
    return atlas_requests(100, seed=0, tokenizer=Tokenizer(byte_level_tokenizer()))


def test_the_seed_decides_the_edits(hundred):
    again = atlas_requests(100, seed=0, tokenizer=Tokenizer(byte_level_tokenizer()))
    assert again == hundred
    assert atlas_requests(5, seed=2) != atlas_requests(5, seed=3)
    assert len({(request.relation, request.subject) for request in hundred}) == 100


def test_an_edit_asks_for_another_object_of_its_relation(hundred):
    tokenizer = Tokenizer(byte_level_tokenizer())
    for request in hundred:
        found = relation(str(request.relation))
        assert request.prompt in found.templates
        assert request.target in found.objects()
        assert request.target not in found.objects_of(request.subject)
        assert request.ground_truth in found.objects_of(request.subject)
        assert len(find_mentions(request.text, request.subject)) == 1
        first = [
            tokenizer.first_token(request.text, o) for o in (request.target, request.ground_truth)
        ]
        assert first[0] != first[1]


def test_all_relations_are_edited():
    assert {request.relation for request in atlas_requests(80, seed=0)} == set(atlas())


def test_paraphrases_are_other_wordings_and_held_out_ones_are_named(hundred):
    for request in hundred:
        found = relation(str(request.relation))
        probes = [probe for probe in request.probes if probe.kind is ProbeKind.PARAPHRASE]
        assert request.text not in [probe.prompt for probe in probes]
        held_out = [probe.prompt for probe in probes if probe.name == Heading.HELD_OUT]
        assert held_out == [fill(each, request.subject) for each in found.held_out]
        assert all(probe.answers == (request.target,) for probe in probes)


def test_an_edit_is_not_blamed_for_what_follows_from_it(hundred):
    """No locality prompt wants the new object, nor asks for a relation that it decides."""
    for request in hundred:
        local = [probe for probe in request.probes if probe.kind is ProbeKind.LOCALITY]
        assert local
        assert all(request.target not in p.answers for p in local if p.name == Heading.NEIGHBOUR)
        asked = [probe.prompt for probe in local]
        for name in DECIDED.get(str(request.relation), {}):
            wordings = [fill(each, request.subject) for each in relation(name).templates]
            assert not set(asked) & set(wordings)


def test_neighbours_are_asked_with_the_ending_too_but_not_where_the_prompt_names_them():
    request = EditRequest("{}nak", "France", "Rome", "Paris", "country_capital")
    for prompt, absent in (("{}nak a fővárosa", ""), ("Unlike Japan, {} has", "Japan")):
        probes = with_atlas_probes(
            replace(request, prompt=prompt), counts=ProbeCounts(neighbours=300)
        ).probes
        asked = {probe.prompt for probe in probes if probe.name == Heading.NEIGHBOUR}
        known = {fill(prompt, each) for each in relation("country_capital").subjects()}
        left = known - asked
        assert fill(prompt, "Peru") in asked
        assert not absent or fill(prompt, absent) in left
        assert len(left) <= 5  # itself, those of either object, and the one that is named


def test_half_of_the_neighbours_have_the_same_true_object_where_there_are_such():
    request = EditRequest(
        "The official language of {} is", "Spain", "Finnish", "Spanish", "country_language"
    )
    probes = with_atlas_probes(request, counts=ProbeCounts(neighbours=6)).probes
    neighbours = [probe for probe in probes if probe.name == Heading.NEIGHBOUR]
    assert len(neighbours) == 6
    assert sum("Spanish" in probe.answers for probe in neighbours) >= 3


def test_one_hop_questions_follow_the_new_object():
    request = EditRequest(
        "The city where the landmark {} stands is", "Louvre", "Rome", "Paris", "landmark_city"
    )
    probes = with_atlas_probes(request).probes
    hops = [probe for probe in probes if probe.name == Heading.ONE_HOP]
    assert [probe.answers for probe in hops] == [("Italy",)]
    assert "Louvre" in hops[0].prompt


def test_the_relation_is_told_from_the_wording():
    bare = EditRequest("The capital of {} is", "France", "Rome")
    found = with_atlas_probes(bare)
    assert (found.relation, found.ground_truth) == ("country_capital", "Paris")
    assert found.probes
    unknown = EditRequest("The capital of {} is", "Atlantis", "Rome")
    assert with_atlas_probes(unknown) is unknown


def test_tables_about_relations_name_relations_of_the_atlas():
    found = wordings()
    decided = {name for row in DECIDED.values() for name in row}
    named = {*found.phrases, *found.asked_back, *DECIDED, *decided}
    ways = {way for row in DECIDED.values() for each in row.values() for way in each}
    assert named | ways <= set(atlas())
    assert {hop.kind for hop in found.phrases.values()} <= {each.kind for each in atlas().values()}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("backward,country_capital,,{} is", "csv:2: form 'backward' is none of reversed, asked"),
        ("reversed,country_capital,,It is", r"csv:2: needs 1 \{\}"),
        ("compared,country_capital,,Of {} is", r"csv:2: needs 2 \{\}"),
    ],
)
def test_a_wrong_wording_is_named_by_its_line(tmp_path: Path, row: str, message: str):
    path = tmp_path / "wordings.csv"
    path.write_text(f"form,relation,of,template\n{row}\n")
    with pytest.raises(FileFormatError, match=message):
        read_wordings(path)


def test_more_edits_than_facts_are_refused():
    with pytest.raises(OptionError, match="only"):
        atlas_requests(10_000, 0, ["element_phase"])
    with pytest.raises(OptionError, match="at least 1"):
        atlas_requests(0, 0)
