"""Which tokens heads raise most in each pair, and in how many these hold the pair's answer.

The logits of every head over the whole vocabulary, pair by pair, cost several times the model's own
run. Few are needed. A token can only be among a head's n best where fewer than n others have as
large a logit, so a sample of the vocabulary rules nearly all heads out, and the rest alone are read
in full. The counts are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from circuits.model.tensors import at_least_fp32
from locate.heads.by_example import ByExample, Example

EXAMPLES = 3
"""Pairs whose best tokens are kept."""
SAMPLE = 512
"""Tokens, at even steps through the vocabulary, that rule out heads."""
AT_ONCE = 128
"""Vectors whose logits are held at a time ..."""
CHUNK = 8192
"""... for so many tokens of the vocabulary."""


class BestTokens:
    """Sees what heads write in pair after pair (`see`), and tells it by example (`told`).

    Held are two counts a head, what the heads write in `EXAMPLES` pairs, and logits of `AT_ONCE`
    vectors to `CHUNK` tokens.
    """

    def __init__(self, model: Model, pairs: Sequence[TokenPair], n_best: int) -> None:
        self.model, self.pairs, self.n_best = model, pairs, min(n_best, model.d_vocab)
        self.examples = _of_different_subjects(pairs)
        self._tokens = torch.tensor([[p.answer, p.foil] for p in pairs], device=model.device)
        step = max(1, model.d_vocab // SAMPLE)
        self._sample = torch.arange(0, model.d_vocab, step, device=model.device)
        self._sampled = self._rows(self._sample)
        shape = (model.n_layers, model.n_heads)
        self._hits = torch.zeros(*shape, 2, dtype=torch.int64, device=model.device)
        precise = self._sampled.dtype
        self._kept = torch.zeros(len(self.examples), *shape, model.d_model, dtype=precise)
        self._open: list[_Open] = []

    def see(
        self, layer: int, rows: Sequence[int], written: Float[Tensor, "batch head d_model"]
    ) -> None:
        """What the layer's heads give to the output matrix in pairs `rows`."""
        for place, row in enumerate(self.examples):
            if row in rows:
                self._kept[place, layer] = written[rows.index(row)].cpu()
        wanted = self._tokens[list(rows)]
        own = torch.einsum("bhd,bsd->bhs", written, self._rows(wanted)).flatten(0, 1)
        vectors, n_heads = written.flatten(0, 1), written.shape[1]
        found = _Open(
            vectors,
            wanted.repeat_interleave(n_heads, 0),
            own,
            torch.zeros_like(own, dtype=torch.int64),
            layer * n_heads + torch.arange(len(vectors), device=own.device) % n_heads,
        )
        found.meet(self._sample, self._sampled)
        self._open.append(found.left(self.n_best))
        if sum(len(each.heads) for each in self._open) >= AT_ONCE:
            self._count()

    def told(self, with_examples: Sequence[tuple[int, int]]) -> dict[tuple[int, int], ByExample]:
        """Every head (layer, head) by example, these with their tokens in some pairs."""
        self._count()
        shown = self._examples(with_examples)
        return {
            (layer, head): ByExample(
                self.n_best, len(self.pairs), answers, foils, shown.get((layer, head), ())
            )
            for layer, heads in enumerate(self._hits.tolist())
            for head, (answers, foils) in enumerate(heads)
        }

    def _count(self) -> None:
        """Read on where the sample left it open, and add to the counts."""
        if not self._open:
            return
        found = _Open(*map(torch.cat, zip(*map(_Open.parts, self._open), strict=True)))
        self._open.clear()
        found.above.zero_()  # the sample's tokens come again
        for start, matrix in _chunks(self.model):
            found.meet(torch.arange(start, start + len(matrix), device=matrix.device), matrix)
            found = found.left(self.n_best)
        hits = (found.above < self.n_best).to(self._hits)
        self._hits.flatten(0, 1).index_add_(0, found.heads, hits)

    def _examples(
        self, sites: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[Example, ...]]:
        tokenizer = self.model.tokenizer
        about = [
            (_subject(self.pairs[row]), tokenizer.token_string(self.pairs[row].answer))
            for row in self.examples
        ]
        if not sites or not about:
            return {}
        layers, heads = (list(part) for part in zip(*sites, strict=True))
        vectors = self._kept[:, layers, heads].transpose(0, 1)
        flat = vectors.flatten(0, 1).to(self.model.device)
        best = best_tokens(self.model, flat, self.n_best).tolist()
        return {
            site: tuple(
                Example(*words, tuple(map(tokenizer.token_string, tokens)))
                for words, tokens in zip(about, best[start : start + len(about)], strict=True)
            )
            for site, start in zip(sites, range(0, len(best), len(about)), strict=True)
        }

    def _rows(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens d_model"]:
        rows = self.model.unembedding().detach()[tokens]
        return at_least_fp32(rows)


def best_tokens(
    model: Model, vectors: Float[Tensor, "vector d_model"], n_best: int
) -> Int[Tensor, "vector best"]:
    """The tokens with the largest logits for what the output matrix is given, best first."""
    n_best = min(n_best, model.d_vocab)
    return torch.cat([_best_of(model, part, n_best) for part in vectors.split(AT_ONCE)])


def _best_of(
    model: Model, vectors: Float[Tensor, "vector d_model"], n_best: int
) -> Int[Tensor, "vector best"]:
    values = vectors.new_empty(len(vectors), 0)
    tokens = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
    for start, matrix in _chunks(model):
        found = (vectors @ matrix.T).topk(min(n_best, len(matrix)), -1)
        values = torch.cat([values, found.values], -1)
        tokens = torch.cat([tokens, found.indices + start], -1)
    return tokens.gather(-1, values.topk(n_best, -1).indices)


def _chunks(model: Model) -> Iterator[tuple[int, Float[Tensor, "token d_model"]]]:
    unembedding = model.unembedding().detach()
    for start in range(0, len(unembedding), CHUNK):
        part = unembedding[start : start + CHUNK]
        yield start, at_least_fp32(part)


@dataclass
class _Open:
    """Heads in pairs whose best tokens may hold the answer or the foil, by what was met so far.

    `wanted` are answer and foil, `own` their logits, `above` how many others have at least as much;
    `heads` are places in layers times heads.
    """

    vectors: Float[Tensor, "row d_model"]
    wanted: Int[Tensor, "row side"]
    own: Float[Tensor, "row side"]
    above: Int[Tensor, "row side"]
    heads: Int[Tensor, " row"]

    def parts(self) -> tuple[Tensor, ...]:
        return self.vectors, self.wanted, self.own, self.above, self.heads

    def meet(self, tokens: Int[Tensor, " token"], matrix: Float[Tensor, "token d_model"]) -> None:
        """Count the tokens, with their rows of the output matrix."""
        logits = self.vectors @ matrix.T
        for side in range(self.wanted.shape[1]):
            others = tokens != self.wanted[:, side, None]
            self.above[:, side] += ((logits >= self.own[:, side, None]) & others).sum(-1)

    def left(self, n_best: int) -> _Open:
        """Those that are still open."""
        rows = torch.nonzero((self.above < n_best).any(-1))[:, 0]
        return _Open(*(part[rows] for part in self.parts()))


def _of_different_subjects(pairs: Sequence[TokenPair]) -> list[int]:
    """Places of the first pairs that ask of different subjects, in the order given."""
    first: dict[str, int] = {}
    for place, pair in enumerate(pairs):
        first.setdefault(_subject(pair), place)
    return list(first.values())[:EXAMPLES]


def _subject(pair: TokenPair) -> str:
    """The subject's text, however the pair names it."""
    return pair.text.named_subject or ""
