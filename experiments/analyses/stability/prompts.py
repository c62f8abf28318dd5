"""The pairs of a setting: of subjects that the test never asks about, worded and paired anew."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from circuits.base.choices import Templates
from circuits.base.errors import PromptError
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair
from circuits.graph.noise import corrupted_subject
from circuits.model.tokens import Tokenizer
from experiments.analyses.engine.context import Context
from experiments.analyses.stability.choices import Setting
from locate.examples import Examples, collect
from locate.options import Source
from locate.seen import subjects_of, without


def examples_of(
    context: Context, relation: str, tested: Sequence[TokenPair], setting: Setting, limit: int
) -> Examples:
    """The pairs that find the setting's circuit; no subject of the tested pairs is among theirs.

    The number of `subjects` is added to the run's seed; with `foils` above 0 the same prompts get
    other partners. PromptError where none can be made.
    """
    shots, seed = int(setting.get("shots", context.shots)), int(setting.get("subjects", 0))
    templates = Templates.of(setting.get("wording", context.templates), "wording")
    best = context.best(relation).best if templates == Templates.BEST else ()
    source = Source(
        relation=relation,
        facts=context.facts,
        templates=Templates.USUAL if best else templates,
        wordings=best,  # else every draw of subjects would choose its own
        n_pairs=limit,
        hold_out=0.0,
        known=context.known,
        shots=shots,
        seed=context.seed + seed,
    )

    def made() -> Examples:
        avoid = {name for pair in tested for name in subjects_of(pair.text)}
        kept = without([context.relations[relation]], avoid)
        return collect(context.model, source, relations=kept)

    found = context.once(("stability", source), made)
    foils = int(setting.get("foils", 0))
    if not foils:
        return found
    pairs = other_partners(context.model.tokenizer, found.pairs, context.seed + foils)
    return replace(found, pairs=pairs)


def other_partners(
    tokenizer: Tokenizer, pairs: Sequence[TokenPair], seed: int
) -> tuple[TokenPair, ...]:
    """The same clean prompts, each against another subject of these pairs.

    A partner has as many tokens and another answer; a pair for which there is no other keeps its
    own.
    """
    pool = list(
        dict.fromkeys(
            each
            for pair in pairs
            for each in (
                (pair.text.subject or "", pair.text.answer),
                (corrupted_subject(pair.text), pair.text.foil),
            )
        )
    )
    generator = random.Random(seed)
    return tuple(_with_another(tokenizer, pair, pool, generator) for pair in pairs)


def _with_another(
    tokenizer: Tokenizer,
    pair: TokenPair,
    pool: Sequence[tuple[str, str]],
    generator: random.Random,
) -> TokenPair:
    text = pair.text
    taken = {text.subject, corrupted_subject(text)}
    answers = {answer for subject, answer in pool if subject == text.subject} | {text.answer}
    for subject, answer in generator.sample(pool, len(pool)):
        if subject in taken or answer in answers:
            continue
        try:
            return encode_pair(tokenizer, _against(text, subject, answer), pair.clean.bos)
        except PromptError:  # another number of tokens, or an answer that begins alike
            continue
    return pair


def _against(text: PromptPair, subject: str, answer: str) -> PromptPair:
    """The pair with another subject in the question of the corrupted prompt."""
    start, stop = text.subject_places[0]
    corrupted = text.clean[:start] + subject + text.clean[stop:]
    return replace(text, corrupted=corrupted, foil=answer)
