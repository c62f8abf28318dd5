"""Asking through the model's chat template: the user asks to go on, the assistant has begun.

The prompt stands at the beginning of the assistant's turn, once, so that its subject, its roles and
its answer are found as in plain text. What stands before it is the same in the clean and the
corrupted prompt. The prompts that a result stores are the whole text, so that they are asked again
as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from circuits.base.errors import OptionError
from circuits.facts.facts import Relation
from circuits.facts.pairs import PromptPair
from circuits.model.tokens import Tokenizer

REQUEST = "Go on with this sentence, or answer this question, in as few words as you can."
"""What the user says."""


def in_chat(tokenizer: Tokenizer, text: str, bos: bool | None = None) -> str:
    """The prompt (or template) as the beginning of the assistant's turn; OptionError without one.

    A BOS that the template begins with is left out where one is put in front anyway.
    """
    hf = tokenizer.hf
    if not getattr(hf, "chat_template", None):
        raise OptionError("this model has no chat template to ask through")
    turns = [{"role": "user", "content": REQUEST}]
    before = str(hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    if tokenizer.use_bos(bos) and before.startswith(hf.bos_token):
        before = before.removeprefix(hf.bos_token)
    return before + text


def chat_relation(tokenizer: Tokenizer, relation: Relation, bos: bool | None = None) -> Relation:
    """The relation with all its wordings in chat."""

    def wrapped(templates: Sequence[str]) -> tuple[str, ...]:
        return tuple(in_chat(tokenizer, each, bos) for each in templates)

    facts = tuple(
        fact if fact.template is None else replace(fact, template=wrapped([fact.template])[0])
        for fact in relation.facts
    )
    templates, held_out = wrapped(relation.templates), wrapped(relation.held_out)
    return replace(relation, templates=templates, held_out=held_out, facts=facts)


def chat_pair(tokenizer: Tokenizer, pair: PromptPair, bos: bool | None = None) -> PromptPair:
    """The pair with both prompts in chat."""
    clean, corrupted = (in_chat(tokenizer, each, bos) for each in (pair.clean, pair.corrupted))
    return replace(pair, clean=clean, corrupted=corrupted)
