"""Public schemas become the atlas's types; whatever is wrong is named by file and line."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

import circuits.model.hub
from circuits.base.errors import FileFormatError
from circuits.facts.facts import Fact, Probe, ProbeKind
from circuits.facts.loaders import load_facts, read_facts
from circuits.facts.schemas import Schema
from tests.shared import shared_data

LRE = {
    "name": "country anthem",
    "prompt_templates": ["The anthem of {} is called", "{} sings"],
    "prompt_templates_zs": ["What does {} sing? It sings", "{} sings"],
    "properties": {"relation_type": "factual", "domain_name": "country"},
    "samples": [
        {"subject": "Utopia", "object": "Hymn"},
        {"subject": "Bras\\u00edlia", "object": "Canção"},
        {"subject": "Utopia", "object": "Hymn"},
    ],
}
COUNTERFACT = [
    {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "{} was written in",
            "relation_id": "P407",
            "target_new": {"str": "Danish", "id": "Q1"},
            "target_true": {"str": "Polish", "id": "Q2"},
            "subject": "The Book of Ink",
        },
        "paraphrase_prompts": ["Rain fell. The Book of Ink's language is"],
        "neighborhood_prompts": ["Another Book was written in", "A third was written in"],
        "attribute_prompts": ["A Danish Book was written in"],
    },
    {
        "case_id": 4,
        "requested_rewrite": {
            "prompt": "The language of {} is",
            "relation_id": "P407",
            "target_new": {"str": "Polish"},
            "target_true": {"str": "Danish"},
            "subject": "Salt",
        },
    },
]
EASYEDIT = [
    {
        "prompt": "The mother tongue of Ada Nemo is",
        "subject": "Ada Nemo",
        "ground_truth": "Welsh",
        "target_new": "Thai",
        "rephrase_prompt": "Ada Nemo grew up with",
        "locality_prompt": "Bo Nemo speaks",
        "locality_ground_truth": "Irish",
    },
    {
        "prompt": "The mother tongue of Cy Nemo is",
        "subject": "Cy Nemo",
        "ground_truth": "Thai",
        "target_new": "Welsh",
    },
]
KNOWN = [
    {
        "known_id": 0,
        "subject": "Ice Hill",
        "attribute": "Asia",
        "template": "{} lies in the continent",
        "prompt": "Ice Hill lies in the continent of",
        "relation_id": "P30",
    },
    {
        "known_id": 1,
        "subject": "Sand Hill",
        "attribute": "Africa",
        "template": "{} belongs to",
        "prompt": "Sand Hill belongs to",
        "relation_id": "P30",
    },
]
KNOWEDIT = [
    {
        "subject": "Ada Nemo",
        "prompt": "The citizenship of Ada Nemo is",
        "target_new": "Syria",
        "ground_truth": ["Wales", "Cymru"],
        "portability": {
            "Reasoning": [{"prompt": "Her capital is", "ground_truth": [["Damascus", "Dimashq"]]}]
        },
        "locality": {"Forgetfulness": [{"prompt": "Ada Nemo is a", "ground_truth": ["poet"]}]},
    },
    {"subject": "Bo", "prompt": "The citizenship of Bo is", "target_new": "Peru", "locality": {}},
]


def _write(path: Path, content: Any) -> Path:
    if path.suffix == ".jsonl":
        text = "\n".join(json.dumps(record, ensure_ascii=False) for record in content) + "\n"
    else:
        text = json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_an_lre_file_is_a_relation_with_zero_shot_templates_held_out(tmp_path: Path):
    (anthem,) = load_facts(_write(tmp_path / "a.json", LRE))
    assert (anthem.name, anthem.category, anthem.kind) == ("country anthem", "factual", "country")
    assert anthem.templates == ("The anthem of {} is called", "{} sings")
    assert anthem.held_out == ("What does {} sing? It sings",)
    assert anthem.facts == (
        Fact("country anthem", "Utopia", "Hymn"),
        Fact("country anthem", "Brasília", "Canção"),
    )


def test_counterfact_groups_by_relation_and_keeps_each_facts_wording_and_probes(tmp_path: Path):
    (written,) = load_facts(_write(tmp_path / "c.json", COUNTERFACT))
    assert written.name == "P407"
    book, salt = written.facts
    assert (book.subject, book.object, book.target) == ("The Book of Ink", "Polish", "Danish")
    assert (book.template, salt.template) == ("{} was written in", "The language of {} is")
    assert written.templates == ("{} was written in", "The language of {} is")
    kinds = [(probe.kind, probe.answers) for probe in book.probes]
    assert kinds == [
        (ProbeKind.PARAPHRASE, ("Danish",)),
        (ProbeKind.LOCALITY, ("Polish",)),
        (ProbeKind.LOCALITY, ("Polish",)),
        (ProbeKind.LOCALITY, ("Danish",)),
    ]


def test_flat_edit_requests_group_by_their_wording(tmp_path: Path):
    (tongue,) = load_facts(_write(tmp_path / "e.json", EASYEDIT))
    assert tongue.name == "The mother tongue of {} is"
    assert tongue.templates == ("The mother tongue of {} is",)
    ada, cy = tongue.facts
    assert (ada.object, ada.target, ada.template) == ("Welsh", "Thai", None)
    assert ada.probes == (
        Probe(ProbeKind.PARAPHRASE, "Ada Nemo grew up with", ("Thai",), "rephrase_prompt"),
        Probe(ProbeKind.LOCALITY, "Bo Nemo speaks", ("Irish",), "locality_prompt"),
    )
    assert cy.probes == ()


def test_compmech_rows_are_read_by_their_base_prompt(tmp_path: Path):
    row = {
        "base_prompt": "Ink 5 is made by",
        "template": "{}: Ink 5 is made by{}. Ink 5 is made by",
        "prompt": "Redefine: Ink 5 is made by Pen. Ink 5 is made by",
        "target_true": " Quill",
        "target_new": " Pen",
        "subject": "Ink 5",
    }
    (made,) = load_facts(_write(tmp_path / "m.json", [row]))
    assert made.facts == (Fact("{} is made by", "Ink 5", "Quill", None, "Pen"),)


def test_known_1000_words_come_from_the_prompt_because_the_template_lacks_some(tmp_path: Path):
    (continent,) = load_facts(_write(tmp_path / "k.json", KNOWN))
    ice, sand = continent.facts
    assert (continent.name, ice.object) == ("P30", "Asia")
    assert ice.template == "{} lies in the continent of"
    assert sand.template == "{} belongs to"


def test_knowedit_keeps_the_first_alias_and_all_of_a_probes_answers(tmp_path: Path):
    (citizen,) = load_facts(_write(tmp_path / "w.json", KNOWEDIT))
    ada, bo = citizen.facts
    assert (ada.object, ada.target) == ("Wales", "Syria")
    assert (bo.object, bo.target) == ("Peru", "Peru"), "no true object: the requested one stands in"
    assert ada.probes == (
        Probe(ProbeKind.PORTABILITY, "Her capital is", ("Damascus", "Dimashq"), "Reasoning"),
        Probe(ProbeKind.LOCALITY, "Ada Nemo is a", ("poet",), "Forgetfulness"),
    )


PLAIN = [
    {"subject": "Utopia", "object": "Amaurot", "prompt": "The capital of {} is", "relation": "cap"},
    {"subject": "Laputa", "object": "Lagado", "prompt": "Laputa's city is", "relation": "cap"},
    {"subject": "Utopia", "object": "Amaurot", "prompt": "The capital of Utopia is"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_plain_facts_read_the_same_from_every_kind_of_file(tmp_path: Path, suffix: str):
    path = tmp_path / f"facts{suffix}"
    if suffix == ".csv":
        lines = ["\ufeffsubject,object,prompt,relation"]
        lines += [",".join(row.get(k, "") for k in ("subject", "object", "prompt", "relation"))
                  for row in PLAIN]  # fmt: skip
        path.write_text("\r\n".join(lines), encoding="utf-8")
    elif suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(PLAIN)
        parquet.write_table(table, path)
    else:
        _write(path, PLAIN)
    named, unnamed = load_facts(path)
    assert named.name == "cap"
    assert named.facts == (
        Fact("cap", "Utopia", "Amaurot", "The capital of {} is"),
        Fact("cap", "Laputa", "Lagado", "{}'s city is"),
    )
    assert unnamed.facts == (Fact("The capital of {} is", "Utopia", "Amaurot"),)


def test_a_directory_is_all_of_its_files_and_one_relation_in_two_files_is_one(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    _write(tmp_path / "a.json", LRE)
    more = LRE | {"samples": [{"subject": "Laputa", "object": "Tune"}, LRE["samples"][0]]}
    _write(tmp_path / "deep" / "b.json", more)
    _write(tmp_path / "known.json", KNOWN)
    by_name = {relation.name: relation for relation in load_facts(tmp_path)}
    assert set(by_name) == {"country anthem", "P30"}
    assert by_name["country anthem"].subjects() == ("Utopia", "Brasília", "Laputa")


def test_only_equal_rows_collapse_not_other_wordings_nor_other_targets(tmp_path: Path):
    row = PLAIN[0]
    wordings = [row, row | {"prompt": "{} is ruled from"}, row]
    (cap,) = load_facts(_write(tmp_path / "w.jsonl", wordings))
    assert [fact.template for fact in cap.facts] == ["The capital of {} is", "{} is ruled from"]
    targets = [EASYEDIT[1], EASYEDIT[1] | {"target_new": "Irish"}, EASYEDIT[1]]
    (tongue,) = load_facts(_write(tmp_path / "t.json", targets))
    assert [fact.target for fact in tongue.facts] == ["Welsh", "Irish"]


def test_rows_whose_subject_is_not_once_in_the_prompt_are_counted_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bad = [
        EASYEDIT[0] | {"subject": "Ada Nem"},
        EASYEDIT[0] | {"prompt": "Ada Nemo, said Ada Nemo, is"},
    ]
    path = _write(tmp_path / "e.json", [*bad, EASYEDIT[1]])
    read = read_facts(path)
    assert [(row.row, row.reason) for row in read.left_out] == [
        (1, "subject is not in the prompt"),
        (2, "subject occurs twice"),
    ]
    with caplog.at_level(logging.WARNING):
        (relation,) = load_facts(path)
    assert len(relation.facts) == 1
    assert "2 rows left out" in caplog.text


def test_a_schema_can_be_named_and_then_rules(tmp_path: Path):
    path = _write(tmp_path / "k.json", KNOWN)
    with pytest.raises(FileFormatError, match=r"k.json \(row 1\): lacks the key 'object'"):
        load_facts(path, schema=Schema.PLAIN)


def test_unusual_line_separators_inside_a_json_text_do_not_split_the_line(tmp_path: Path):
    row = {"subject": "Uto\u2028pia", "object": "Ama\u0085urot", "prompt": "The capital of {} is"}
    ((fact,),) = [relation.facts for relation in load_facts(_write(tmp_path / "f.jsonl", [row]))]
    assert fact.subject == "Uto\u2028pia"


GOOD = '{"subject": "A", "object": "B", "prompt": "{} is"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no facts"),
        ("\n \n", "holds no facts"),
        (f"{GOOD}\n{{", "f.jsonl:2: not JSON"),
        (f"{GOOD}\n[1]", "f.jsonl:2: must be a JSON object"),
        (f'{GOOD}\n\n{{"subject": "A", "prompt": "{{}}"}}', "f.jsonl:3: lacks the key 'object'"),
        (f"{GOOD}\n{GOOD.replace('B', '')}", "f.jsonl:2: 'object' must be text and not empty"),
        (f"{GOOD}\n{GOOD.replace('{}', 'C')}", "f.jsonl:2: subject is not in the prompt"),
        (f"{GOOD}\n{GOOD.replace('{}', 'A or A')}", "f.jsonl:2: subject occurs twice"),
        (f"{GOOD}\n{GOOD.replace('{}', '{} {}')}", "f.jsonl:2: prompt has 2 slots"),
        (f'{GOOD}\n{{"subject": NaN}}', "f.jsonl:2: not usable JSON: the constant NaN"),
        (f'{GOOD}\n{{"subject": -Infinity}}', "f.jsonl:2: not usable JSON"),
        (f"{GOOD}\n{'[' * 200_000}", "f.jsonl:2: not usable JSON: nested too deeply"),
        (f'{GOOD}\n{{"a": {"9" * 5000}}}', "f.jsonl:2: not usable JSON"),
        (f"{GOOD}\n" + GOOD.replace("B", "\\ud800"), "f.jsonl:2: 'object' holds half of a surr"),
        ('{"question": "?"}', "no schema that is known here"),
    ],
)
def test_a_mistake_in_jsonl_is_named_with_its_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "f.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        load_facts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.csv", b"subject,object\nA,B,C\n", "f.csv:2: has too few or too many cells"),
        ("f.csv", b"subject,subject,object\nA,B,C\n", "f.csv:1: has 2 columns 'subject'"),
        ("f.csv", b"subject,thing\nA,B\n", "f.csv:1: has no column 'object'"),
        ("f.csv", b"subject,object\nA,B\n", "f.csv:2: lacks the key 'prompt'"),
        ("f.csv", b"subject,object,prompt\nA\0,B,{} is\n", "f.csv:2: 'subject' holds a NUL"),
        (
            "f.json",
            b'[{"subject": "A", "object": "B\\u0000", "prompt": "{} is"}]',
            "'object' holds",
        ),
        ("f.json", b'[\n\n{"a" 1}]', "f.json:3: not JSON"),
        ("f.json", b"[1]", r"f.json \(row 1\): must be a JSON object"),
        ("f.json", b"[]", "f.json: holds no facts"),
        ("f.json", b'{"a":\n"\xff"}', "f.json:2: is not UTF-8"),
        ("f.parquet", b"PAR1 nonsense", "f.parquet: is not Parquet"),
    ],
)
def test_a_mistake_in_other_files_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        load_facts(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": {"subject": "a"}}, "'samples' must be a list"),
        ({"samples": ["a"]}, "'sample 1' must be an object"),
        ({"samples": [{"subject": "a"}]}, r"\(sample 1\): lacks the key 'object'"),
        ({"samples": []}, "holds no usable facts"),
        ({"prompt_templates": ["no slot"]}, "needs exactly one"),
        ({"prompt_templates": "The {}"}, "'prompt_templates' must be a list"),
        ({"properties": 3}, "'properties' must be an object"),
        ({"name": ""}, "'name' must be text"),
    ],
)
def test_a_mistake_in_an_lre_file_is_named(tmp_path: Path, change: dict[str, Any], message: str):
    with pytest.raises(FileFormatError, match=message):
        load_facts(_write(tmp_path / "l.json", LRE | change))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (KNOWEDIT[0] | {"portability": ["x"]}, "'portability' must be an object"),
        (KNOWEDIT[0] | {"locality": {"Reasoning": ["x"]}}, "'Reasoning' must be an object"),
        (KNOWEDIT[0] | {"target_new": []}, "'target_new' must be text"),
        ({"requested_rewrite": "x"}, "'requested_rewrite' must be an object"),
    ],
)
def test_a_mistake_in_an_edit_set_names_the_row(tmp_path: Path, row: Any, message: str):
    rows = [row] if "requested_rewrite" in row else [KNOWEDIT[1], row]
    with pytest.raises(FileFormatError, match=rf"k.json \(row {len(rows)}\): {message}"):
        load_facts(_write(tmp_path / "k.json", rows))


ZSRE = {"subject": "Ada", "src": "Who made Ada?", "alt": "Bo", "answers": ["Cy"]}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (COUNTERFACT[0] | {"paraphrase_prompts": 5}, "paraphrase_prompts"),
        (COUNTERFACT[0] | {"neighborhood_prompts": {"a": 1}}, "neighborhood_prompts"),
        (COUNTERFACT[0] | {"attribute_prompts": [5]}, "attribute_prompts"),
        (EASYEDIT[0] | {"rephrase_prompt": 1.5}, "rephrase_prompt"),
        (EASYEDIT[0] | {"locality_prompt": 5}, "locality_prompt"),
        (ZSRE | {"rephrase": True}, "rephrase"),
        (ZSRE | {"loc": 5}, "loc"),
        (KNOWEDIT[0] | {"locality": {"x": 5}}, "x"),
        (KNOWEDIT[0] | {"portability": 5}, "portability"),
        (KNOWEDIT[0] | {"portability": {"x": [5]}}, "x"),
    ],
)
def test_a_field_of_another_type_is_one_line_with_file_row_and_field(
    tmp_path: Path, row: Any, field: str
):
    with pytest.raises(FileFormatError, match=rf"^\S*e.json \(row 1\): '{field}' must be"):
        load_facts(_write(tmp_path / "e.json", [row]))


def test_a_file_above_the_size_cap_is_refused_unread(tmp_path: Path):
    path = _write(tmp_path / "f.jsonl", PLAIN)
    load_facts(path, max_bytes=path.stat().st_size)
    with pytest.raises(FileFormatError, match="at most"):
        load_facts(path, max_bytes=path.stat().st_size - 1)


def test_missing_and_empty_places_are_named(tmp_path: Path):
    with pytest.raises(FileFormatError, match=r"gone\.jsonl: no such file"):
        load_facts(tmp_path / "gone.jsonl")
    with pytest.raises(FileFormatError, match=r"holds no \.json"):
        load_facts(tmp_path)
    with pytest.raises(FileFormatError, match="not a regular file"):
        load_facts("/dev/null")


def test_a_hub_name_that_cannot_be_had_is_one_line_in_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(circuits.model.hub, "reachable", lambda endpoint: False)
    start = time.monotonic()
    with pytest.raises(FileFormatError, match="not in the local cache") as caught:
        load_facts("nobody/no-such-facts")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_a_hub_data_set_is_read_like_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _write(tmp_path / "part.jsonl", PLAIN)
    asked: list[tuple[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options["repo_type"]))
        assert all(not pattern.endswith((".py", "*")) for pattern in options["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(circuits.model.hub, "reachable", lambda endpoint: True)
    assert load_facts("somebody/facts") == load_facts(tmp_path)
    assert asked == [("somebody/facts", "dataset")]


@pytest.mark.parametrize(
    ("place", "relations", "facts", "left_out"),
    [
        ("lre", 47, 11049, 0),
        ("known_1000", 33, 1209, 0),
        ("CounterFact/counterfact-edit.json", 213, 10000, 0),
        ("CounterFact/compmech_gpt2_with_subjects.json", 119, 9855, 145),
        ("KnowEdit/wiki_counterfact_test.json", 35, 839, 0),
        ("KnowEdit/ZsRE_test.json", 483, 1293, 0),
        ("KnowEdit/WikiBio_test.json", 239, 306, 0),
    ],
)
def test_the_real_files_load_with_equal_rows_collapsed_and_the_rest_accounted_for(
    place: str, relations: int, facts: int, left_out: int
):
    read = read_facts(shared_data(*place.split("/")))
    assert len(read.relations) == relations
    assert len(read.left_out) == left_out
    found = sum(len(relation.facts) for relation in read.relations)
    assert found == facts


def test_the_first_row_does_not_decide_what_the_others_have(tmp_path: Path):
    row = {
        "subject": "Peru",
        "prompt": "The capital of Peru is",
        "target_new": "Oslo",
        "portability": {"Reasoning": [{"prompt": "Oslo is in", "ground_truth": [["Peru"]]}]},
        "locality": {},
    }
    bare = {key: row[key] for key in ("subject", "prompt", "target_new")}
    path = tmp_path / "facts.json"
    path.write_text(
        json.dumps([bare | {"subject": "Cuba", "prompt": "In Cuba the capital is"}, row])
    )
    facts = [fact for relation in load_facts(path) for fact in relation.facts]
    assert [len(fact.probes) for fact in facts] == [0, 1]
