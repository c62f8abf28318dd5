"""Texts that stand before an edit's prompt, so that its key and value hold in any context.

They are sampled from the model itself (Meng et al. 2022, section 3.1), with a generator, so that
the same seed gives the same contexts. The first context is always empty: the bare prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, PromptError
from circuits.base.options import Options, option
from circuits.edits.edit import EditRequest
from circuits.facts.facts import SLOT
from circuits.model.model import Model, Prefix

SEPARATOR = ". "


@dataclass(frozen=True)
class ContextSettings(Options):
    """How contexts are sampled: `copies` of each length after each start.

    `lengths` count the tokens in all, BOS included. As in the released codes: ROME's samples after
    the BOS alone, 10 texts of 5 and 10 of 10 tokens (its paper has 50 of 2 to 10); MEMIT's one text
    of 10 tokens after each of five words.
    """

    starts: tuple[str, ...] = ("",)
    lengths: tuple[int, ...] = option((5, 10), low=2)
    copies: int = option(10, low=0)
    top_k: int = option(5, low=1)


MEMIT_CONTEXTS = ContextSettings(("The", "Therefore", "Because", "I", "You"), (10,), 1)


@dataclass(frozen=True)
class PlacedPrompt:
    """A request's prompt in a context, followed by what is forced: tokens and places in them.

    `subject_last` is the position of the subject's last token, where keys and values are read;
    `targets` are the tokens of the answer, each predicted at the position before it.
    """

    ids: tuple[int, ...]
    subject_last: int
    prompt_length: int
    targets: tuple[int, ...] = ()


@torch.no_grad()
def sample_contexts(
    model: Model, settings: ContextSettings, generator: torch.Generator
) -> tuple[str, ...]:
    """The contexts, each ending so that a prompt may follow; the first is empty.

    Where a start is empty the BOS token begins the text. A tokenizer without one (Qwen's) begins
    with the words of `MEMIT_CONTEXTS`.
    """
    texts = [""]
    starts, copies = settings.starts, settings.copies
    if "" in starts and model.tokenizer.hf.bos_token_id is None:
        # Nothing to begin with: MEMIT's words instead, and as many texts.
        starts = MEMIT_CONTEXTS.starts
        copies = ceil(copies * len(settings.starts) / len(starts))
    for start in starts:
        rows = _begin(model, start).expand(copies * len(settings.lengths), -1)
        pieces: list[Int[Tensor, "row pos"]] = []
        prefix: Prefix | None = None
        for length in sorted(settings.lengths):  # a shorter text is the beginning of a longer
            while rows.shape[0] and rows.shape[1] < length:
                new = rows[:, prefix.length :] if prefix else rows
                logits, prefix = model.last_logits_and_prefix(new, prefix=prefix)
                rows = torch.cat([rows, _draw(logits, settings.top_k, generator)], 1)
            pieces.append(rows[:copies])
            prefix = prefix and prefix.take(torch.arange(copies, len(rows), device=rows.device))
            rows = rows[copies:]
        texts += [_as_context(model, ids) for piece in pieces for ids in piece.tolist()]
    return tuple(texts)


def place(model: Model, request: EditRequest, context: str = "") -> PlacedPrompt:
    """The request's prompt in a context, with its target; its subject is the one in the slot.

    PromptError for a subject that begins or ends in white space.
    """
    if request.subject != request.subject.strip():
        raise PromptError(f"the subject {request.subject!r} begins or ends in white space")
    text = context + request.text
    start = len(context) + request.prompt.index(SLOT)
    return _place(model, text, start, request.subject, request.target)


def place_essence(model: Model, subject: str) -> PlacedPrompt:
    """ROME's prompt "SUBJECT is a", which keeps what the subject is (its equation 4)."""
    return _place(model, f"{subject} is a", 0, subject, None)


def _place(model: Model, text: str, start: int, subject: str, target: str | None) -> PlacedPrompt:
    prompt = model.tokenizer.encode(text)
    targets = model.tokenizer.continuation(text, target) if target is not None else ()
    last = prompt.span_at(start, start + len(subject)).last
    model.check_length(len(prompt) + max(0, len(targets) - 1))
    return PlacedPrompt(prompt.ids + targets[:-1], last, len(prompt), targets)


def _begin(model: Model, start: str) -> Int[Tensor, "1 pos"]:
    tokenizer = model.tokenizer
    # Without words the BOS begins the sampling, whether or not texts are to have one.
    ids = tokenizer.encode(start).ids if start else [tokenizer.hf.bos_token_id]
    return torch.tensor([list(ids)], device=model.device)


def _draw(
    logits: Float[Tensor, "row d_vocab"], top_k: int, generator: torch.Generator
) -> Int[Tensor, "row 1"]:
    """One token a row among the `top_k` likeliest, drawn on the CPU: the same on every device.

    NumericalError where the model says nothing finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise NumericalError("the model's logits are not finite, so that no text can be sampled")
    best = logits.float().cpu().topk(min(top_k, logits.shape[-1]))
    chosen = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
    return best.indices.gather(1, chosen).to(logits.device)


def _as_context(model: Model, ids: list[int]) -> str:
    text = model.tokenizer.hf.decode(ids, skip_special_tokens=True).replace("\ufffd", "").strip()
    return text.rstrip(" .") + SEPARATOR if text.strip(" .") else ""
