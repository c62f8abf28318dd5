"""Facts, relations and the atlas that ships with the project.

The atlas is a directory of CSV files: one a kind of subject (`name` and a column per relation),
`relations.csv` (which column of which kind is a relation) and `templates.csv` (how a relation is
put into words). This module needs the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.records import read_csv
from circuits.model.tokens import find_mentions, occurrences

ATLAS_DIR = Path(__file__).parent / "atlas"
SLOT = "{}"
FIRST_TEMPLATES = 3
"""In how many templates a fact is asked: enough to tell it from its wording."""


class ProbeKind(StrEnum):
    """What a probe of an edited fact looks at."""

    PARAPHRASE = "paraphrase"
    LOCALITY = "locality"
    PORTABILITY = "portability"


@dataclass(frozen=True)
class Probe:
    """A further prompt that comes with a fact in an editing data set.

    `name` is the data set's own heading (as `Reasoning`), `answers` the answers it accepts.
    """

    kind: ProbeKind
    prompt: str
    answers: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Fact:
    """A subject's object under a relation, as "France" and "Paris" under a relation of capitals.

    `template` is the fact's own wording, in data sets that word every fact by itself; None where
    the relation's templates apply. `target` is the untrue object that an edit request asks for,
    `probes` the prompts that the request is judged by. `aliases` are other names of the object,
    any of which answers.
    """

    relation: str
    subject: str
    object: str
    template: str | None = None
    target: str | None = None
    probes: tuple[Probe, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("subject", "object"):
            if not isinstance(value := getattr(self, name), str):
                raise OptionError(f"`{name}` of a fact is a text, not {value!r:.40}")
        object.__setattr__(self, "probes", tuple(self.probes))
        object.__setattr__(self, "aliases", tuple(self.aliases))

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every text that answers, the object first."""
        return (self.object, *self.aliases)


@dataclass(frozen=True)
class Relation:
    """A relation: its facts, and templates that put them into words.

    `templates` and `held_out` hold one `{}` each, for the subject, and end where the object
    follows; models that this project trains never see `held_out`. `follow` templates go on about
    a subject already named and hold no `{}`. `kind` names the kind of subject. `best` are the
    templates that a model answers best, where it was asked; `usual` those that a language model
    answers best of the atlas'.
    """

    name: str
    category: str
    kind: str
    facts: tuple[Fact, ...]
    templates: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    best: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()

    def subjects(self) -> tuple[str, ...]:
        """Every subject once, in order."""
        return tuple(dict.fromkeys(fact.subject for fact in self.facts))

    def objects(self) -> tuple[str, ...]:
        """Every object once, in order: the relation's range."""
        return tuple(dict.fromkeys(fact.object for fact in self.facts))

    def objects_of(self, subject: str) -> tuple[str, ...]:
        """All objects of a subject; data sets may give a subject several."""
        return tuple(fact.object for fact in self.facts if fact.subject == subject)

    def prompt(self, fact: Fact, template: str | None = None) -> str:
        """The fact's prompt, in the template, else its own wording, else the first template."""
        chosen = template or fact.template or next(iter(self.templates), None)
        if chosen is None:
            raise OptionError(f"relation {self.name!r} has no template")
        return fill(chosen, fact.subject)


def fill(template: str, subject: str) -> str:
    """The template with the subject in its slot; OptionError unless it has exactly one `{}`."""
    if template.count(SLOT) != 1:
        raise OptionError(f"a template needs exactly one {SLOT} for the subject: {template!r}")
    return template.replace(SLOT, subject)


def place_in(template: str, subject: str) -> int:
    """Which occurrence of the subject in the filled template stands in the slot, counted from 1.

    0 where it is the one mention as a whole word, which is found without being counted.
    """
    text, word = fill(template, subject), subject.strip()
    start = template.index(SLOT) + subject.index(word)
    place = (start, start + len(word))
    if find_mentions(text, subject) == [place]:
        return 0
    return occurrences(text, subject).index(place) + 1


def named_once(template: str, subject: str) -> bool:
    """Whether the slot alone names the subject: the template's own words do not."""
    return not find_mentions(template, subject)


@cache
def atlas() -> dict[str, Relation]:
    """The relations that ship with the project, by name."""
    return read_atlas(ATLAS_DIR)


def relation(name: str) -> Relation:
    """One relation of the atlas; OptionError with the nearest names where there is none."""
    relations = atlas()
    if name in relations:
        return relations[name]
    near = get_close_matches(name.strip().lower().replace(" ", "_"), relations, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(relations)}"
    raise OptionError(f"the atlas has no relation {name!r}; {hint}")


def read_atlas(directory: Path) -> dict[str, Relation]:
    """An atlas directory, checked; FileFormatError names the file and line of the first mistake."""
    templates = _read_templates(directory / "templates.csv")
    relations: dict[str, Relation] = {}
    path = directory / "relations.csv"
    kinds: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in read_csv(path, ("relation", "category", "kind", "column")):
        name, kind, column = row["relation"], row["kind"], row["column"]
        if name in relations:
            raise FileFormatError(path, f"relation {name!r} is listed twice", line)
        subjects = directory / f"{kind}.csv"
        if kind not in kinds:
            kinds[kind] = list(read_csv(subjects, ("name",)))
            _check_unique(subjects, kinds[kind])
        words = {split: tuple(templates.get((name, split), ())) for split in _SPLITS}
        if not words["train"]:
            raise FileFormatError(path, f"relation {name!r} has no templates", line)
        facts = tuple(_facts(name, column, subjects, kinds[kind]))
        if not facts:
            raise FileFormatError(subjects, f"column {column!r} holds no facts")
        category = row["category"]
        relations[name] = Relation(name, category, kind, facts, *(words[s] for s in _SPLITS))
    if not relations:
        raise FileFormatError(path, "lists no relations")
    for name, _ in templates:
        if name not in relations:
            raise FileFormatError(directory / "templates.csv", f"{name!r} is no relation")
    best = _read_answered(directory / "answered.csv", templates)
    return {
        name: replace(each, usual=best.get(name, ())[:FIRST_TEMPLATES])
        for name, each in relations.items()
    }


_SPLITS = ("train", "held_out", "follow")


def _facts(
    name: str, column: str, path: Path, rows: list[tuple[int, dict[str, str]]]
) -> Iterator[Fact]:
    for line, row in rows:
        if column not in row:
            raise FileFormatError(path, f"has no column {column!r} for relation {name!r}", line)
        if row[column]:
            yield Fact(name, row["name"], row[column])


def _read_templates(path: Path) -> dict[tuple[str, str], list[str]]:
    templates: dict[tuple[str, str], list[str]] = {}
    for line, row in read_csv(path, ("relation", "split", "template")):
        split, template = row["split"], row["template"]
        if split not in _SPLITS:
            raise FileFormatError(path, f"split {split!r} is none of {', '.join(_SPLITS)}", line)
        slots = 0 if split == "follow" else 1
        if template.count(SLOT) != slots:
            raise FileFormatError(path, f"needs {slots} {SLOT} in a {split} template", line)
        if template.endswith(SLOT):
            raise FileFormatError(path, "ends in the subject, so no object can follow", line)
        templates.setdefault((row["relation"], split), []).append(template)
    return templates


def _read_answered(
    path: Path, templates: dict[tuple[str, str], list[str]]
) -> dict[str, tuple[str, ...]]:
    """Each relation's training templates as a language model answers them, the best first."""
    shares: dict[str, dict[str, float]] = {}
    for line, row in read_csv(path, ("relation", "template", "right", "asked")):
        relation, template = row["relation"], row["template"]
        if template not in templates.get((relation, "train"), ()):
            raise FileFormatError(path, f"{template!r} is no training template of it", line)
        try:
            shares.setdefault(relation, {})[template] = int(row["right"]) / int(row["asked"])
        except (ValueError, ZeroDivisionError):
            raise FileFormatError(path, "needs a number right of a number asked", line) from None
    return {
        relation: tuple(sorted(own, key=lambda each: -own[each]))  # stable: ties as in the file
        for relation, own in shares.items()
    }


def _check_unique(path: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
    seen: set[str] = set()
    for line, row in rows:
        if not row["name"]:
            raise FileFormatError(path, "has no subject in the column 'name'", line)
        if row["name"] in seen:
            raise FileFormatError(path, f"subject {row['name']!r} is listed twice", line)
        seen.add(row["name"])
