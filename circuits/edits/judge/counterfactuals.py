"""Counterfactual edits of the atlas, with all the prompts that judge them: no download needed.

An edit gives a subject another object of its relation. Its probes are

- paraphrases: other templates of the relation, those no trained model has seen named apart;
- neighbours: other subjects of the relation, as many as there are with the same true object first
  (they are the ones an edit harms most; Meng et al. 2022, CounterFact's neighbourhood prompts);
- the subject's other relations, but for those that the new object decides (a landmark's country
  follows from its city: that becomes a one-hop question);
- portability (Yao et al. 2023): the subject by another name, the reverse question, and what follows
  from the new object's own facts ("The currency of the country where the Louvre stands is the").
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from circuits.base.errors import NothingFoundError, OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.requests import Heading
from circuits.facts.facts import Fact, Probe, ProbeKind, Relation, atlas, fill, named_once, relation
from circuits.facts.wordings import takes_phrases, wordings
from circuits.model.tokens import Tokenizer


@dataclass(frozen=True)
class ProbeCounts:
    """How many probes of a kind a request gets at most; held-out paraphrases come in full."""

    paraphrases: int = 3
    neighbours: int = 6
    same_subject: int = 4
    one_hop: int = 2


DECIDED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "landmark_city": {"landmark_country": ("city_country", "country_capital")},
    "landmark_country": {"landmark_continent": ("country_continent",), "landmark_city": ()},
    "landmark_continent": {"landmark_country": (), "landmark_city": ()},
    "company_city": {"company_country": ("city_country", "country_capital")},
    "company_country": {"company_city": ()},
    "noun_plural": {"noun_first_letter": ()},
}
"""By edited relation: the relations its object decides or bounds, and those that say how.

`country_capital` is read backwards: a capital's country.
"""
PERSONS = ("people", "musicians", "athletes")


def atlas_requests(
    n: int,
    seed: int,
    relations: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    counts: ProbeCounts = ProbeCounts(),
) -> list[EditRequest]:
    """`n` random counterfactual edits, spread evenly over the relations; the seed decides which.

    New and true object differ in their first token (their first word, without a tokenizer).
    OptionError where the relations have fewer facts that can be edited.
    """
    if n < 1:
        raise OptionError(f"the number of edits must be at least 1, not {n}")
    generator = random.Random(seed)
    names = list(dict.fromkeys(relations)) if relations else list(atlas())
    queues = {name: list(relation(name).facts) for name in names}
    for queue in queues.values():
        generator.shuffle(queue)
    made: list[EditRequest] = []
    while len(made) < n:
        turn = [name for name, queue in queues.items() if queue]
        if not turn:
            raise NothingFoundError(
                f"only {len(made)} facts of these relations can be edited, not {n}"
            )
        generator.shuffle(turn)
        for name in turn:
            request = _counterfactual(queues[name].pop(), generator, tokenizer)
            if request is not None and len(made) < n:
                made.append(with_atlas_probes(request, seed, counts))
    return made


def with_atlas_probes(
    request: EditRequest, seed: int = 0, counts: ProbeCounts = ProbeCounts()
) -> EditRequest:
    """The request with the probes that the atlas has for it; as it is where the atlas has none.

    The relation is the request's own, or the one that has its wording and its subject.
    """
    found = _relation_of(request)
    if found is None or request.probes:
        return request
    generator = random.Random(f"{seed}/{found.name}/{request.subject}/{request.target}")
    probes = (
        *_paraphrases(request, found, generator, counts.paraphrases),
        *_neighbours(request, found, generator, counts.neighbours),
        *_same_subject(request, found, generator, counts.same_subject),
        *_alias(request, found),
        *_reversal(request, found),
        *_decided(request, found, generator),
        *_one_hop(request, found, generator, counts.one_hop),
    )
    truth = request.ground_truth or next(iter(found.objects_of(request.subject)), None)
    return EditRequest(request.prompt, request.subject, request.target, truth, found.name, probes)


def _relation_of(request: EditRequest) -> Relation | None:
    if request.relation in atlas():
        named = atlas()[request.relation]
        return named if request.subject in named.subjects() else None
    for each in atlas().values():
        if request.prompt in each.templates + each.held_out and request.subject in each.subjects():
            return each
    return None


def _counterfactual(
    fact: Fact, generator: random.Random, tokenizer: Tokenizer | None
) -> EditRequest | None:
    """A random edit of a fact; None where no template or no other object will do."""
    found = relation(fact.relation)
    templates = [t for t in found.templates if named_once(t, fact.subject)]
    if not templates:
        return None
    template = generator.choice(templates)
    target = new_object(found, fact, template, generator, tokenizer)
    if target is None:
        return None
    return EditRequest(template, fact.subject, target, fact.object, fact.relation)


def new_object(
    found: Relation,
    fact: Fact,
    template: str,
    generator: random.Random,
    tokenizer: Tokenizer | None,
) -> str | None:
    """A random object of the relation, none of the subject's, that begins otherwise; or None."""
    true = set(found.objects_of(fact.subject))
    others = [each for each in found.objects() if each not in true]
    generator.shuffle(others)
    prompt = fill(template, fact.subject)
    return next((o for o in others if _differ(prompt, o, fact.object, tokenizer)), None)


def _differ(prompt: str, target: str, true: str, tokenizer: Tokenizer | None) -> bool:
    if tokenizer is None:
        return target.split()[0] != true.split()[0]
    try:
        return tokenizer.first_token(prompt, target) != tokenizer.first_token(prompt, true)
    except PromptError:
        return False


def _some(values: Sequence[str], n: int, generator: random.Random) -> list[str]:
    return generator.sample(list(values), min(n, len(values)))


def _paraphrases(
    request: EditRequest, found: Relation, generator: random.Random, n: int
) -> Iterator[Probe]:
    seen = [each for each in found.templates if each != request.prompt]
    chosen = [(each, Heading.SEEN) for each in _some(seen, n, generator)]
    chosen += [(t, Heading.HELD_OUT) for t in found.held_out if t != request.prompt]
    for template, name in chosen:
        prompt = fill(template, request.subject)
        yield Probe(ProbeKind.PARAPHRASE, prompt, (request.target,), name)


def _neighbours(
    request: EditRequest, found: Relation, generator: random.Random, n: int
) -> Iterator[Probe]:
    """Half of them, where there are so many, share the true object."""
    of_subject = {subject: found.objects_of(subject) for subject in found.subjects()}
    usable = [
        subject
        for subject, objects in of_subject.items()
        if subject != request.subject
        and request.target not in objects
        and named_once(request.prompt, subject)
    ]
    alike = [each for each in usable if request.ground_truth in of_subject[each]]
    chosen = _some(alike, n // 2, generator)
    chosen += _some([each for each in usable if each not in chosen], n - len(chosen), generator)
    for subject in chosen:
        prompt = fill(request.prompt, subject)
        yield Probe(ProbeKind.LOCALITY, prompt, of_subject[subject], Heading.NEIGHBOUR)


def _same_subject(
    request: EditRequest, found: Relation, generator: random.Random, n: int
) -> Iterator[Probe]:
    decided = DECIDED.get(found.name, {})
    others = [
        each.name
        for each in atlas().values()
        if each.kind == found.kind
        and each.name not in (found.name, *decided)
        and request.subject in each.subjects()
    ]
    for name in _some(others, n, generator):
        other = relation(name)
        prompt = fill(generator.choice(other.templates), request.subject)
        answers = other.objects_of(request.subject)
        yield Probe(ProbeKind.LOCALITY, prompt, answers, Heading.SAME_SUBJECT)


def _alias(request: EditRequest, found: Relation) -> Iterator[Probe]:
    """A person by the last name, where no other subject of that kind has it."""
    last = request.subject.split()[-1]
    shared = sum(each.split()[-1] == last for each in found.subjects())
    if found.kind in PERSONS and last != request.subject and shared == 1:
        prompt = fill(request.prompt, last)
        yield Probe(ProbeKind.PORTABILITY, prompt, (request.target,), Heading.ALIAS)


def _reversal(request: EditRequest, found: Relation) -> Iterator[Probe]:
    asked_back = wordings().asked_back
    if found.name in asked_back:
        prompt = fill(asked_back[found.name], request.target)
        yield Probe(ProbeKind.PORTABILITY, prompt, (request.subject,), Heading.REVERSAL)


def _decided(request: EditRequest, found: Relation, generator: random.Random) -> Iterator[Probe]:
    """The subject's other relations whose object follows from the new one."""
    for name, ways in DECIDED.get(found.name, {}).items():
        answers = tuple(answer for way in ways for answer in _follow(way, request.target))
        if answers:
            prompt = fill(generator.choice(relation(name).templates), request.subject)
            yield Probe(ProbeKind.PORTABILITY, prompt, answers, Heading.ONE_HOP)


def _follow(way: str, subject: str) -> tuple[str, ...]:
    if way == "country_capital":
        return tuple(each.subject for each in relation(way).facts if each.object == subject)
    return relation(way).objects_of(subject)


def _one_hop(
    request: EditRequest, found: Relation, generator: random.Random, n: int
) -> Iterator[Probe]:
    phrases = wordings().phrases
    if found.name not in phrases:
        return
    phrase, kind = phrases[found.name]
    nexts = [
        each.name
        for each in atlas().values()
        if each.kind == kind and request.target in each.subjects()
    ]
    for name in _some(nexts, n, generator):
        other = relation(name)
        fit = [each for each in other.templates if takes_phrases(each)] or other.templates
        prompt = fill(generator.choice(fit), fill(phrase, request.subject))
        answers = other.objects_of(request.target)
        yield Probe(ProbeKind.PORTABILITY, prompt, answers, Heading.ONE_HOP)
