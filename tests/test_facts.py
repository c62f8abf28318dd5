"""The atlas keeps its own rules, and a damaged atlas is refused by file and line."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from circuits.base.errors import FileFormatError, OptionError
from circuits.facts.facts import (
    ATLAS_DIR,
    Fact,
    Relation,
    atlas,
    fill,
    read_atlas,
    relation,
)

RELATIONS = list(atlas().values())


def test_the_atlas_is_as_large_as_promised():
    assert len(RELATIONS) >= 30
    assert sum(len(each.facts) for each in RELATIONS) >= 2000


@pytest.mark.parametrize("each", RELATIONS, ids=lambda each: each.name)
def test_every_relation_has_enough_sound_templates(each: Relation):
    asking = (*each.templates, *each.held_out)
    assert len(asking) >= 6
    assert len(each.held_out) == 2
    assert all(template.count("{}") == 1 and not template.endswith("{}") for template in asking)
    assert all("{}" not in template for template in each.follow)
    everything = [_plain(template) for template in (*asking, *each.follow)]
    assert len(set(everything)) == len(everything), "two templates differ in punctuation only"


@pytest.mark.parametrize("each", RELATIONS, ids=lambda each: each.name)
def test_the_usual_templates_are_those_that_a_language_model_answers_best(each: Relation):
    with (ATLAS_DIR / "answered.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["relation"] == each.name]
    shares = {row["template"]: int(row["right"]) / int(row["asked"]) for row in rows}
    assert set(shares) == set(each.templates)
    assert len(each.usual) == len(set(each.usual)) == 3
    least = min(shares[template] for template in each.usual)
    assert all(shares[other] <= least for other in set(each.templates) - set(each.usual))


def test_no_template_serves_two_relations():
    users = Counter(
        template
        for each in RELATIONS
        for template in {_plain(t) for t in (*each.templates, *each.held_out, *each.follow)}
    )
    assert [template for template, count in users.items() if count > 1] == []


@pytest.mark.parametrize("each", RELATIONS, ids=lambda each: each.name)
def test_every_subject_has_one_object_that_is_clean_text(each: Relation):
    assert len(each.subjects()) == len(each.facts)
    assert len(each.objects()) >= 2
    for fact in each.facts:
        assert fact.relation == each.name
        for text in (fact.subject, fact.object):
            assert text == " ".join(text.split()), f"white space in {fact}"
            assert text.isprintable()
            assert not re.match(r"(?i)(the|a|an) ", text), f"article in {fact}"


def test_no_object_dominates_a_relation_so_that_guessing_it_is_not_knowing():
    for each in RELATIONS:
        counts = Counter(fact.object for fact in each.facts)
        assert counts.most_common(1)[0][1] <= 0.6 * len(each.facts), each.name


def test_subjects_are_shared_between_relations_so_that_relation_heads_have_work():
    relations = Counter(subject for each in RELATIONS for subject in set(each.subjects()))
    assert sum(count > 1 for count in relations.values()) >= 500
    assert relations["France"] > 1


def test_prompts_put_the_subject_into_the_template():
    capital = relation("country_capital")
    fact = next(each for each in capital.facts if each.subject == "Japan")
    assert capital.prompt(fact) == capital.templates[0].replace("{}", "Japan")
    assert capital.prompt(fact, "In {} the capital is") == "In Japan the capital is"
    worded = Fact("r", "Japan", "Tokyo", template="{}: capital")
    assert capital.prompt(worded) == "Japan: capital"
    assert capital.objects_of("Japan") == ("Tokyo",)


def test_a_subject_with_braces_is_not_taken_for_a_slot():
    assert fill("{} is", "a{}b") == "a{}b is"


@pytest.mark.parametrize("template", ["no slot", "{} and {}", ""])
def test_a_template_needs_exactly_one_slot(template: str):
    with pytest.raises(OptionError, match="exactly one"):
        fill(template, "France")


def test_an_unknown_relation_is_answered_with_the_nearest_names():
    with pytest.raises(OptionError, match="did you mean country_capital"):
        relation("Country Capitol")
    with pytest.raises(OptionError, match="there are person_occupation"):
        relation("qqqqq")


def test_facts_are_values():
    fact = relation("country_capital").facts[0]
    with pytest.raises(FrozenInstanceError):
        fact.object = "elsewhere"  # type: ignore[misc]


def test_reading_the_atlas_loads_no_torch():
    code = (
        "import sys; from circuits.facts.facts import atlas; atlas(); print('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert run.stdout.strip() == "False"


def _replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[number - 1] = text
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (
            "templates.csv",
            5,
            "country_capital,train,no slot here",
            r"templates.csv:5: needs 1 \{\}",
        ),
        ("templates.csv", 5, "country_capital,train,the {} and {}", "templates.csv:5: needs 1"),
        ("templates.csv", 5, "country_capital,train,capital of {}", "templates.csv:5: ends in"),
        ("templates.csv", 5, "country_capital,follow,in {} it is", "templates.csv:5: needs 0"),
        ("templates.csv", 5, "country_capital,tarin,{} is", "templates.csv:5: split 'tarin'"),
        ("templates.csv", 5, "contry,train,{} is", "templates.csv: 'contry' is no relation"),
        ("templates.csv", 5, "country_capital,train", "templates.csv:5: has too few"),
        ("templates.csv", 1, "relation,split", "templates.csv:1: has no column 'template'"),
        ("relations.csv", 3, "x,y,countries,capital", "relations.csv:3: relation 'x' has no templ"),
        ("relations.csv", 3, "person_country,people,people,nope", "people.csv:2: has no column"),
        ("relations.csv", 3, "person_occupation,p,people,country", "relations.csv:3: .* twice"),
        ("relations.csv", 3, "person_country,people,nothing,country", "nothing.csv: no such file"),
        ("animals.csv", 4, "dog,mammal,puppy", "animals.csv:4: subject 'dog' is listed twice"),
        ("animals.csv", 4, ",mammal,puppy", "animals.csv:4: has no subject"),
        ("animals.csv", 4, 'cow,"mammal"x,calf', "animals.csv:4: is not CSV"),
        ("answered.csv", 2, "country_capital,{} is,1,2", "answered.csv:2: .* no training template"),
        ("answered.csv", 2, "{first},1,0", "answered.csv:2: needs a number right of a number"),
        ("answered.csv", 2, "{first},x,9", "answered.csv:2: needs a number right of a number"),
    ],
)
def test_a_damaged_atlas_is_refused_by_file_and_line(
    tmp_path: Path, file: str, line: int, text: str, message: str
):
    copy = shutil.copytree(ATLAS_DIR, tmp_path / "atlas")
    assert read_atlas(copy) == atlas()
    first = f"{RELATIONS[0].name},{RELATIONS[0].templates[0]}"
    _replace_line(copy / file, line, text.replace("{first}", first))
    with pytest.raises(FileFormatError, match=message):
        read_atlas(copy)


def _plain(template: str) -> str:
    return template.lower().rstrip(" ,:.")
