"""Memorisation, comprehension, application and creation, probed over the facts.

For each probe and base relation: how often the model is right beside the best constant guess, and
how much the circuit of the probe has in common with the circuit of plain recall, beside what random
circuits and a second discovery on other subjects have in common with it. See
`experiments.analyses.mechanisms.probes` for the probes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from circuits.base.errors import NothingFoundError, NumericalError, PromptError
from circuits.base.options import Options, option
from circuits.facts.demonstrations import shown_before
from circuits.facts.facts import Fact, Relation
from circuits.facts.knowledge import ask
from circuits.facts.pairing import make_pairs
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair, encode_pairs
from circuits.facts.questions import Answer, KnowledgeCheck, Question, demonstrations_of
from circuits.facts.wordings import wordings
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import evaluate
from circuits.graph.noise import corrupted_subject
from circuits.graph.overlap import jaccard, node_jaccard
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from experiments.analyses.engine.asking import last_logits
from experiments.analyses.engine.base import Analysis, SkipError
from experiments.analyses.engine.context import Context
from experiments.analyses.mechanisms.probes import Probe, ProbeSet, bases, probe_set
from experiments.analyses.mechanisms.report import report
from locate.discover import random_circuits
from locate.examples import Examples
from locate.search import Search

RELATIONS = (
    "country_capital",
    "country_language",
    "country_continent",
    "person_occupation",
    "company_industry",
    "athlete_sport",
    "animal_class",
    "noun_plural",
)
"""Relations of different kinds that cloze, exact, paraphrase and negation ask about; of facts that
have none of them it is the first eight."""
FEWEST = 4
"""Pairs that a probe's circuit needs at least."""


@dataclass(frozen=True)
class Config(Options):
    """Options; see `kc run --list`."""

    relations: tuple[str, ...] = option(
        RELATIONS,
        "relations of the cloze, exact, paraphrase and negation probes; none named: all",
        selects=True,
    )
    facts: int = option(40, "questions a probe and relation at most", low=1)
    pairs: int = option(12, "prompt pairs that find a circuit", low=1)
    edges: int | None = option(None, "edges to select; none: 200, at most a tenth of all", low=1)
    steps: int = option(5, "integration steps of EAP-IG", low=1)
    random_circuits: int = option(20, "random circuits for the level of chance", low=1)


@dataclass(frozen=True)
class Reply:
    """The model's answer to a question: on top of all tokens, best of the candidates.

    `fits` says of each candidate whether its first token is the answer's.
    """

    question: Question | PromptPair
    answer: str
    said: str
    top: bool
    chosen: bool
    fits: tuple[bool, ...] = ()


def steps(context: Context, config: Config) -> list[str]:
    """One unit a probe and relation (or chain). OptionError for an unknown relation."""
    known = context.relations
    if config.relations == RELATIONS:
        chosen = [name for name in RELATIONS if name in known] or list(known)[: len(RELATIONS)]
    else:
        chosen = context.names(config.relations)
    return [f"{probe}: {name}" for probe in Probe for name in bases(probe, known, chosen)]


def compute(context: Context, config: Config, key: str) -> dict[str, Any]:
    """Accuracy of one probe about one relation, and its circuit beside that of plain recall.

    There is no `circuit` where too few prompts can be paired, or one of them has no edge.
    """
    label, _, name = key.partition(": ")
    probe = Probe(label)
    asked = probe_set(probe, name, _relations(context, name), context.seed, context.shots)
    replies = _replies(context.model, asked, config.facts, context)
    if not replies:
        raise SkipError("none of its questions can be put to this model")
    right = [is_right(probe, reply) for reply in replies]
    result: dict[str, Any] = {
        "probe": str(probe),
        "mechanism": probe.mechanism,
        "name": name,
        "base": asked.base,
        "n": len(replies),
        "top": [reply.top for reply in replies],
        "right": right,
        "guess": constant_guess(asked, replies),
        "example": _example(replies[0], asked),
    }
    if probe != Probe.EXACT:
        try:
            result["circuit"] = _circuit(context, config, asked, replies)
        except (PromptError, NothingFoundError, NumericalError):
            result["circuit"] = None
    return result


def _relations(context: Context, name: str) -> dict[str, Relation]:
    """Those that a unit asks about, a relation or a chain's two, in the run's wordings."""
    chains = {each.name: (each.first, each.second) for each in wordings().chains}
    return {each: context.worded(each) for each in chains.get(name, (name,))}


def is_right(probe: Probe, reply: Reply) -> bool:
    """Whether the probe is passed: the best candidate is the answer, for a negation another."""
    match probe:
        case Probe.EXACT:
            return reply.top
        case Probe.NEGATION:
            return not reply.chosen
    return reply.chosen


def constant_guess(asked: ProbeSet, replies: Sequence[Reply]) -> float:
    """The share that saying one and the same candidate to every question gets right.

    By first tokens, as the model's own answers are; for exact recall by whole objects. A negation
    gets the candidate that is least often the answer, and where two are named it is a half.
    """
    if asked.probe == Probe.COMPARISON:
        return 0.5
    if asked.probe == Probe.EXACT:
        return max(Counter(reply.answer for reply in replies).values()) / len(replies)
    shares = np.mean([reply.fits for reply in replies], 0)
    return float(1 - shares.min() if asked.probe == Probe.NEGATION else shares.max())


# --- asking --------------------------------------------------------------------------------------


def _replies(model: Model, asked: ProbeSet, most: int, context: Context) -> list[Reply]:
    """The model's answers to at most so many questions, chosen by the seed."""
    if asked.pairs:
        return list(_ask_pairs(model, asked, asked.pairs[:most], context))
    facts = list(asked.relation.facts)
    order = np.random.default_rng(context.seed).permutation(len(facts))[:most]
    questions = [
        Question(facts[index], asked.template, asked.before) for index in sorted(order.tolist())
    ]
    return list(_ask(model, asked, questions, context.batch_size))


def _ask(
    model: Model, asked: ProbeSet, questions: Sequence[Question], batch_size: int
) -> Iterator[Reply]:
    """Questions that the tokenizer can put; candidates compare by their first token.

    Of the answers that a fact accepts, that counts which the model does best on, and stands among
    the candidates in the object's place.
    """
    usable: list[tuple[Question, Prompt, list[int]]] = []
    for question in questions:
        try:
            prompt = model.tokenizer.encode(question.prompt)
            prompt.span_of(question.fact.subject, question.place)
            accepted = [
                model.tokenizer.first_token(question.prompt, text)
                for text in question.fact.accepted
            ]
            usable.append((question, prompt, accepted))
        except PromptError:
            continue
    logits = last_logits(model, [prompt for _, prompt, _ in usable], batch_size)
    for (bare, prompt, accepted), row in zip(usable, logits, strict=True):
        place = int(row[accepted].argmax())
        token, answer, text = accepted[place], bare.fact.accepted[place], bare.prompt
        named = [answer if each == bare.fact.object else each for each in asked.candidates]
        question = replace(bare, fact=replace(bare.fact, object=answer, aliases=()))
        firsts = [model.tokenizer.first_token(text, each) for each in named]
        candidates = sorted(set(firsts))
        best = int(row.argmax())
        top = best == token
        if asked.probe == Probe.EXACT:
            top = _whole_object(model, prompt, model.tokenizer.continuation(text, answer))
        chosen = candidates[int(row[candidates].argmax())] == token
        fits = tuple(first == token for first in firsts)
        yield Reply(question, answer, model.tokenizer.token_string(best), top, chosen, fits)


@torch.no_grad()
def _whole_object(model: Model, prompt: Prompt, tokens: Sequence[int]) -> bool:
    """Whether each of the object's tokens is on top after those before it."""
    ids = list(prompt.ids)
    for token in tokens:
        logits = model.last_logits(torch.tensor([ids], device=model.device))
        if int(logits.argmax()) != token:
            return False
        ids.append(token)
    return True


def _ask_pairs(
    model: Model, asked: ProbeSet, pairs: Sequence[PromptPair], context: Context
) -> Iterator[Reply]:
    """Comparisons: the two alternatives compare by their first token."""
    usable = []
    for pair in pairs:
        try:
            prompt = model.tokenizer.encode(pair.clean)
            tokens = [model.tokenizer.first_token(pair.clean, x) for x in (pair.answer, pair.foil)]
            if tokens[0] != tokens[1]:
                usable.append((pair, prompt, tokens))
        except PromptError:
            continue
    logits = last_logits(model, [prompt for _, prompt, _ in usable], context.batch_size)
    for (pair, _, (token, other)), row in zip(usable, logits, strict=True):
        best = int(row.argmax())
        said = model.tokenizer.token_string(best)
        yield Reply(pair, pair.answer, said, best == token, bool(row[token] > row[other]))


def _example(reply: Reply, asked: ProbeSet) -> dict[str, str]:
    question = reply.question
    text = question.clean if isinstance(question, PromptPair) else question.prompt
    return {"prompt": text.removeprefix(asked.before), "answer": reply.answer, "said": reply.said}


# --- circuits ------------------------------------------------------------------------------------


def _circuit(
    context: Context, config: Config, asked: ProbeSet, replies: Sequence[Reply]
) -> dict[str, Any] | None:
    """The probe's circuit beside that of plain recall; None where too few pairs can be made."""
    examples = context.examples(asked.base, config.pairs)
    if not examples.held_out:
        return None
    pairs = _pairs_for_circuit(context, config, asked, examples, replies)
    return _compared(context, config, asked, examples, pairs) if len(pairs) >= FEWEST else None


def _pairs_for_circuit(
    context: Context,
    config: Config,
    asked: ProbeSet,
    examples: Examples,
    replies: Sequence[Reply],
) -> list[TokenPair]:
    """Pairs of questions answered right, about subjects that the recall circuit was not found on.

    A negation's circuit is that of the object all the same: what the model does with "is not".
    """
    tokenizer = context.model.tokenizer
    used = {word for pair in examples.pairs for word in _subjects(pair.text)}
    relation = context.relations[asked.base]
    shown = demonstrations_of(relation, context.shots, context.seed) or ()
    used |= {fact.subject for fact in shown}  # what stood answered has found the circuit too
    wanted = [
        reply
        for reply in replies
        if reply.chosen or asked.probe == Probe.NEGATION
        if not used & set(_subjects_asked(reply, asked))
    ]
    if asked.pairs:
        found = []
        for reply in wanted:
            assert isinstance(reply.question, PromptPair)
            try:
                found.append(encode_pair(tokenizer, reply.question))
            except PromptError:
                continue
        return found[: config.pairs]
    answers = [Answer(r.question, 0, 1.0) for r in wanted if isinstance(r.question, Question)]
    check = KnowledgeCheck(tuple(answers))
    made = make_pairs(tokenizer, check, context.seed, config.pairs).pairs if answers else ()
    return encode_pairs(tokenizer, made) if made else []


def _subjects(pair: PromptPair) -> tuple[str, ...]:
    return (pair.named_subject or "", corrupted_subject(pair))


def _subjects_asked(reply: Reply, asked: ProbeSet) -> tuple[str, ...]:
    """The base relation's subjects that a question names or is about."""
    if isinstance(reply.question, PromptPair):
        return asked.alternatives[reply.question.clean]
    fact = reply.question.fact
    return (fact.object,) if asked.probe == Probe.REVERSAL else (fact.subject,)


def _compared(
    context: Context,
    config: Config,
    asked: ProbeSet,
    examples: Examples,
    pairs: Sequence[TokenPair],
) -> dict[str, Any]:
    """The probe's circuit against the circuit of plain recall, which other subjects gave."""
    search = Search(edges=config.edges, steps=config.steps, resamples=0)
    cloze = _worded(context, examples, asked.base)
    recall = context.circuit(asked.base, config.pairs, search, examples=cloze)
    other = replace(cloze, pairs=cloze.held_out, held_out=cloze.pairs)
    again = context.circuit(asked.base, config.pairs, search, examples=other)
    own = Examples(f"{asked.probe} {asked.base}", tuple(pairs))
    circuit = context.circuit(f"{asked.base}-{asked.probe}", None, search, examples=own)
    drawn = random_circuits(circuit, config.random_circuits, context.seed)
    carried = evaluate(
        context.model,
        pairs,
        recall,
        random_circuits=drawn[:5],
        batch_size=context.batch_size,
        seed=context.seed,
    )
    return {
        "pairs": len(pairs),
        "edges": circuit.n_edges,
        "overlap": _overlap(circuit, recall),
        "again": _overlap(again, recall),
        "chance": {
            what: float(np.mean([_overlap(each, recall)[what] for each in drawn]))
            for what in ("edges", "nodes")
        },
        "carried": carried.faithfulness,
        "carried_random": carried.random_faithfulness,
    }


def _worded(context: Context, examples: Examples, base: str) -> Examples:
    """Both halves in the first wording that is asked in, where the model knows enough facts so."""
    relation = context.worded(base)
    template = relation.templates[0]
    shown = demonstrations_of(relation, context.shots, context.seed) or ()
    before = shown_before(template, shown)
    sides = []
    for side in (examples.pairs, examples.held_out):
        pairs = []
        questions = [
            [Question(Fact(base, each, pair.text.answer), template, before) for each in names]
            for pair in side
            for names in [_subjects(pair.text)]
        ]
        known = set(
            ask(
                context.model,
                [one for one, _ in questions],
                [relation],
                batch_size=context.batch_size,
                known=context.known,
            ).known
        )
        for pair, (one, other) in zip(side, questions, strict=True):
            if one not in known:
                continue
            text = replace(pair.text, clean=one.prompt, corrupted=other.prompt, start=len(before))
            text = replace(text, spans=one.spans)
            try:
                pairs.append(encode_pair(context.model.tokenizer, text))
            except PromptError:
                continue
        sides.append(tuple(pairs) if len(pairs) >= FEWEST else side)
    return replace(examples, pairs=sides[0], held_out=sides[1])


def _overlap(left: Circuit, right: Circuit) -> dict[str, float]:
    return {"edges": jaccard(left, right), "nodes": node_jaccard(left, right)}


ANALYSIS = Analysis(
    name="mechanisms",
    title="What the model can do with what it knows",
    question=(
        "Does the model only memorise facts, or can it also understand them in other words, apply "
        "them and combine them anew, and does it use the same circuit?"
    ),
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=5,
)
