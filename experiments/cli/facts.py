"""`kc facts`: the relations there are, and what a model knows of them and says instead."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.idle import Given
from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import VOICE, Console, in_flags, percent
from experiments.cli.signature import Fixed, Like
from locate.idle import UNASKED_FACTS
from locate.options import Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from circuits.facts.facts import Fact, Relation
    from circuits.facts.questions import Answer, KnowledgeCheck
    from circuits.model.model import Model

RelationArgument = Annotated[
    str | None, typer.Argument(help="List the facts of this relation.", metavar="[RELATION]")
]
AskedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Ask this model which of the facts it knows.")
]
AtlasOrFile = Annotated[
    Source, Fixed("relation", "pairs", "task", "n_pairs", "hold_out", "known_only", "corrupt")
]


@dataclass
class _Asked:
    """What a model answers about each relation, and how many pairs come of it."""

    checks: dict[str, KnowledgeCheck] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    def of(self, fact: Fact) -> list[Answer]:
        """The answers about a fact, one a wording."""
        check = self.checks.get(fact.relation)
        found = () if check is None else check.answers
        return [answer for answer in found if answer.question.fact == fact]


def facts(
    *,
    given: Given,
    relation: RelationArgument = None,
    source: AtlasOrFile,
    model: AskedModel = None,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 32,
    loading: Loading,
    as_json: o.AsJson = False,
) -> None:
    """The relations of the atlas or a fact file; one relation's facts; what a model knows."""
    console = Console(as_json)
    source = replace(source, relation=relation)
    with console.working():
        from circuits.base.errors import OptionError

        relations, asked = _relations(source), _Asked()
        if source.chat and model is None:
            raise OptionError("`chat` needs a model whose chat template is asked through")
        if model is None:
            given.refuse(UNASKED_FACTS)
        if model is not None:
            loaded = o.asked_model(console, model, loading, source.bos)
            n = sum(len(each.facts) for each in relations)
            console.note(f"{n:,} facts of {len(relations)} relations are asked")
            asked = _ask(console, loaded, relations, source, batch_size)
            bos = loaded.tokenizer.use_bos(source.bos)
        records = [_relation_record(each, asked) for each in relations]
        from locate.looks.says.facts import knows
        from locate.looks.says.facts import relations as there_are

        known = {each["relation"]: each["known"] for each in records if "known" in each}
        said = there_are(relations) if model is None else knows(model, relations, known)
    console.found(said)
    if relation is None:
        _print_relations(console, records)
    else:
        _print_facts(console, relations[0], records[0], asked)
    if asked.hints:
        console.say("\n" + in_flags("\n".join(asked.hints), VOICE.flags))
    if relation is not None or model is not None:
        for record, each in zip(records, relations, strict=True):
            record["list"] = [_fact_record(fact, asked) for fact in each.facts]
    asked_with = {} if model is None else {"bos": bos}
    record = {"model": model, **asked_with, "relations": records}
    console.result(stamped("facts", record, said))


def _relations(source: Source) -> list[Relation]:
    if not source.asks:
        from circuits.facts.facts import atlas

        return list(atlas().values())
    from locate.examples import relations_of

    return relations_of(source)


def _ask(
    console: Console, model: Model, relations: list[Relation], source: Source, batch_size: int
) -> _Asked:
    from circuits.base.errors import OptionError
    from circuits.facts.pairing import make_pairs
    from circuits.facts.questions import KnowledgeCheck
    from locate.asking import hints, known_of

    asked = _Asked()
    with console.stage("facts") as progress:
        for index, each in enumerate(relations, start=1):
            try:
                check = known_of(model, [each], source, batch_size)
            except OptionError:
                if len(relations) == 1:
                    raise
                check = KnowledgeCheck(())  # too few facts for the demonstrations, as was logged
            made = make_pairs(model.tokenizer, check, source.seed, bos=source.bos)
            asked.checks[each.name], asked.pairs[each.name] = check, len(made.pairs)
            progress(index, len(relations))
    answers = tuple(answer for check in asked.checks.values() for answer in check.answers)
    every = KnowledgeCheck(answers)
    if 2 * len(_facts_known(every)) < len({answer.question.fact for answer in answers}):
        asked.hints = hints(every, source, model)
    return asked


def _facts_known(check: KnowledgeCheck) -> set[Fact]:
    return {question.fact for question in check.known}


def _relation_record(relation: Relation, asked: _Asked) -> dict[str, Any]:
    record: dict[str, Any] = {
        "relation": relation.name,
        "category": relation.category,
        "kind": relation.kind,
        "facts": len(relation.facts),
        "templates": list(relation.templates),
        "usual_templates": list(relation.usual),
        "held_out_templates": list(relation.held_out),
    }
    check = asked.checks.get(relation.name)
    if check is not None:
        record["questions"] = len(check.answers)
        record["answered_right"] = len(check.known)
        record["accuracy"] = check.accuracy if check.answers else None
        record["known"] = len(_facts_known(check))
        record["cannot_be_asked"] = len(check.unusable)
        record["pairs"] = asked.pairs[relation.name]
        record["by_wording"] = [
            {"wording": wording, "right": right, "asked": n}
            for wording, (right, n) in check.by_template().items()
        ]
        record["says_instead"] = [
            {"says": said, "times": count, "prompt": case.prompt, "answer": case.fact.object}
            for said, count, case in check.instead()
        ]
    return record


def _fact_record(fact: Fact, asked: _Asked) -> dict[str, Any]:
    record: dict[str, Any] = {"subject": fact.subject, "object": fact.object}
    if answers := asked.of(fact):
        right = sum(answer.known for answer in answers)
        best = max(answer.probability for answer in answers)
        record |= {"known": right > 0, "right": right, "asked": len(answers)}
        record |= {"best_probability": best, "says": [answer.said for answer in answers]}
    return record


def _print_relations(console: Console, records: list[dict[str, Any]]) -> None:
    asked = any("known" in record for record in records)
    extra = ("known", "accuracy", "pairs", "says instead") if asked else ()
    rows = []
    for record in records:
        cells = [record["relation"], record["category"], str(record["facts"])]
        if asked:
            cells += [str(record["known"]), percent(record["accuracy"]), str(record["pairs"])]
            cells.append(_instead(record))
        rows.append(cells)
    console.table(("relation", "category", "facts", *extra), rows)


def _instead(record: dict[str, Any]) -> str:
    """The commonest wrong answer, and how many of the wrong ones it is."""
    wrong = record["questions"] - record["answered_right"]
    return "".join(
        f"{each['says']!r} {each['times']} of {wrong}" for each in record["says_instead"][:1]
    )


def _print_facts(
    console: Console, relation: Relation, record: dict[str, Any], asked: _Asked
) -> None:
    for heading, templates in (("templates", relation.templates), ("held out", relation.held_out)):
        for template in templates:
            usual = " (usual for a language model)" if template in relation.usual else ""
            console.say(f"{heading}: {template}{usual}")
    console.say()
    extra = ("right", "best probability", "says instead") if asked.checks else ()
    rows = []
    for fact in relation.facts:
        cells = [fact.subject, fact.object]
        if asked.checks:
            answers = asked.of(fact)
            wrong = [repr(answer.said) for answer in answers if not answer.known]
            best = max((answer.probability for answer in answers), default=0.0)
            cells += [f"{len(answers) - len(wrong)} of {len(answers)}", f"{best:.3f}"]
            cells.append(", ".join(dict.fromkeys(wrong)))
        rows.append(cells)
    console.table(("subject", "object", *extra), rows)
    if asked.checks:
        console.say()
        wordings = [
            (each["wording"], f"{each['right']} of {each['asked']}")
            for each in record["by_wording"]
        ]
        console.table(("wording", "right"), wordings)
        console.say(f"\n{record['known']} facts known, {record['pairs']} pairs")
