"""Greedy replies as text, within what a model holds."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.edits.judge.generation import Speaker

SHARE = 2
"""A reply takes at most one of so many parts of the tokens that a model holds."""


def length(speaker: Speaker, wanted: int) -> int:
    """Tokens of a reply: as many as wanted, at most half of what the model holds."""
    return min(wanted, speaker.model.max_tokens // SHARE)


def spoken(speaker: Speaker, prompts: Sequence[str], n_tokens: int) -> list[str]:
    """The greedy reply to each prompt, up to the end-of-text token, without outer white space.

    A prompt that leaves no room for so many tokens loses its beginning, not its end, where the
    question stands; a BOS token in front stays.
    """
    tokenizer = speaker.model.tokenizer
    room = speaker.model.max_tokens - n_tokens + 1
    ids = [_cut(_ids(speaker, prompt), room, tokenizer.use_bos(None)) for prompt in prompts]
    end = tokenizer.hf.eos_token_id
    texts = []
    for reply in speaker.replies(ids, n_tokens):
        said = list(reply.tokens)
        kept = said[: said.index(end)] if end in said else said
        texts.append(tokenizer.hf.decode(kept, skip_special_tokens=True).strip())
    return texts


def _ids(speaker: Speaker, prompt: str) -> list[int]:
    """The prompt's tokens, however long it is."""
    tokenizer = speaker.model.tokenizer
    ids = list(tokenizer.hf(prompt, add_special_tokens=False)["input_ids"])
    return [tokenizer.hf.bos_token_id, *ids] if tokenizer.use_bos(None) else ids


def _cut(ids: list[int], room: int, bos: bool) -> list[int]:
    if len(ids) <= room:
        return ids
    return [ids[0], *ids[len(ids) - room + 1 :]] if bos else ids[len(ids) - room :]
