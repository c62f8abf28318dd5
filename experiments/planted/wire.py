"""The compiler: a program's weights, in a GPT-2 or a Llama of Hugging Face, among noise.

Registers stand on the first axes of the residual stream; the rest is *background*, in which every
word has a random pattern of one and the same length. So the norms' denominators hardly depend on
the words, and norm gains that undo the usual denominator let parts read registers in their own
units. What the program does not say is random: every other head and unit, what planted parts read
of and write to the background, and, smaller by LEAK, to the registers.

Queries, keys: a match is a pair of entries whose product is the score. Relative places come from
GPT-2's learned positions, which hold a one-hot register, and in Llama from the fast half of the
rotary frequencies, whose cosines add up at one distance alone; content stands in the slow half,
which hardly turns within a prompt. A unit's threshold is a bias, or in Llama, which has none, the
register ONE, which also feeds the ungated half of its MLP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from circuits.base.choices import Choice
from circuits.base.errors import OptionError
from circuits.model.model import Model
from experiments.planted import NOISE
from experiments.planted.layout import (
    D_HEAD,
    N_HEADS,
    N_POSITIONS,
    PLACE,
    WIDTH,
    Layout,
    lay_out,
    tokenizer_of,
)
from experiments.planted.program import BOS, ONE, Head, Mlp, Program

SLOW = D_HEAD // 2
"""Dimensions of a head for content: the slow half of the rotary frequencies."""
NOISE_UNITS = 24
STEEP = 12.0
"""A unit's slope before its non-linearity: it then rises from 0 within a tenth of a symbol."""
LOUD = 8.0
"""Logits a symbol."""
NEAR = 12.0
"""Sharpness of a head that looks at a distance, in nats."""
THETA = 1e6
"""Rotary base: a head's frequencies fall from 1 to a few millionths."""
LEAK = 0.1
"""Noise in registers, beside that in the background."""


class Build(Choice):
    """Which architecture a program is compiled to; in `gqa` two heads share keys and values."""

    GPT2 = "gpt2"
    LLAMA = "llama"
    GQA = "gqa"


def compiled(program: Program, build: Build | str, noise: float = NOISE, seed: int = 0) -> Model:
    """The program as a model.

    `noise` is the root mean square of what a random head or unit writes to an axis of the
    background, about, where the words' patterns there have 1.
    """
    build = Build.of(build, "build")
    if not 0 <= noise <= 10:
        raise OptionError(f"the noise is between 0 and 10, not {noise}")
    tokenizer, layout = tokenizer_of(program), lay_out(program)
    make = _Gpt2 if build == Build.GPT2 else _Llama
    writer = make(program, layout, build, len(tokenizer), noise, seed)
    return Model.from_hf(writer.written(tokenizer), tokenizer, f"{program.name}/{build}")


class _Writer(ABC):
    """What both architectures have in common; matrices here are (inputs, outputs)."""

    hf: Any

    def __init__(
        self, program: Program, layout: Layout, build: Build, vocab: int, noise: float, seed: int
    ) -> None:
        self.program, self.layout, self.noise = program, layout, noise
        self.n_kv = N_HEADS // 2 if build == Build.GQA else N_HEADS
        self.units = NOISE_UNITS + max(
            (len(part.units) for part in program.parts if isinstance(part, Mlp)), default=0
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.hf = self.empty(vocab)

    @torch.no_grad()
    def written(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The model with all weights in place."""
        for name, parameter in self.hf.named_parameters():
            is_gain = "norm" in name or "ln_" in name
            parameter.fill_(self.layout.rms if is_gain and name.endswith("weight") else 0.0)
        self._words(tokenizer)
        for layer in range(self.program.n_layers):
            heads = [p for p in self.program.parts if isinstance(p, Head) and p.layer == layer]
            mlps = [p for p in self.program.parts if isinstance(p, Mlp) and p.layer == layer]
            self._attention(layer, heads)
            self._mlp(layer, mlps)
        self._calibrate(tokenizer)
        return self.hf

    def _calibrate(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Each norm's gain becomes the usual size of what it norms, from the first norm up."""
        prompts = [text for each in self.program.examples for text in (each.clean, each.corrupted)]
        tokens = torch.tensor(tokenizer(prompts)["input_ids"])
        seen: list[Tensor] = []
        for norm in self.norms():
            hook = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
            self.hf(tokens)
            hook.remove()
            value = seen.pop()
            if hasattr(norm, "bias"):  # a layer norm takes the mean away
                value = value - value.mean(-1, keepdim=True)
            norm.weight.fill_(float(value.square().mean(-1).sqrt().median()))

    def random(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def _words(self, tokenizer: PreTrainedTokenizerFast) -> None:
        layout = self.layout
        embedding, output = self.embedding(), self.hf.lm_head.weight
        patterns = self.random(len(embedding), WIDTH - layout.background)
        patterns -= patterns.mean(1, keepdim=True)
        patterns *= patterns.shape[1] ** 0.5 / patterns.norm(dim=1, keepdim=True)
        embedding[:, layout.background :] = patterns
        embedding[:, layout.at((ONE, 0))] = 1.0
        embedding[0, layout.at((BOS, 0))] = 1.0
        ids = tokenizer.get_vocab()
        for word, symbols in self.program.words.items():
            for symbol in symbols:
                embedding[ids[word], layout.at(symbol)] = 1.0
        output.copy_(self.noise * LEAK * self.random(*output.shape))
        output[:, : layout.background] *= LEAK
        output[:, self.unread(self.program.readout.scaled_by)] = 0.0
        for word, symbol in self.program.readout.words.items():
            output[ids[word], layout.at(symbol)] += LOUD

    def unread(self, registers: Iterable[str]) -> list[int]:
        """Axes of registers that are read through a norm's denominator alone, not by noise."""
        return [axis for register in registers for axis in self.layout.axes(register)]

    def reading(self, n: int) -> Float[Tensor, "width out"]:
        """Random weights that read the residual stream: each output about 1 in root mean square."""
        return self.random(WIDTH, n) / WIDTH**0.5 / self.layout.rms

    def writing(self, n: int) -> Float[Tensor, "inside width"]:
        """Random weights that write to it: `noise` an axis of the background where inputs are 1."""
        weights = self.noise * self.random(n, WIDTH) / n**0.5
        weights[:, : self.layout.background] *= LEAK
        return weights

    def _attention(self, layer: int, planted: list[Head]) -> None:
        query = self.reading(WIDTH)
        key, value = self.reading(self.n_kv * D_HEAD), self.reading(self.n_kv * D_HEAD)
        out = torch.cat([self.writing(D_HEAD) for _ in range(N_HEADS)])
        used: dict[int, list[int]] = {}  # of keys and values, which heads may share
        size = N_HEADS // self.n_kv
        for head in planted:  # noise of a planted head is no larger than its leaks
            shared = slice(head.head // size * D_HEAD, (head.head // size + 1) * D_HEAD)
            own = slice(head.head * D_HEAD, (head.head + 1) * D_HEAD)
            for matrix, part in ((query, own), (key, shared), (value, shared)):
                matrix[:, part] *= self.noise * LEAK
            out[own] *= LEAK
        for head in planted:
            group = head.head // size
            at = used.setdefault(group, [0, 0])
            self._plant(head, query, key, value, out, head.head * D_HEAD, group * D_HEAD, at)
        self.put_attention(layer, query, key, value, out)

    def _plant(
        self,
        head: Head,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        own: int,
        shared: int,
        used: list[int],
    ) -> None:
        """One head's entries; `used` counts the content and value dimensions that are taken."""
        layout = self.layout

        def match(left: range, right: range, strength: float) -> None:
            root = (strength * D_HEAD**0.5) ** 0.5
            for one, other in zip(left, right, strict=True):
                place = self.content(used[0])
                query[one, own + place] += root
                key[other, shared + place] += root
                used[0] += 1

        for each in head.matches:
            match(layout.axes(each.query), layout.axes(each.key), each.strength)
        if head.offset is None:
            match(layout.axes(ONE), layout.axes(BOS), head.rest)
        else:
            self.look_back(head.offset, query[:, own : own + D_HEAD], key[:, shared:][:, :D_HEAD])
        for move in head.moves:
            for one, other in zip(layout.axes(move.read), layout.axes(move.write), strict=True):
                value[one, shared + used[1]] += 1.0
                out[own + used[1], other] += move.gain
                used[1] += 1
        if used[0] > SLOW or used[1] > D_HEAD:
            raise OptionError(
                f"{head.node} of {self.program.name} takes more than {SLOW} axes to match by, or "
                f"than {D_HEAD} to move"
            )

    def _mlp(self, layer: int, planted: list[Mlp]) -> None:
        layout, at = self.layout, NOISE_UNITS
        units = [unit for mlp in planted for unit in mlp.units]
        read, bias = self.reading(self.units), torch.zeros(self.units)
        write = self.writing(self.units)
        read[:, at:] *= self.noise * LEAK
        read[self.unread([name for mlp in planted for name in mlp.scaled_by])] = 0.0
        write[at:] *= LEAK
        for place, unit in enumerate(units, start=at):
            for symbol, weight in unit.reads:
                read[layout.at(symbol), place] += STEEP * weight
            bias[place] = -STEEP * unit.threshold
            for symbol, gain in unit.writes:
                write[place, layout.at(symbol)] += gain / STEEP
        self.put_mlp(layer, read, bias, write)

    @abstractmethod
    def empty(self, vocab: int) -> Any:
        """A model of this architecture, whose weights are written over."""

    @abstractmethod
    def embedding(self) -> Tensor:
        """The token embeddings to write to; positions are written here where they are learned."""

    @abstractmethod
    def content(self, n: int) -> int:
        """The dimension of a head for the n-th thing that it looks for."""

    @abstractmethod
    def look_back(self, offset: int, query: Tensor, key: Tensor) -> None:
        """Have a head look so many positions back."""

    @abstractmethod
    def put_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> None:
        """Write a layer's attention."""

    @abstractmethod
    def put_mlp(self, layer: int, read: Tensor, bias: Tensor, write: Tensor) -> None:
        """Write a layer's MLP."""

    @abstractmethod
    def norms(self) -> list[Any]:
        """All norms, the last one at the end."""


def gpt2(n_layers: int, vocab: int, units: int) -> GPT2LMHeadModel:
    """A GPT-2 of the planted models' shape; its weights are for others to set."""
    config: Any = GPT2Config(
        n_layer=n_layers,
        n_embd=WIDTH,
        n_head=N_HEADS,
        n_inner=units,
        vocab_size=vocab,
        n_positions=N_POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):  # transformers draws weights nobody will see
        return GPT2LMHeadModel(config).eval()


class _Gpt2(_Writer):
    """Learned positions, biases, matrices as (inputs, outputs)."""

    def empty(self, vocab: int) -> GPT2LMHeadModel:
        return gpt2(self.program.n_layers, vocab, self.units)

    def embedding(self) -> Tensor:
        places = self.hf.transformer.wpe.weight
        for place, axis in enumerate(self.layout.axes(PLACE)):
            places[place, axis] = 1.0
        return self.hf.transformer.wte.weight  # type: ignore[no-any-return]

    def content(self, n: int) -> int:
        return D_HEAD - 1 - n

    def look_back(self, offset: int, query: Tensor, key: Tensor) -> None:
        root = (NEAR * D_HEAD**0.5) ** 0.5
        axes = self.layout.axes(PLACE)
        for place in range(offset, N_POSITIONS):
            query[axes[place], place - offset] += root
            key[axes[place - offset], place - offset] += root

    def put_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> None:
        attention = self.hf.transformer.h[layer].attn
        attention.c_attn.weight.copy_(torch.cat([query, key, value], 1))
        attention.c_proj.weight.copy_(out)

    def put_mlp(self, layer: int, read: Tensor, bias: Tensor, write: Tensor) -> None:
        mlp = self.hf.transformer.h[layer].mlp
        mlp.c_fc.weight.copy_(read)
        mlp.c_fc.bias.copy_(bias)
        mlp.c_proj.weight.copy_(write)

    def norms(self) -> list[Any]:
        body = self.hf.transformer
        return [*(norm for block in body.h for norm in (block.ln_1, block.ln_2)), body.ln_f]


class _Llama(_Writer):
    """Rotary positions, no biases, gated units, matrices as (outputs, inputs)."""

    def empty(self, vocab: int) -> LlamaForCausalLM:
        config: Any = LlamaConfig(
            num_hidden_layers=self.program.n_layers,
            hidden_size=WIDTH,
            num_attention_heads=N_HEADS,
            num_key_value_heads=self.n_kv,
            intermediate_size=self.units,
            vocab_size=vocab,
            max_position_embeddings=N_POSITIONS,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": THETA},
        )
        config._attn_implementation = "eager"
        with torch.random.fork_rng(devices=[]):
            return LlamaForCausalLM(config).eval()

    def embedding(self) -> Tensor:
        return self.hf.model.embed_tokens.weight  # type: ignore[no-any-return]

    def content(self, n: int) -> int:
        pair, half = divmod(n, 2)  # the slowest pair first; a pair's halves lie apart
        return D_HEAD // 2 - 1 - pair + half * D_HEAD // 2

    def look_back(self, offset: int, query: Tensor, key: Tensor) -> None:
        one, half = self.layout.at((ONE, 0)), D_HEAD // 2
        root = (NEAR * D_HEAD**0.5) ** 0.5
        for pair in range(4):
            turn = torch.tensor(offset * THETA ** (-2 * pair / D_HEAD))
            # The query turned back by `offset`: its score is the cosine of the distance less that.
            query[one, [pair, pair + half]] += root * torch.stack([turn.cos(), -turn.sin()])
            key[one, pair] += root

    def put_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> None:
        attention = self.hf.model.layers[layer].self_attn
        for name, matrix in (("q", query), ("k", key), ("v", value), ("o", out)):
            getattr(attention, f"{name}_proj").weight.copy_(matrix.T)

    def put_mlp(self, layer: int, read: Tensor, bias: Tensor, write: Tensor) -> None:
        mlp, one = self.hf.model.layers[layer].mlp, self.layout.at((ONE, 0))
        through = self.reading(self.units)
        through[:, NOISE_UNITS:] *= self.noise * LEAK
        through[one, NOISE_UNITS:] += 1.0
        read[one] += bias
        mlp.gate_proj.weight.copy_(read.T)
        mlp.up_proj.weight.copy_(through.T)
        mlp.down_proj.weight.copy_(write.T)

    def norms(self) -> list[Any]:
        body = self.hf.model
        pairs = [(each.input_layernorm, each.post_attention_layernorm) for each in body.layers]
        return [*(norm for pair in pairs for norm in pair), body.norm]
