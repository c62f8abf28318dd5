"""Asking through the model's chat template: the user asks to go on, the assistant has begun.

The prompt stands at the beginning of the assistant's turn, once, so that its subject, its roles and
its answer are found as in plain text. What stands before it, the preamble, is the same in the clean
and the corrupted prompt, is no part of the question, and is the same on every day. The prompts that
a result stores are the whole text, so that they are asked again as they were.
"""

from __future__ import annotations

from dataclasses import replace

from circuits.base.errors import OptionError
from circuits.facts.pairs import SUBJECT, PromptPair
from circuits.model.tokens import Tokenizer, find_mentions, occurrences

REQUEST = "Go on with this sentence, or answer this question, in as few words as you can."
"""What the user says."""

DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24"}
"""The date for templates that say today's: 26 July 2024, which Llama's have where none is given."""

_FIXED_DAY = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(f"|replace('{sign}', '{text}')" for sign, text in DAY.items())
    + " }}{%- endmacro -%}"
)


def chat_preamble(tokenizer: Tokenizer, bos: bool | None = None) -> str:
    """What stands before a prompt that begins the assistant's turn; OptionError without a template.

    A BOS that the template begins with is left out where one is put in front anyway.
    """
    hf = tokenizer.hf
    if not getattr(hf, "chat_template", None):
        raise OptionError("this model has no chat template to ask through")
    turns = [{"role": "user", "content": REQUEST}]
    how = {"chat_template": _FIXED_DAY + hf.get_chat_template(), "add_generation_prompt": True}
    before = str(hf.apply_chat_template(turns, tokenize=False, **how))
    if tokenizer.use_bos(bos) and before.startswith(hf.bos_token):
        before = before.removeprefix(hf.bos_token)
    return before


def chat_pair(tokenizer: Tokenizer, pair: PromptPair, bos: bool | None = None) -> PromptPair:
    """The pair with both prompts in chat; its question and its spans are where they were in it."""
    before = chat_preamble(tokenizer, bos)
    spans = pair.spans
    if pair.subject is not None and all(name != SUBJECT for name, _, _ in spans):
        spans = (*spans, (SUBJECT, pair.subject, 0))
    counted = ((name, text, _which(before, pair.clean, text, nth)) for name, text, nth in spans)
    return replace(
        pair,
        clean=before + pair.clean,
        corrupted=before + pair.corrupted,
        start=len(before) + pair.start,
        spans=tuple(span for span in counted if span in pair.spans or span[2]),
    )


def _which(before: str, prompt: str, text: str, nth: int) -> int:
    """Which occurrence in the whole is the prompt's; still 0 where it alone is a whole word."""
    if not nth:
        mentions = find_mentions(prompt, text)
        if len(mentions) != 1 or not find_mentions(before, text):
            return 0
        nth = occurrences(prompt, text).index(mentions[0]) + 1
    return nth + len(occurrences(before, text))
