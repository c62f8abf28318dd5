"""What a model says to prompts: forced answers, free continuations, and how fluent they are.

A `Speaker` reads the weights of a model through a plain Hugging Face model that shares them, so it
follows every edit that is applied and needs no hooks. Prompts of different lengths share a pass:
padding is masked, and no position counts it.
"""

from __future__ import annotations

import copy
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
        """Each answer after its prompt, teacher-forced; questions are (prompt, answer) tokens.

        A prompt that several answers follow is run once.
        """
        return fitting(self.model, self.batch_size, partial(self._forced, questions))

    def _forced(self, questions: Sequence[tuple[Ids, Ids]], batch_size: int) -> list[Forced]:
        asked: dict[tuple[int, ...], list[int]] = {}
        for row, (prompt, _) in enumerate(questions):
            asked.setdefault(tuple(prompt), []).append(row)
        alone = [rows[0] for rows in asked.values() if len(rows) == 1]
        found: dict[int, Forced] = {}
        texts = [(*questions[row][0], *questions[row][1][:-1]) for row in alone]
        for places in _by_length([len(text) for text in texts], batch_size):
            hidden = self._hidden([texts[place] for place in places])
            # Position i predicts token i + 1: an answer is predicted from its prompt's end on.
            read = [(*questions[alone[place]], alone[place]) for place in places]
            scores = self._log_probs(
                hidden, [(len(prompt) - 1, len(answer)) for prompt, answer, _ in read]
            )
            for own, (_, answer, row) in zip(scores, read, strict=True):
                found[row] = read_answer(own, answer)
        shared = [prompt for prompt, rows in asked.items() if len(rows) > 1]
        for places in _by_length([len(prompt) for prompt in shared], batch_size):
            prompts = [shared[place] for place in places]
            state = _Generation(self, prompts)
            first = state.logits.log_softmax(-1)
            rows = [(place, row) for place, prompt in enumerate(prompts) for row in asked[prompt]]
            for part in _by_length([len(questions[row][1]) for _, row in rows], batch_size):
                self._after(state, first, [rows[n] for n in part], questions, found)
        return [found[row] for row in range(len(questions))]

    def _after(
        self,
        state: _Generation,
        first: Float[Tensor, "prompt d_vocab"],
        rows: Sequence[tuple[int, int]],
        questions: Sequence[tuple[Ids, Ids]],
        found: dict[int, Forced],
    ) -> None:
        """Answers after prompts that were run: rows are (place in the state, question)."""
        long = [(place, row) for place, row in rows if len(questions[row][1]) > 1]
        rest: dict[int, Tensor] = {}
        if long:
            texts = [tuple(questions[row][1][:-1]) for _, row in long]
            self.model.check_length(
                max(
                    len(questions[row][0]) + len(t) for (_, row), t in zip(long, texts, strict=True)
                )
            )
            hidden = state.after([place for place, _ in long], texts)
            scores = self._log_probs(hidden, [(0, len(text)) for text in texts])
            rest = {row: own for (_, row), own in zip(long, scores, strict=True)}
        for place, row in rows:
            own = first[place][None]
            own = torch.cat([own, rest[row]]) if row in rest else own
            found[row] = read_answer(own, questions[row][1])

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

    def _log_probs(
        self, hidden: Float[Tensor, "batch pos d_model"], spans: Sequence[tuple[int, int]]
    ) -> Sequence[Float[Tensor, "_ d_vocab"]]:
        """Log-probabilities after some positions of each row, (first, number of them), in fp32."""
        places = [
            (row, at) for row, (start, n) in enumerate(spans) for at in range(start, start + n)
        ]
        row, at = torch.tensor(places, device=hidden.device).unbind(1)
        logits = self.model.cap(self.hf.get_output_embeddings()(hidden[row, at]).float())
        return logits.log_softmax(-1).split([n for _, n in spans])


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
        self.longest = speaker.model.max_tokens
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

    def after(
        self, rows: Sequence[int], texts: Sequence[Ids]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Normalised residuals at the end of texts that follow some of the rows; padding is on the
        right. The state stays as it is.
        """
        index = torch.tensor(rows, device=self.mask.device)
        width = max(map(len, texts))
        ids = [[*text, *([0] * (width - len(text)))] for text in texts]
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index)
        mask = self.mask[index]
        # Padding may stand beyond the model's last position, where nothing is read.
        steps = torch.arange(width, device=index.device)
        positions = (self.next_position[index] + steps).clamp(max=self.longest - 1)
        return self.hf.base_model(
            torch.tensor(ids, device=index.device),
            attention_mask=torch.cat([mask, mask.new_ones(len(rows), width)], -1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state

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
