"""What an analysis is: a question, units of work that are computed once, and a pure report.

`compute` may use the model and returns plain values of one unit (a relation, a checkpoint, ...),
which are stored at once; `report` sees stored values only, so that a report can be made again, and
an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from circuits.base.choices import Known, Templates
from circuits.base.display import Shown, Summary
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.base.origin import model_label
from circuits.base.stamps import stamped
from experiments.analyses.engine.claims import Claim
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.tables import Table

Part = Mapping[str, Any]
"""The stored values of one unit."""


class SkipError(KnowledgeCircuitsError):
    """Raised by `compute`: this unit cannot be looked at, and why; the run goes on."""


@dataclass(frozen=True)
class Figure:
    """A picture: `draw(path, provenance)` writes it as the path's suffix says (.svg, .pdf, .png).

    The charts of `viz.paper.charts` have such a method.
    """

    name: str
    caption: str
    draw: Callable[[Path, Mapping[str, Any]], Any]

    def at(self, width: float | None) -> Figure:
        """The same, so many inches wide where its chart is a value with a width; None: as it is."""
        chart = getattr(self.draw, "__self__", None)
        if width is None or not is_dataclass(chart) or not hasattr(chart, "width"):
            return self
        other: Any = replace(chart, width=width)  # type: ignore[type-var]
        return replace(self, draw=other.draw)


@dataclass(frozen=True)
class Section:
    """One part of a report: text (computed where it speaks of numbers), claims, tables, figures."""

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a run found. `lead` is the answer in one or two computed sentences.

    `answer` holds the claims that stand at the top of the page; the rest stand in their sections.
    `method` says in a few paragraphs how it was done, for the foot of the page.
    """

    lead: str
    sections: tuple[Section, ...]
    answer: tuple[Claim, ...] = ()
    method: tuple[str, ...] = ()

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [figure for section in self.sections for figure in section.figures]

    @property
    def claims(self) -> list[Claim]:
        """All claims once: those at the top first."""
        inside = [claim for section in self.sections for claim in section.claims]
        return list(dict.fromkeys([*self.answer, *inside]))


@dataclass(frozen=True)
class Analysis:
    """An analysis that `kc run` knows.

    `steps` lists the keys of the units, `compute` gives a unit's values as anything that
    `circuits.base.plain` turns into JSON, `report` makes the report of all units' values.
    Raise `version` when a unit's values come to mean something else: stored ones are then not used.
    `config` is a frozen dataclass of `circuits.base.options`. `kc run all` leaves `slow` ones out.
    `scores_edges` says whether a run with such options does: else a bound on memory bounds nothing.
    `prepare` makes what units find outside of the run, such as second moments in the user's cache;
    it is called once, before units are computed here or elsewhere, and never where all are stored.
    `paired` says whether what it finds hangs on pairs of `Context.examples`, and so on `known`,
    `shots` and `templates`; one that is not is run without them.
    `marks` gives what decides a unit's values besides the options that do so by themselves.
    """

    name: str
    title: str
    question: str
    config: type[Any]
    steps: Callable[[Context, Any], Sequence[str]]
    compute: Callable[[Context, Any, str], Part]
    report: Callable[[Any, Mapping[str, Part]], Report]
    version: int = 1
    slow: bool = False
    scores_edges: Callable[[Any], bool] = lambda config: True
    paired: bool = True
    prepare: Callable[[Context, Any], str | None] | None = None
    marks: Callable[[Context, Any], Any] = lambda context, config: None


def check_bound(memory: int | None, *asked: tuple[Analysis, Any]) -> None:
    """OptionError for a bound on memory where none of the analyses, with its options, has edges."""
    if memory is not None and not any(each.scores_edges(config) for each, config in asked):
        names = ", ".join(each.name for each, _ in asked)
        raise OptionError(f"`memory` bounds the scoring of edges, and {names} scores none")


def asked_of(analysis: Analysis, context: Context) -> Context:
    """The context without what would change nothing in the analysis."""
    if analysis.paired:
        return context
    return replace(context, known=Known.TOP1, shots=0, templates=Templates.USUAL)


def check_asked(context: Context, *asked: Analysis) -> str:
    """In which of the analyses what the context asks for changes nothing; empty for none.

    OptionError where something changes nothing in any.
    """
    told = []
    for name in ("known", "shots", "templates"):
        given = getattr(context, name)
        idle = [each.name for each in asked if getattr(asked_of(each, context), name) != given]
        if idle:
            line = f"`{name}` would change nothing in {', '.join(idle)}, "
            line += "where questions are worded and chosen otherwise"
            if len(idle) == len(asked):
                raise OptionError(f"{line}; leave it out")
            told.append(line)
    return "; ".join(told)


@dataclass(frozen=True)
class Parts:
    """All units of a run: values by key, reasons of those left out, seconds, how many were stored.

    `reused` counts the units that were there before and not computed again. `fingerprint` is the
    run's (`experiments.analyses.engine.parts`).
    """

    fingerprint: str
    values: Mapping[str, Part]
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reused: int = 0


@dataclass(frozen=True)
class Picture:
    """A picture that a run drew; it shows itself in a notebook."""

    path: Path

    def _repr_svg_(self) -> str:
        return self.path.read_text(encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Run(Shown):
    """A finished run: its options, its units, its report; `files` were written, the page first."""

    analysis: Analysis
    config: Any
    report: Report
    parts: Parts
    provenance: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    @property
    def model(self) -> str:
        """The model's name, as titles have it."""
        return model_label(self.provenance)

    @property
    def path(self) -> Path:
        """The report's page."""
        return self.files[0]

    @property
    def claims(self) -> list[Claim]:
        """The computed sentences, those at the top of the page first."""
        return self.report.claims

    @property
    def tables(self) -> dict[str, Table]:
        """The report's tables by name; each has `to_pandas()` and shows itself in a notebook."""
        return {table.name: table for table in self.report.tables}

    @property
    def pictures(self) -> dict[str, Picture]:
        """The pictures that were drawn, by name."""
        drawn = [path for path in self.files if path.suffix == ".svg"]
        return {path.stem: Picture(path) for path in drawn}

    def plot(self, what: str | None = None) -> Picture:
        """One of the `pictures`, by default the first; OptionError with their names for no such."""
        found = self.pictures
        chosen = next(iter(found), "") if what is None else what
        if chosen not in found:
            raise OptionError(f"there is no picture {chosen!r:.60}; there are {', '.join(found)}")
        return found[chosen]

    def rows(self) -> list[dict[str, Any]]:
        """One record a claim: its sentence, estimate with interval, n and verdict."""
        return [
            {
                "claim": claim.sentence,
                **claim.estimate.as_dict(),
                "n": claim.n,
                "over": claim.over,
                "verdict": str(claim.verdict),
            }
            for claim in self.claims
        ]

    def says(self) -> str:
        """The report's first sentence, else its first claim."""
        return self.report.lead or next((each.sentence for each in self.report.answer), "")

    def summary(self) -> Summary:
        """What was asked, the answer, and the sentences at the top of the page."""
        facts = {
            "model": self.model,
            "question": self.analysis.question,
        }
        facts |= {"report": str(self.path)} if self.files else {}
        said = [(claim.sentence, str(claim.verdict)) for claim in self.report.answer]
        return Summary(self.analysis.title, facts, "", ("claim", "verdict"), said)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the claims, what was left out, and where the numbers come from."""
        record = {
            "analysis": self.analysis.name,
            "question": self.analysis.question,
            "model": self.model,
            "lead": self.report.lead,
            "claims": [claim.as_dict() for claim in self.report.claims],
            "left_out": dict(self.parts.skipped),
            "units": len(self.parts.values),
            "reused": self.parts.reused,
            "provenance": self.provenance,
        }
        return stamped("run", record, self.says())
