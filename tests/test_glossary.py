"""The glossary: one source, terms marked once a page as whole words, and never within code."""

from __future__ import annotations

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from circuits.base.errors import OptionError
from circuits.base.glossary import SOURCE, Marker, Use, find_term, glossary, page
from experiments.cli.main import main
from tests import results
from tests.forms import check_form
from viz.app.terms import lead
from viz.page import write

ROOT = Path(__file__).parent.parent
TERMS = list(glossary().values())
FORMS = sorted({form for term in TERMS for form in term.spelled()})
WORDS = st.sampled_from([*FORMS, "the", "of", "rank-one", "`edge`", "[circuit](x)", "<b>", "a5.h3"])


def marked(text: str) -> list[tuple[str, str]]:
    """What is marked in a text, and as which term."""
    return [(each.text, each.term.name) for each in Marker().pieces(text) if isinstance(each, Use)]


def test_the_page_of_the_documentation_is_made_of_the_data():
    told = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert told == page(), "python -m circuits.base.glossary > docs/glossary.md"


def test_the_data_is_in_the_wheel():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = told["tool"]["setuptools"]["package-data"]["circuits"]
    inside = SOURCE.relative_to(ROOT / "circuits")
    assert any(inside.match(pattern) for pattern in patterns)


def test_a_term_is_one_sentence_and_each_form_means_one_term():
    spelled = [form for term in TERMS for form in term.spelled()]
    assert len(spelled) == len(set(spelled))
    assert len({term.slug for term in TERMS}) == len(TERMS)
    for term in TERMS:
        assert re.fullmatch(r"[A-Z].+\.", term.says, re.DOTALL), term.name
        assert ". " not in term.says, f"{term.name} takes more than a sentence"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_in_a_sentence_as_its_own_term(form):
    term = find_term(form)
    assert marked(f"so the {form}, then") == [(form, term.name)]
    for longer in (f"x{form}", f"{form}x", f"rank-{form}"):
        assert (form, term.name) not in marked(longer)
    assert marked(f"`{form}`") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("EAP-IG and EAP", [("EAP-IG", "EAP-IG"), ("EAP", "EAP")]),
        ("Mover heads, then a head", [("Mover heads", "mover head"), ("head", "attention head")]),
        ("edges and an edge", [("edges", "edge")]),
        ("a rank-one change of heads.csv by MLP_x", []),
        ("see `faithfulness`, [the circuit](a#edge) and ![MLP](m.svg)", []),
        ("<a href='x'>an</a> <i title='edge'>in</i> https://x.org/edge", []),
        ("```\nedge\n```\na circuit", [("circuit", "circuit")]),
        ("logit\nlens", [("logit\nlens", "logit lens")]),
        ("cpr is no CPR", [("CPR", "CPR")]),
        ("AtP* is there", [("AtP*", "AtP*")]),
    ],
)
def test_whole_words_are_marked_the_longest_first_each_term_once_and_none_within_code(
    text, expected
):
    assert marked(text) == expected


@given(st.lists(WORDS, max_size=12).map(" ".join))
def test_marking_changes_no_text_and_marks_no_term_twice(text):
    pieces = Marker().pieces(text)
    assert "".join(each.text if isinstance(each, Use) else each for each in pieces) == text
    names = [each.term.name for each in pieces if isinstance(each, Use)]
    assert len(names) == len(set(names))
    marker = Marker()
    marker.pieces(text)
    assert [each for each in marker.pieces(text) if isinstance(each, Use)] == []
    back = re.sub(r"\[([^\]]*)\]\(#term-[a-z0-9-]+\)", r"\1", Marker().markdown(text))
    assert back == text


@given(st.text(max_size=40) | st.sampled_from(["<img src=x onerror=alert(1)> edge", "a & b"]))
def test_a_marked_text_is_escaped_and_markup_stays_markup(text):
    plain = re.sub(r"<a class=\"term\"[^>]*>(.*?)</a>", r"\1", Marker().html(text))
    assert plain == Markup.escape(text)
    assert Marker().html(Markup("<b>x</b>")) == "<b>x</b>"


class Links(HTMLParser):
    """The ids of a page, its links within itself, and what each element stands in."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.within: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        if told.get("id"):
            self.ids.append(told["id"])
        if tag == "a" and (told.get("href") or "").startswith("#"):
            self.targets.append(told["href"][1:])
        if tag == "a" and {"a", "button", "code"} & set(self.within):
            self.bad.append(str(told))
        if tag not in ("meta", "input", "line", "br", "img", "link"):
            self.within.append(tag)

    def handle_endtag(self, tag):
        if tag in self.within:
            while self.within.pop() != tag:
                pass


def links(text: str) -> Links:
    """The links of a page, each id of which is there once."""
    found = Links()
    found.feed(re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert len(found.ids) == len(set(found.ids))
    assert found.bad == []
    assert set(found.targets) <= set(found.ids)
    return found


def test_a_page_of_a_circuit_leads_to_the_terms_that_it_uses_and_back(tmp_path):
    write(results.circuit(), tmp_path / "page.html")
    found = links((tmp_path / "page.html").read_text(encoding="utf-8"))
    there = [each for each in found.targets if each.startswith("term-")]
    assert there
    assert sorted(there) == sorted(set(there)) == sorted(i for i in found.ids if i[:5] == "term-")
    assert {f"use-{each}" for each in there} == {i for i in found.ids if i.startswith("use-")}


def test_the_app_opens_a_note_at_each_term_and_lists_those_of_the_tables():
    made = lead("763 of 70,651 edges do it; random circuits 0 %", ["edge", "score", "in"])
    sentence, words = made.children
    notes = [each for each in sentence.children if not isinstance(each, str)]
    assert [each.children[0].children for each in notes] == ["edges", "random circuits"]
    assert glossary()["edge"].says in str(notes[0])
    assert "Words in the tables: score" in str(words)
    assert glossary()["edge"].says not in str(words)
    assert lead("") is None


def test_the_command_prints_one_term_or_all(capsys):
    assert main(["glossary", "Mover"]) == 0
    assert capsys.readouterr().out.startswith("mover head\n  An attention head")
    assert main(["glossary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [term.name for term in TERMS]
    assert main(["glossary", "logit lens", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    check_form(record)
    assert record["terms"][0]["means"] == glossary()["logit lens"].says


def test_a_term_that_there_is_not_is_one_line(capsys):
    assert main(["glossary", "nose floor"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "did you mean noise floor?" in told
    with pytest.raises(OptionError, match="lists all"):
        find_term("zzzzzz")
