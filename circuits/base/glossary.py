"""The words of reports and pages: what each means, and where it is used first.

`glossary.toml` is the one source: of `docs/glossary.md` (`python -m circuits.base.glossary` prints
it), of `kc glossary`, and of the terms that pages and reports mark. `Marker` finds terms in text:
whole words, the longest first, each once a page, and never within code, links or tags.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from markupsafe import Markup

from circuits.base.errors import OptionError

SOURCE = Path(__file__).with_name("glossary.toml")
TITLE = "Terms"
"""The heading above the terms that a page uses."""
_APART = r"""
    ```.*?```            # code, fenced or within a line
  | `[^`]*`
  | !?\[[^\]]*\]\([^)]*\)  # a link or picture of Markdown
  | <[A-Za-z/!][^>]*>    # a tag; what it encloses is text
  | \b\w+://\S+
"""


@dataclass(frozen=True)
class Term:
    """A word of the field: its name, other forms of it in a sentence, and what it means."""

    name: str
    says: str
    forms: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Its place on a page, as `term-logit-lens`."""
        return "term-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def plain(self) -> str:
        """What it means, without marks of Markdown."""
        return self.says.replace("`", "")

    def spelled(self) -> tuple[str, ...]:
        """All that is marked as this term."""
        return (self.name, *self.forms)


@dataclass(frozen=True)
class Use:
    """A piece of text that is a term."""

    text: str
    term: Term


@cache
def glossary() -> Mapping[str, Term]:
    """All terms by name, in alphabetical order."""
    told = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    terms = [Term(name, each["says"], tuple(each.get("forms", ()))) for name, each in told.items()]
    return {term.name: term for term in sorted(terms, key=lambda term: term.name.lower())}


def find_term(told: str) -> Term:
    """The term of a name or of one of its forms, in any case; OptionError where there is none."""
    spelled = {form.lower(): term for term in glossary().values() for form in term.spelled()}
    if (found := spelled.get(told.strip().lower())) is None:
        near = get_close_matches(told.strip().lower(), spelled, n=1)
        hint = f"; did you mean {spelled[near[0]].name}?" if near else "; `kc glossary` lists all"
        raise OptionError(f"the glossary has no term {told!r}{hint}")
    return found


@dataclass
class Marker:
    """Marks the terms of one page: each where it is used first."""

    used: dict[str, Term] = field(default_factory=dict)

    def pieces(self, text: str) -> list[str | Use]:
        """The text in pieces, of which those that are a term's first use on the page are marked."""
        found: list[str | Use] = []
        done = 0
        for match in _pattern().finditer(text):
            term = _by_form(match["term"]) if match["term"] else None
            if term is None or term.name in self.used:
                continue
            self.used[term.name] = term
            found += [text[done : match.start()], Use(match["term"], term)]
            done = match.end()
        return [each for each in (*found, text[done:]) if each]

    def html(self, text: str) -> Markup:
        """The text, escaped unless it is markup, with a link from each term to `html_section`.

        For text without elements; their tags stay as they are.
        """
        escape = Markup if isinstance(text, Markup) else Markup.escape
        link = '<a class="term" id="use-{}" href="#{}">{}</a>'
        return Markup("").join(
            Markup(link).format(each.term.slug, each.term.slug, escape(each.text))
            if isinstance(each, Use)
            else escape(each)
            for each in self.pieces(str(text))
        )

    def first(self, text: str) -> Markup:
        """Links to the terms that the text uses first, to stand beside it.

        For a text that cannot hold links, as that of a button.
        """
        link = '<a class="term" id="use-{}" href="#{}" aria-label="what {} means">?</a>'
        return Markup("").join(
            Markup(link).format(each.term.slug, each.term.slug, each.text)
            for each in self.pieces(text)
            if isinstance(each, Use)
        )

    def markdown(self, text: str) -> str:
        """The Markdown text with a link from each term to `markdown_section`."""
        return "".join(
            f"[{each.text}](#{each.term.slug})" if isinstance(each, Use) else each
            for each in self.pieces(text)
        )

    def terms(self) -> list[Term]:
        """The terms that were marked, in alphabetical order."""
        return sorted(self.used.values(), key=lambda term: term.name.lower())

    def html_section(self) -> Markup:
        """The terms that were marked and what they mean, for the end of the page."""
        if not self.used:
            return Markup("")
        rows = Markup("\n").join(
            Markup(
                '<dt id="{}">{}</dt>\n<dd>{} <a href="#use-{}" aria-label="back to {}">↩</a></dd>'
            ).format(term.slug, term.name, term.plain, term.slug, term.name)
            for term in self.terms()
        )
        return Markup('<aside class="terms">\n<h2>{}</h2>\n<dl>\n{}\n</dl>\n</aside>').format(
            TITLE, rows
        )

    def markdown_section(self) -> list[str]:
        """The same as lines of Markdown."""
        if not self.used:
            return []
        rows = [f'- <a id="{term.slug}"></a>**{term.name}**: {term.says}' for term in self.terms()]
        return [f"## {TITLE}", "", *rows]


def page() -> str:
    """The glossary as a page of the documentation, in Markdown."""
    lines = [
        "# Glossary",
        "",
        "What the words of reports and pages mean here. `kc glossary` prints it, and reports and",
        "pages lead to the terms that they use.",
    ]
    for term in glossary().values():
        lines += ["", f"## {term.name} {{#{term.slug}}}", "", term.says]
    return "\n".join(lines) + "\n"


@cache
def _forms() -> Mapping[str, Term]:
    return {form: term for term in glossary().values() for form in term.spelled()}


def _by_form(text: str) -> Term | None:
    """The term of a form as it stands in a text: a sentence may begin with a capital."""
    form = " ".join(text.split())
    return _forms().get(form) or _forms().get(form[0].lower() + form[1:])


@cache
def _pattern() -> re.Pattern[str]:
    """What is no text, or any term as a whole word, the longest first."""
    words = sorted(_forms(), key=len, reverse=True)
    choices = "|".join(_either_case(word) for word in words)
    # A hyphen, a dot or an underscore makes a longer word: rank-one, heads.csv.
    return re.compile(
        rf"(?:{_APART})|(?<![\w.@/-])(?P<term>{choices})(?![\w@/*-]|\.\w)", re.VERBOSE | re.DOTALL
    )


def _either_case(word: str) -> str:
    """A form as a pattern; its first letter may be a capital where the form is in small letters."""
    text = re.escape(word).replace(r"\ ", r"\s+")  # a line may break within a term
    first = word[0]
    if not (first.islower() and word == word.lower()):
        return text
    return f"[{first}{first.upper()}]{text[1:]}"


if __name__ == "__main__":
    print(page(), end="")
