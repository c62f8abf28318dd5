"""Questions that no template of the atlas asks: reversed, two hops, comparisons.

They stand beside the atlas in `wordings.csv` and grow with it; a relation that has no row of a form
is not asked in that way. A template holds `{}` for the subject and ends where the answer follows.
The forms are

- `reversed` and `asked back`: from the object back to the subject, for relations in which an object
  belongs to one subject; the object stands first, or the question does;
- `phrase`: the object of a relation in words, `of` the kind of subject that it is;
- `two hops`: the relation `of` asked about the object of `relation`, in one question;
- `compared`: which of two subjects has an `{object}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from circuits.base.errors import FileFormatError
from circuits.base.records import read_csv
from circuits.facts.facts import ATLAS_DIR, SLOT

_SLOTS = {"reversed": 1, "asked back": 1, "phrase": 1, "two hops": 1, "compared": 2}
"""By form: how many subjects its templates have."""
_NAMES_ONLY = re.compile(r"^\{\}|\{\}'|(country|company|city|city of|city like) \{\}")
"""Where in a template a name fits, but not a phrase with an article."""


class Hop(NamedTuple):
    """The object of a relation in words, and the kind of subject that it is."""

    phrase: str
    kind: str


@dataclass(frozen=True)
class Chain:
    """Two relations of which the second is asked about the first one's object.

    `nested` asks both in one question; the second relation's own wording asks it of the first
    one's subject, which is not of the kind it was ever asked about.
    """

    first: str
    second: str
    nested: str

    @property
    def name(self) -> str:
        """Both relations."""
        return f"{self.first}+{self.second}"


@dataclass(frozen=True)
class Wordings:
    """All of them by relation; the module says what they are."""

    reversed: Mapping[str, str]
    asked_back: Mapping[str, str]
    phrases: Mapping[str, Hop]
    chains: tuple[Chain, ...]
    compared: Mapping[str, str]


@cache
def wordings() -> Wordings:
    """Those that ship with the atlas."""
    return read_wordings(ATLAS_DIR / "wordings.csv")


def read_wordings(path: Path) -> Wordings:
    """A file of wordings; FileFormatError names the line of the first mistake."""
    found: dict[str, list[tuple[str, str, str]]] = {form: [] for form in _SLOTS}
    for line, row in read_csv(path, ("form", "relation", "of", "template")):
        form, template = row["form"], row["template"]
        if form not in found:
            raise FileFormatError(path, f"form {form!r} is none of {', '.join(found)}", line)
        if template.count(SLOT) != _SLOTS[form]:
            raise FileFormatError(path, f"needs {_SLOTS[form]} {SLOT} in a template", line)
        found[form].append((row["relation"], row["of"], template))

    def by_relation(form: str) -> dict[str, str]:
        return {relation: template for relation, _, template in found[form]}

    return Wordings(
        reversed=by_relation("reversed"),
        asked_back=by_relation("asked back"),
        phrases={name: Hop(template, kind) for name, kind, template in found["phrase"]},
        chains=tuple(Chain(*row) for row in found["two hops"]),
        compared=by_relation("compared"),
    )


def takes_phrases(template: str) -> bool:
    """Whether a phrase with an article fits in the subject's place, and not only a name."""
    return not _NAMES_ONLY.search(template)


def negated(template: str) -> str | None:
    """The template with `not` at its end; None where it does not end in a verb."""
    return f"{template} not" if template.endswith((" is", " was", " are")) else None
