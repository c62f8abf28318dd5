"""What a model says to prompts: forced answers, free continuations, and how fluent they are.

A `Speaker` reads the weights of a model through a plain Hugging Face model that shares them, so it
follows every edit that is applied and needs no hooks. Prompts of different lengths share a pass:
padding is masked, and no position counts it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.errors import NumericalError, OptionError
from circuits.model.holding import fitting
from circuits.model.model import Model
from circuits.model.tokens import is_boundary

Ids = Sequence[int]


@dataclass(frozen=True)
class Forced:
    """An answer read token by token, each after the answer's own tokens before it.

    `log_probs` are the answer tokens' log-probabilities in nats, `best` the tokens that the model
    would have said in their places.
    """

    answer: tuple[int, ...]
    log_probs: tuple[float, ...]
    best: tuple[int, ...]

    @property
    def nll(self) -> float:
        """Negative log-likelihood, mean over the answer's tokens, in nats."""
        return -float(np.mean(self.log_probs))

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that the model would have said."""
        return float(np.mean([a == b for a, b in zip(self.answer, self.best, strict=True)]))


@dataclass(frozen=True)
class Reply:
    """A greedy continuation, and how the answers of one token fare that were asked about."""

    tokens: tuple[int, ...]
    read: Mapping[tuple[int, ...], Forced]


class Speaker:
    """Asks a model as it is at the time of the call, edits included."""

    def __init__(self, model: Model, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise OptionError(f"batch size must be at least 1, not {batch_size}")
        self.model, self.batch_size = model, batch_size
        self.hf = model.to_hf(share=True)

    @torch.no_grad()
    def replies(
        self,
        prompts: Sequence[Ids],
        n_tokens: int | Sequence[int],
        answers: Mapping[tuple[int, ...], Sequence[tuple[int, ...]]] | None = None,
    ) -> list[Reply]:
        """Greedy continuations of `n_tokens` tokens, of all or of each, in the prompts' order.

        `answers` of one token to some of the prompts are read from the same runs: all that is kept
        of a batch's probabilities, which are as many as the vocabulary has tokens.
        """
        counts = [n_tokens] * len(prompts) if isinstance(n_tokens, int) else list(n_tokens)
        said = partial(self._replies, prompts, counts, answers or {})
        return fitting(self.model, self.batch_size, said)

    def _replies(
        self,
        prompts: Sequence[Ids],
        counts: Sequence[int],
        answers: Mapping[tuple[int, ...], Sequence[tuple[int, ...]]],
        batch_size: int,
    ) -> list[Reply]:
        found: dict[int, Reply] = {}
        # Replies of like length run together, as a batch goes on until its longest.
        lengths = [(count, len(prompt)) for count, prompt in zip(counts, prompts, strict=True)]
        for rows in _by_length(lengths, batch_size):
            self.model.check_length(max(sum(lengths[row]) for row in rows) - 1)
            state = _Generation(self, [prompts[row] for row in rows])
            logits = state.logits
            first = logits.log_softmax(-1)
            said: list[list[int]] = [[] for _ in rows]
            speaking = list(range(len(rows)))
            while speaking:
                best = logits.argmax(-1)
                for place, token in zip(speaking, best.tolist(), strict=True):
                    said[place].append(token)
                left = [n for n, p in enumerate(speaking) if len(said[p]) < counts[rows[p]]]
                if left and len(left) < len(speaking):
                    best = state.keep(best, left)
                speaking = [speaking[n] for n in left]
                if speaking:
                    logits = state.step(best)
            for place, row in enumerate(rows):
                wanted = answers.get(tuple(prompts[row]), ())
                read = {answer: read_answer(first[place][None], answer) for answer in wanted}
                found[row] = Reply(tuple(said[place][: counts[row]]), read)
        return [found[row] for row in range(len(prompts))]

    @torch.no_grad()
    def forced(self, questions: Sequence[tuple[Ids, Ids]]) -> list[Forced]:
        """Each answer after its prompt, teacher-forced; questions are (prompt, answer) tokens."""
        return fitting(self.model, self.batch_size, partial(self._forced, questions))

    def _forced(self, questions: Sequence[tuple[Ids, Ids]], batch_size: int) -> list[Forced]:
        found: dict[int, Forced] = {}
        texts = [(*prompt, *answer[:-1]) for prompt, answer in questions]
        for rows in _by_length([len(text) for text in texts], batch_size):
            hidden = self._hidden([texts[row] for row in rows])
            # Position i predicts token i + 1: an answer is predicted from its prompt's end on.
            places = [
                (place, len(questions[row][0]) - 1 + step)
                for place, row in enumerate(rows)
                for step in range(len(questions[row][1]))
            ]
            index = torch.tensor(places, device=hidden.device)
            scores = self._log_probs(hidden[index[:, 0], index[:, 1]])
            start = 0
            for row in rows:
                answer = tuple(questions[row][1])
                own = scores[start : start + len(answer)]
                start += len(answer)
                found[row] = read_answer(own, answer)
        return [found[row] for row in range(len(questions))]

    @torch.no_grad()
    def sample(self, prompt: Ids, n_tokens: int, k: int, generator: torch.Generator) -> list[int]:
        """A continuation drawn from the `k` best tokens at each step; the generator is a CPU's."""
        self.model.check_length(len(prompt) + n_tokens - 1)
        state, said = _Generation(self, [prompt]), list[int]()
        logits = state.logits
        for step in range(n_tokens):
            if not bool(torch.isfinite(logits).all()):
                raise NumericalError("the model's logits are not finite: no text can be sampled")
            best = logits[0].topk(k)
            choice = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator)
            said.append(int(best.indices[int(choice)]))
            if step + 1 < n_tokens:
                logits = state.step(best.indices[int(choice)][None])
        return said

    def text_nll(self, texts: Sequence[Ids]) -> float:
        """Negative log-likelihood of texts, mean over all their tokens but the first, in nats."""
        longest = self.model.max_tokens
        cut = [tuple(text[:longest]) for text in texts if len(text) > 1]
        read = self.forced([(text[:1], text[1:]) for text in cut])
        return -float(np.mean([value for each in read for value in each.log_probs]))

    def _hidden(self, texts: Sequence[Ids]) -> Float[Tensor, "batch pos d_model"]:
        """Normalised residuals at the end; padding is on the right, which nothing looks at."""
        width = max(map(len, texts))
        self.model.check_length(width)
        ids = [[*text, *([0] * (width - len(text)))] for text in texts]
        tokens = torch.tensor(ids, device=self.model.device)
        return self.hf.base_model(tokens, use_cache=False).last_hidden_state

    def _log_probs(self, hidden: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_vocab"]:
        return self.hf.get_output_embeddings()(hidden).float().log_softmax(-1)


def _by_length(lengths: Sequence[Any], batch_size: int) -> Iterator[list[int]]:
    """Rows in batches of similar length; lengths are whatever can be sorted."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class _Generation:
    """Keys and values of a batch of prompts, padded on the left, and the next token's logits."""

    def __init__(self, speaker: Speaker, prompts: Sequence[Ids]) -> None:
        from transformers.cache_utils import DynamicCache

        self.hf, device = speaker.hf, speaker.model.device
        width = max(map(len, prompts))
        ids = [[*([0] * (width - len(prompt))), *prompt] for prompt in prompts]
        self.mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
        )
        self.cache = DynamicCache()
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        self.next_position = positions[:, -1:] + 1
        self.logits = self._run(torch.tensor(ids, device=device), positions)

    def step(self, token: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab"]:
        """Logits after one more token each."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], -1)
        logits = self._run(token[:, None], self.next_position)
        self.next_position = self.next_position + 1
        return logits

    def keep(self, token: Int[Tensor, " batch"], rows: Sequence[int]) -> Int[Tensor, " kept"]:
        """Go on with some rows of the batch alone; their last tokens."""
        index = torch.tensor(rows, device=token.device)
        self.cache.batch_select_indices(index)
        self.mask, self.next_position = self.mask[index], self.next_position[index]
        return token[index]

    def _run(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch d_vocab"]:
        output = self.hf(
            tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()


def read_answer(log_probs: Float[Tensor, "token d_vocab"], answer: Ids) -> Forced:
    """An answer against the log-probabilities in its tokens' places."""
    index = torch.tensor(answer, device=log_probs.device)[:, None]
    own = log_probs.gather(-1, index)[:, 0]
    return Forced(tuple(answer), tuple(own.tolist()), tuple(log_probs.argmax(-1).tolist()))


def ngram_entropy(text: str) -> float:
    """(2/3 H2 + 4/3 H3) / 2 in bits, H_n the entropy of the text's n-grams of words.

    Low where a text repeats itself (Zhang et al. 2018; Meng et al. 2022, whose code has these
    weights and NLTK's tokens). Here words and signs of punctuation are tokens; a text of fewer than
    n has H_n = 0.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = np.array(
        list(Counter(zip(*(words[start:] for start in range(n)), strict=False)).values()), float
    )
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) if len(counts) else 0.0


def says(text: str, answer: str) -> bool:
    """Whether a text begins with the answer as whole words, whatever the case and the spaces."""
    said, wanted = (" ".join(_normal(each).split()) for each in (text, answer))
    end = len(wanted)
    return said.startswith(wanted) and is_boundary(wanted[-1:], said[end : end + 1])


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
