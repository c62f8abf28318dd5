"""Where a trained model recalls: causal traces, blocked attention, logit lens, head ablations.

Compact versions of the methods in `locate`, on plain Hugging Face modules, so that training a
model and describing it need nothing else. All effects are means over prompts that the model
answers correctly with p > 0.5, subjects of two or more tokens, the subject not at the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.train.accuracy import Question, mean
from experiments.train.anatomy import Anatomy, anatomy
from experiments.train.corpus import END_OF_TEXT_ID

NOISE_SCALE = 3.0
PLACES = ("subject first", "subject last", "last")
BLOCKED = -1e4

Attach = Callable[[], RemovableHandle]
"""Registers a hook."""


@dataclass(frozen=True)
class TracePrompt:
    """A prompt the model answers: token ids with BOS, subject positions, answer token."""

    relation: str
    ids: list[int]
    subject: list[int]
    answer: int

    def position(self, place: str) -> int:
        """The token index of one of `PLACES`."""
        last = len(self.ids) - 1
        return {
            "subject first": self.subject[0],
            "subject last": self.subject[-1],
            "last": last,
        }[place]


class Tracer:
    """Runs traces on one model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.parts: Anatomy = anatomy(model)
        self.layers = len(self.parts.blocks)
        self.heads: int = model.config.num_attention_heads
        self._sites = {
            "hidden": self.parts.blocks,
            "mlp": self.parts.mlps,
            "attn": self.parts.attentions,
        }

    def choose(
        self, asked: Sequence[Question], count: int, seed: int, least_subject_tokens: int = 2
    ) -> list[TracePrompt]:
        """`count` prompts answered with p > 0.5, spread over relations."""
        pool = [question for question in asked if not question.template.endswith("{}")]
        random.Random(seed).shuffle(pool)
        relations = len({question.relation for question in pool})
        most, taken, chosen = max(1, -(-count // relations)), Counter[str](), []
        for question in pool:
            prompt = self._encode(question)
            if taken[question.relation] >= most or len(prompt.subject) < least_subject_tokens:
                continue
            if self._probability(prompt) > 0.5:
                chosen.append(prompt)
                taken[question.relation] += 1
            if len(chosen) == count:
                break
        return chosen

    def causal_traces(
        self, prompts: Sequence[TracePrompt], seed: int = 0
    ) -> dict[str, dict[str, list[float]]]:
        """Probability regained by restoring one clean state, by kind of state, place and layer.

        Subject embeddings get Gaussian noise of 3 standard deviations of the embedding matrix
        (Meng et al. 2022, section 2.1); then the output of one block ("hidden"), MLP or
        attention module at one place is set to its clean value. Also the mean clean and
        corrupted probability, under "p".
        """
        generator = torch.Generator().manual_seed(seed)
        scale = NOISE_SCALE * self.parts.embedding.weight.std()
        totals = {kind: torch.zeros(len(PLACES), self.layers) for kind in self._sites}
        clean_p, corrupted_p = [], []
        for prompt in prompts:
            clean = self._clean_outputs(prompt)
            clean_p.append(self._probability(prompt))
            noise = torch.randn(
                len(prompt.subject), self.model.config.hidden_size, generator=generator
            )
            positions = [prompt.position(place) for place in PLACES]
            for kind in self._sites:
                p = self._restored(prompt, clean, noise * scale, kind, positions)
                totals[kind] += p[1:].view(len(PLACES), self.layers) - p[0]
            corrupted_p.append(p[0].item())
        count = max(1, len(prompts))
        result = {
            kind: {
                place: [round(x, 4) for x in (total[row] / count).tolist()]
                for row, place in enumerate(PLACES)
            }
            for kind, total in totals.items()
        }
        return {"p": {"clean": [mean(clean_p)], "corrupted": [mean(corrupted_p)]}, **result}

    def blocked_attention(
        self, prompts: Sequence[TracePrompt], source: str = "subject"
    ) -> dict[str, list[float]]:
        """Share of the answer's probability left when attention from the last token is blocked.

        To the subject, or with `source` "other" to every other token but the first and itself;
        in windows of two layers from each layer on, and in the lower and the upper half.
        """
        half = self.layers // 2
        windows = [range(layer, min(layer + 2, self.layers)) for layer in range(self.layers)]
        named = {
            "two layers from": windows,
            "lower half": [range(half)],
            "upper half": [range(half, self.layers)],
        }

        def keys(prompt: TracePrompt) -> list[int]:
            subject = set(prompt.subject)
            others = set(range(1, len(prompt.ids) - 1)) - subject
            return sorted(subject if source == "subject" else others)

        return {
            name: [
                mean(
                    self._left(prompt, self._block(prompt, keys(prompt), layers))
                    for prompt in prompts
                )
                for layers in spans
            ]
            for name, spans in named.items()
        }

    def zeroed(
        self,
        prompts: Sequence[TracePrompt],
        kind: str,
        place: str,
        groups: Sequence[Sequence[int]],
    ) -> list[float]:
        """Share of the answer's probability left without the output of each group of layers.

        `kind` is "mlp" or "attn"; zeroed at one of `PLACES`, or at all tokens of the "subject".
        """

        def hooks(prompt: TracePrompt, layers: Sequence[int]) -> list[Attach]:
            where = prompt.subject if place == "subject" else [prompt.position(place)]
            return [_after(self._sites[kind][layer], _zero(where)) for layer in layers]

        return [
            mean(self._left(prompt, hooks(prompt, layers)) for prompt in prompts)
            for layers in groups
        ]

    def lens(self, prompts: Sequence[TracePrompt]) -> dict[str, list[float]]:
        """Top-1 rate of the answer at the last token in the logit lens, embedding first."""
        right = []
        for prompt in prompts:
            ids = torch.tensor([prompt.ids])
            with torch.no_grad():
                run = self.model(
                    ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
                )
            *early, final = (state[0, -1] for state in run.hidden_states)
            states = torch.stack([*(self.parts.final_norm(state) for state in early), final])
            right.append((self.model.lm_head(states).argmax(-1) == prompt.answer).float())
        rates = torch.stack(right).mean(0).tolist() if right else []
        return {"top-1": [round(rate, 4) for rate in rates]}

    def ablated_heads(self, prompts: Sequence[TracePrompt]) -> Float[Tensor, "layer head"]:
        """Share of the answer's probability lost when one head is zeroed at the last token."""
        size = self.parts.head_size
        lost = torch.zeros(self.layers, self.heads)
        for prompt in prompts:
            for layer in range(self.layers):

                def zero_each(module, arguments, size=size):
                    states = arguments[0].clone()
                    for head in range(self.heads):
                        states[head, -1, head * size : (head + 1) * size] = 0
                    return (states, *arguments[1:])

                module = self.parts.head_outputs[layer]
                with _attached([partial(module.register_forward_pre_hook, zero_each)]):
                    p = self._probabilities([prompt.ids] * self.heads)[:, prompt.answer]
                lost[layer] += 1 - p / self._probability(prompt)
        return lost / max(1, len(prompts))

    def _encode(self, question: Question) -> TracePrompt:
        encoded = self.tokenizer(question.prompt, return_offsets_mapping=True)
        start = question.template.index("{}")
        end = start + len(question.subject)
        subject = [
            index + 1
            for index, (left, right) in enumerate(encoded.offset_mapping)
            if left < end and right > start and right > left
        ]
        answer = self.tokenizer(question.answer).input_ids[0]
        ids = [END_OF_TEXT_ID, *encoded.input_ids]
        return TracePrompt(question.relation, ids, subject, answer)

    @torch.no_grad()
    def _probabilities(self, ids: list[list[int]]) -> Float[Tensor, "batch d_vocab"]:
        batch = torch.tensor(ids)
        run = self.model(batch, attention_mask=torch.ones_like(batch), use_cache=False)
        return run.logits[:, -1].softmax(-1)

    def _probability(self, prompt: TracePrompt) -> float:
        return self._probabilities([prompt.ids])[0, prompt.answer].item()

    def _left(self, prompt: TracePrompt, hooks: Sequence[Attach]) -> float:
        clean = self._probability(prompt)
        with _attached(hooks):
            return self._probability(prompt) / clean

    def _block(self, prompt: TracePrompt, keys: list[int], layers: range) -> list[Attach]:
        length = len(prompt.ids)
        mask = torch.zeros(1, 1, length, length)
        mask.masked_fill_(torch.ones(length, length, dtype=torch.bool).triu(1), BLOCKED)
        mask[..., -1, keys] = BLOCKED

        def block(module, arguments, keywords):
            return arguments, {**keywords, "attention_mask": mask}

        modules = [self.parts.attentions[layer] for layer in layers]
        return [
            partial(module.register_forward_pre_hook, block, with_kwargs=True) for module in modules
        ]

    def _clean_outputs(self, prompt: TracePrompt) -> dict[tuple[str, int], Tensor]:
        kept: dict[tuple[str, int], Tensor] = {}

        def keep(key):
            def hook(module, inputs, output):
                kept[key] = _tensor(output)[0].clone()

            return hook

        hooks = [
            _after(modules[layer], keep((kind, layer)))
            for kind, modules in self._sites.items()
            for layer in range(self.layers)
        ]
        with _attached(hooks):
            self._probability(prompt)
        return kept

    def _restored(
        self,
        prompt: TracePrompt,
        clean: dict[tuple[str, int], Tensor],
        noise: Float[Tensor, "subject d_model"],
        kind: str,
        positions: list[int],
    ) -> Float[Tensor, " run"]:
        """Answer probability: corrupted, then restored at each position and layer."""

        def corrupt(module, inputs, output):
            output = output.clone()
            output[:, prompt.subject] += noise
            return output

        def restore(layer):
            def hook(module, inputs, output):
                states = _tensor(output).clone()
                for row, position in enumerate(positions):
                    states[1 + row * self.layers + layer, position] = clean[kind, layer][position]
                return _like(output, states)

            return hook

        hooks = [_after(self.parts.embedding, corrupt)]
        hooks += [_after(self._sites[kind][layer], restore(layer)) for layer in range(self.layers)]
        with _attached(hooks):
            runs = [prompt.ids] * (1 + len(positions) * self.layers)
            return self._probabilities(runs)[:, prompt.answer]


@contextmanager
def _attached(hooks: Sequence[Attach]) -> Iterator[None]:
    """Attach hooks, and take them off again whatever happens."""
    handles = [attach() for attach in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _after(module: nn.Module, hook: Callable) -> Attach:
    return partial(module.register_forward_hook, hook)


def _tensor(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _like(output: Tensor | tuple, states: Tensor) -> Tensor | tuple:
    return (states, *output[1:]) if isinstance(output, tuple) else states


def _zero(positions: list[int]) -> Callable:
    def hook(module, inputs, output):
        states = _tensor(output).clone()
        states[:, positions] = 0
        return _like(output, states)

    return hook
