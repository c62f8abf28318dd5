"""Asks a model about edits, before them and as often as wanted afterwards.

What is measured, and in which scorings, says `circuits.edits.judge.measures`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from circuits.base.errors import PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.generation import Speaker, ngram_entropy
from circuits.edits.judge.measures import (
    Asked,
    Measure,
    Observation,
    Rates,
    by_category,
    magnitudes,
    measures,
)
from circuits.edits.parts.corpus import token_windows
from circuits.edits.requests import Heading, heading
from circuits.facts.facts import ProbeKind
from circuits.model.model import Model
from circuits.model.tokens import Tokenizer

EXTRA_TOKENS = 2
"""Generated beyond the longest answer: enough to see whether its last word goes on."""
SAMPLED_FROM = 5
UNSAMPLED = (float("nan"), float("nan"))
"""Fluency and entropy to the end where no text is sampled."""
DRIFT_TOKENS = 1024
"""Of the texts on which perplexity is followed."""
LONGEST_WINDOW = 256


@dataclass(frozen=True)
class RequestScore:
    """How one request fared: every measure that its prompts allow, before and after the edit.

    `probability` is the target's, as geometric mean over its tokens, before and after; `reply`
    the greedy continuations of the request's own prompt; `fluency` and `entropy_to_end` are in
    bits, NaN where not asked. `by_category` has portability and locality after the edit as KnowEdit
    averages them: over the prompts of a category, then over categories; `magnitude` is
    CounterFact's, after the edit.
    """

    request: EditRequest
    before: Mapping[Measure, Rates]
    after: Mapping[Measure, Rates]
    probability: tuple[float, float]
    reply: tuple[str, str]
    fluency: tuple[float, float] = (float("nan"), float("nan"))
    entropy_to_end: tuple[float, float] = (float("nan"), float("nan"))
    by_category: Mapping[Measure, Rates] = field(default_factory=dict)
    magnitude: Mapping[Measure, float] = field(default_factory=dict)


class TextDrift:
    """A model's perplexity on texts, before an edit and as often as wanted afterwards."""

    def __init__(self, model: Model, texts: Sequence[str] = (), batch_size: int = 64) -> None:
        self._speaker = Speaker(model, batch_size)
        self._windows = windows(model, texts)
        self._before = self._speaker.text_nll(self._windows) if self._windows else float("nan")

    @property
    def perplexity(self) -> float:
        """Before any edit; NaN without texts."""
        return float(np.exp(self._before))

    def ratio(self) -> float | None:
        """Perplexity as the model is now over that before; None without texts."""
        if not self._windows:
            return None
        return float(np.exp(self._speaker.text_nll(self._windows) - self._before))


class Judge:
    """Asks a model about requests before it is edited, and then as often as wanted afterwards.

    `fluency_tokens` is the length of the text for fluency (0: none); ROME's evaluation has 100.
    `texts` are those on which perplexity is followed, or a `TextDrift` that several judges share.
    Probes that cannot be asked are left out and listed in `left_out`. A request that itself cannot
    be is a PromptError; with `lenient` it is left out and listed too, unless it is the last one,
    and `requests` are the others.
    """

    def __init__(
        self,
        model: Model,
        requests: Sequence[EditRequest],
        *,
        batch_size: int = 64,
        extra_tokens: int = EXTRA_TOKENS,
        fluency_tokens: int = 0,
        texts: Sequence[str] | TextDrift = (),
        seed: int = 0,
        lenient: bool = False,
    ) -> None:
        self.model = model
        self.extra_tokens, self.fluency_tokens, self.seed = extra_tokens, fluency_tokens, seed
        self.left_out: list[str] = []
        self._speaker = Speaker(model, batch_size)
        asked = self._each(requests, lenient)
        self.requests = tuple(request for request, _ in asked)
        self._asked = [group for _, group in asked]
        self._drift = texts if isinstance(texts, TextDrift) else TextDrift(model, texts, batch_size)
        self._before = self._observe(range(len(self.requests)))
        self._sampled = [self._entropies(i) for i in range(len(self.requests))]

    def score(
        self, which: Iterable[int] | None = None, *, fluency: bool = True
    ) -> list[RequestScore]:
        """The requests on the model as it is now; by default all of them, with their fluency."""
        chosen = list(range(len(self.requests)) if which is None else which)
        after = self._observe(chosen)
        return [
            self._score(index, after[place], self._entropies(index) if fluency else UNSAMPLED)
            for place, index in enumerate(chosen)
        ]

    @property
    def observed_before(self) -> Sequence[Sequence[Observation]]:
        """What the model said to each request's prompts before any edit."""
        return self._before

    def scores_of(self, after: Sequence[Sequence[Observation]]) -> list[RequestScore]:
        """All requests as the unedited model with these replies: its own text is as before."""
        return [self._score(i, each, self._sampled[i]) for i, each in enumerate(after)]

    def scores_beside(self, other: Judge) -> list[RequestScore]:
        """All requests, as what another judge of these requests saw before any edit.

        The other may word the prompts otherwise, so that one has no room there: only prompts that
        both ask are compared.
        """
        scores = []
        for index, (own, told) in enumerate(zip(self._asked, other._asked, strict=True)):
            places = {each.place for each in own} & {each.place for each in told}
            asked, before = self._kept(index, places)
            _, after = other._kept(index, places)
            scores.append(self._compared(index, asked, before, after, self._sampled[index]))
        return scores

    def _kept(self, index: int, places: Collection[int]) -> tuple[list[Asked], list[Observation]]:
        pairs = zip(self._asked[index], self._before[index], strict=True)
        kept = [(asked, seen) for asked, seen in pairs if asked.place in places]
        return [asked for asked, _ in kept], [seen for _, seen in kept]

    def drift(self) -> float | None:
        """Perplexity on the texts, as the model is now over as it was; None without texts."""
        return self._drift.ratio()

    @property
    def batch_size(self) -> int:
        """How many prompts are run at once."""
        return self._speaker.batch_size

    @property
    def perplexity(self) -> float:
        """On the texts, before any edit; NaN without texts."""
        return self._drift.perplexity

    def _each(
        self, requests: Sequence[EditRequest], lenient: bool
    ) -> list[tuple[EditRequest, list[Asked]]]:
        """Each request with its prompts that can be asked; PromptError as the class says."""
        made: list[tuple[EditRequest, list[Asked]]] = []
        for place, each in enumerate(requests):
            try:
                made.append((each, self._with_room(each, self._prepare(each))))
            except PromptError as error:
                if not lenient or (not made and place == len(requests) - 1):
                    raise
                self.left_out.append(str(error))
        return made

    def _prepare(self, request: EditRequest) -> list[Asked]:
        """The request's own prompt first, then its probes."""
        tokenizer, truth = self.model.tokenizer, request.ground_truth
        rival = () if truth is None else (truth,)
        made = [_asked(tokenizer, None, None, request.text, (request.target,), rival)]
        for number, probe in enumerate(request.probes, start=1):
            wanted = {ProbeKind.PARAPHRASE: rival, ProbeKind.LOCALITY: (request.target,)}
            rivals = wanted.get(probe.kind, ())
            named = heading(probe)
            try:
                asked = _asked(tokenizer, probe.kind, named, probe.prompt, probe.answers, rivals)
            except PromptError as error:
                self.left_out.append(str(error))
            else:
                made.append(replace(asked, category=probe.name, place=number))
        return made

    def _with_room(self, request: EditRequest, group: list[Asked]) -> list[Asked]:
        """Without the prompts after which their own replies do not fit the model."""
        rooms = _reply_lengths(group, self.extra_tokens)
        limit = self.model.max_tokens + 1  # the reply's last token is never read
        kept = [each for each in group if len(each.prompt) + rooms[each.prompt] <= limit]
        if group[0] not in kept:
            raise PromptError(
                f"{self.model.name!r} takes {self.model.max_tokens} tokens: no room for an "
                f"answer of {rooms[group[0].prompt]} after {request.text!r}"
            )
        if long := len(group) - len(kept):
            self.left_out.append(f"{long} prompts of {request.text!r} leave no room to answer")
        return kept

    def _observe(self, which: Iterable[int]) -> list[list[Observation]]:
        """Answers to all prompts of these requests, in one go."""
        groups = [self._asked[index] for index in which]
        flat = [asked for group in groups for asked in group]
        seen = iter(observe(self._speaker, flat, self.extra_tokens))
        return [[next(seen) for _ in group] for group in groups]

    def _score(
        self, index: int, after: Sequence[Observation], after_sampled: tuple[float, float]
    ) -> RequestScore:
        asked, before = self._asked[index], self._before[index]
        return self._compared(index, asked, before, after, after_sampled)

    def _compared(
        self,
        index: int,
        asked: Sequence[Asked],
        before: Sequence[Observation],
        after: Sequence[Observation],
        after_sampled: tuple[float, float],
    ) -> RequestScore:
        return RequestScore(
            request=self.requests[index],
            before=measures(asked, before, before),
            after=measures(asked, before, after),
            probability=(float(np.exp(-before[0].nll)), float(np.exp(-after[0].nll))),
            reply=(before[0].text, after[0].text),
            fluency=(self._sampled[index][0], after_sampled[0]),
            by_category=by_category(asked, before, after),
            entropy_to_end=(self._sampled[index][1], after_sampled[1]),
            magnitude=magnitudes(asked, after),
        )

    def _entropies(self, index: int) -> tuple[float, float]:
        """Fluency, and entropy to the end of the text."""
        if not self.fluency_tokens:
            return UNSAMPLED
        generator = torch.Generator().manual_seed(self.seed)
        tokenizer, prompt = self.model.tokenizer, self._asked[index][0].prompt
        said = self._speaker.sample(prompt, self.fluency_tokens, SAMPLED_FROM, generator)
        own = prompt[1:] if prompt[0] == tokenizer.hf.bos_token_id else prompt
        whole = (*prompt, *said[: max(0, self.fluency_tokens - len(own))])
        fluent = tokenizer.hf.decode(
            whole, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return ngram_entropy(fluent), ngram_entropy(_text(tokenizer, (*own, *said)))


def observe(
    speaker: Speaker, asked: Sequence[Asked], extra_tokens: int = EXTRA_TOKENS
) -> list[Observation]:
    """What the model says now. Prompts that occur several times are asked once."""
    if not asked:
        return []
    tokenizer = speaker.model.tokenizer
    lengths = _reply_lengths(asked, extra_tokens)
    prompts = list(lengths)
    questions = {
        (each.prompt, answer)
        for each in asked
        for answer in (*each.answers, *([each.rival] if each.rival else []))
    }
    long = sorted(question for question in questions if len(question[1]) > 1)
    # Answers of one token are read where the reply's first token is chosen.
    short: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for prompt, answer in questions:
        if len(answer) == 1:
            short.setdefault(prompt, []).append(answer)
    replies = speaker.replies(prompts, list(lengths.values()), short)
    reply_to = dict(zip(prompts, replies, strict=True))
    read = dict(zip(long, speaker.forced(long), strict=True))
    for prompt, reply in reply_to.items():
        read |= {(prompt, answer): found for answer, found in reply.read.items()}
    return [
        Observation(
            answers=tuple(read[each.prompt, answer] for answer in each.answers),
            rival=read[each.prompt, each.rival] if each.rival else None,
            reply=reply_to[each.prompt].tokens,
            text=_text(tokenizer, reply_to[each.prompt].tokens),
        )
        for each in asked
    ]


def windows(
    model: Model, texts: Sequence[str], max_tokens: int = DRIFT_TOKENS
) -> list[tuple[int, ...]]:
    """The first tokens of the texts, cut to lengths that the model takes, BOS in front of each."""
    tokenizer = model.tokenizer
    front = (tokenizer.hf.bos_token_id,) if tokenizer.use_bos(None) else ()
    width = min(model.max_tokens, LONGEST_WINDOW) - len(front)
    found = [(*front, *ids) for ids in token_windows(model, texts, width, max_tokens)]
    return [each for each in found if len(each) > 1]


def norm_growth(model: Model, delta: WeightDelta) -> dict[str, dict[str, float]]:
    """For each changed weight of the unedited model: |dW| / |W| and |W + dW| / |W| (Frobenius)."""
    growth = {}
    for name in delta.changes:
        weight = model.parameter(name).cpu().double()
        change = delta.dense(name).cpu().double()
        whole = float(weight.norm()) or float("nan")
        sizes = {"change": float(change.norm()) / whole}
        growth[name] = sizes | {"growth": float((weight + change).norm()) / whole}
    return growth


# --- one request ---------------------------------------------------------------------------------


def _asked(
    tokenizer: Tokenizer,
    kind: ProbeKind | None,
    named: Heading | None,
    prompt: str,
    answers: Sequence[str],
    rivals: Sequence[str],
) -> Asked:
    ids = tokenizer.encode(prompt).ids
    tokens = tuple(tokenizer.continuation(prompt, answer) for answer in answers)
    found = [tokenizer.continuation(prompt, rival) for rival in rivals]
    rival = found[0] if found and found[0] not in tokens else None
    return Asked(kind, named, ids, tokens, tuple(answers), rival)


def _reply_lengths(asked: Sequence[Asked], extra_tokens: int) -> dict[tuple[int, ...], int]:
    """For each prompt, in order, the tokens of its longest answer and so many more.

    After a request's own prompt the true answer, its rival, must fit as well: it tells what the
    model knew.
    """
    found: dict[tuple[int, ...], int] = {}
    for each in asked:
        truth = () if each.kind is not None or each.rival is None else each.rival
        longest = max(map(len, (*each.answers, truth))) or 1
        found[each.prompt] = max(longest + extra_tokens, found.get(each.prompt, 0))
    return found


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The tokens as text, up to the end of the text where there is one.

    BOS of a prompt is no text, and is the caller's to leave out: where BOS and EOS are one token, a
    reply that begins with it has ended.
    """
    end = tokenizer.hf.eos_token_id
    said = list(ids)
    if end in said:
        said = said[: said.index(end)]
    return tokenizer.hf.decode(said, clean_up_tokenization_spaces=False)
