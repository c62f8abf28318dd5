"""One edge patched in a plain Hugging Face model, by its own hooks: the truth for every family.

It knows where each family keeps its parts and nothing else of this project, and lets Hugging Face
run everything that is not the one destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """Paths of a family's parts, those of a layer from the layer on; None where there is none."""

    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final: str = "model.norm"
    queries: str = "self_attn.{}_proj"
    output: str = "self_attn.o_proj"
    before: str | None = "input_layernorm"
    before_mlp: str | None = "post_attention_layernorm"
    after: str | None = None
    mlp: str = "mlp"
    written: str = "mlp"
    column: Callable[[str, int, int, int], int] | None = None


def _gpt2_column(slot: str, head: int, heads: int, width: int) -> int:
    return ("qkv".index(slot) * heads + head) * width


def _neox_column(slot: str, head: int, heads: int, width: int) -> int:
    return (3 * head + "qkv".index(slot)) * width


def _falcon_column(slot: str, head: int, heads: int, width: int) -> int:
    return {"q": head, "k": heads, "v": heads + 1}[slot] * width


def _phi3_column(slot: str, head: int, heads: int, width: int) -> int:
    """Two query heads share a key in `tests.families`."""
    return ({"q": 0, "k": heads, "v": heads + heads // 2}[slot] + head) * width


_OLD = {"layers": "transformer.h", "embedding": "transformer.wte", "final": "transformer.ln_f"}
_BOTH = {"after": "post_attention_layernorm", "before_mlp": "pre_feedforward_layernorm"}
_AFTER = {"after": "post_attention_layernorm", "written": "post_feedforward_layernorm"}
PARTS: dict[str, Parts] = {
    "gpt2": Parts(
        **_OLD,
        queries="attn.c_attn",
        output="attn.c_proj",
        before="ln_1",
        before_mlp="ln_2",
        column=_gpt2_column,
    ),
    "gptj": Parts(
        **_OLD, queries="attn.{}_proj", output="attn.out_proj", before="ln_1", before_mlp=None
    ),
    "gpt_neo": Parts(
        **_OLD,
        queries="attn.attention.{}_proj",
        output="attn.attention.out_proj",
        before="ln_1",
        before_mlp="ln_2",
    ),
    "gpt_neox": Parts(
        "gpt_neox.layers",
        "gpt_neox.embed_in",
        "gpt_neox.final_layer_norm",
        "attention.query_key_value",
        "attention.dense",
        column=_neox_column,
    ),
    "falcon": Parts(
        "transformer.h",
        "transformer.word_embeddings",
        "transformer.ln_f",
        "self_attention.query_key_value",
        "self_attention.dense",
        before_mlp=None,
        column=_falcon_column,
    ),
    "phi": Parts(final="model.final_layernorm", output="self_attn.dense", before_mlp=None),
    "phi3": Parts(queries="self_attn.qkv_proj", column=_phi3_column),
    "opt": Parts(
        "model.decoder.layers",
        "model.decoder.embed_tokens",
        "model.decoder.final_layer_norm",
        output="self_attn.out_proj",
        before="self_attn_layer_norm",
        before_mlp="final_layer_norm",
        written="fc2",
    ),
    "gemma2": Parts(**_BOTH, written="post_feedforward_layernorm"),
    "gemma3_text": Parts(**_BOTH, written="post_feedforward_layernorm"),
    "olmo2": Parts(before=None, before_mlp=None, **_AFTER),
    "olmo3": Parts(before=None, before_mlp=None, **_AFTER),
}
"""What is not here is where Llama has it."""


class PlainModel:
    """A Hugging Face model whose single edges can be patched."""

    def __init__(self, hf: Any, n_heads: int, d_head: int) -> None:
        self.hf, self.parts = hf, PARTS.get(hf.config.model_type, Parts())
        if hf.config.model_type == "stablelm" and hf.config.use_parallel_residual:
            self.parts = replace(self.parts, before_mlp=None)
        self.n_heads, self.d_head = n_heads, d_head

    def part(self, path: str, layer: int | None = None) -> Any:
        prefix = "" if layer is None else f"{self.parts.layers}.{layer}."
        return self.hf.get_submodule(prefix + path)

    @torch.no_grad()
    def run(self, tokens: Tensor) -> Tensor:
        """Logits after the last token."""
        return self.hf(tokens).logits[:, -1]

    @torch.no_grad()
    def written(self, tokens: Tensor, source: str) -> Tensor:
        """What a source adds to the residual stream in a run."""
        if source == "input":
            return self._output(tokens, self.part(self.parts.embedding))
        layer = int(re.findall(r"\d+", source)[0])
        if source.startswith("m"):
            return self._output(tokens, self.part(self.parts.written, layer)).view(
                *tokens.shape, -1
            )
        head, module = int(source.partition(".h")[2]), self.part(self.parts.output, layer)
        place = slice(head * self.d_head, (head + 1) * self.d_head)
        read = self._input(tokens, module)[..., place]
        conv = type(module).__name__ == "Conv1D"
        out = read @ (module.weight[place] if conv else module.weight[:, place].T)
        if self.parts.after is None:
            return out
        norm = self.part(self.parts.after, layer)
        total = self._input(tokens, norm)  # a norm is linear once what it divides by is given
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
        unit = norm(torch.ones_like(total)) * (1 + eps) ** 0.5  # the gain: ones have norm one
        return out * unit / (total.square().mean(-1, keepdim=True) + eps).sqrt()

    @torch.no_grad()
    def patched(self, tokens: Tensor, destination: str, less: Tensor) -> Tensor:
        """Logits of a run in which one destination reads the residual stream without `less`."""
        if destination == "logits":
            return self._with_input(tokens, self.part(self.parts.final), lambda x: x - less)
        layer = int(re.findall(r"\d+", destination)[0])
        before = self.parts.before
        residual = self._residual(tokens, layer)

        def normed(path: str | None) -> Tensor:
            return residual - less if path is None else self.part(path, layer)(residual - less)

        if destination.startswith("m"):
            if self.parts.before_mlp is not None:
                norm = self.part(self.parts.before_mlp, layer)
                return self._with_input(tokens, norm, lambda x: x - less.view(x.shape))
            mlp = self.part(self.parts.mlp, layer)
            if before is None:
                return self._with_input(tokens, mlp, lambda x: x - less)
            return self._with_input(tokens, mlp, lambda x: normed(before))
        _, head, slot = re.fullmatch(r"a(\d+)\.(?:h|kv)(\d+)<(\w)>", destination).groups()
        module = self.part(self.parts.queries.format(slot), layer)
        first = int(head) * self.d_head
        if self.parts.column is not None:
            first = self.parts.column(slot, int(head), self.n_heads, self.d_head)
        place = slice(first, first + self.d_head)
        new = module(normed(before))[..., place]

        def replace(module: Any, inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[..., place] = new
            return output

        with ExitStack() as stack:
            stack.callback(module.register_forward_hook(replace).remove)
            return self.run(tokens)

    def _residual(self, tokens: Tensor, layer: int) -> Tensor:
        seen: list[Tensor] = []

        def keep(module: Any, inputs: Any, options: Any) -> None:
            seen.append(inputs[0] if inputs else options["hidden_states"])

        block = self.hf.get_submodule(f"{self.parts.layers}.{layer}")
        with ExitStack() as stack:
            stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self.run(tokens)
        return seen[0]

    def _output(self, tokens: Tensor, module: Any) -> Tensor:
        seen: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            seen.append(output.clone())  # some models go on writing into it

        with ExitStack() as stack:
            stack.callback(module.register_forward_hook(keep).remove)
            self.run(tokens)
        return seen[0]

    def _input(self, tokens: Tensor, module: Any) -> Tensor:
        seen: list[Tensor] = []
        with ExitStack() as stack:
            stack.callback(module.register_forward_pre_hook(lambda m, i: seen.append(i[0])).remove)
            self.run(tokens)
        return seen[0]

    def _with_input(
        self, tokens: Tensor, module: Any, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        with ExitStack() as stack:
            hook = module.register_forward_pre_hook(lambda m, i: (change(i[0]), *i[1:]))
            stack.callback(hook.remove)
            return self.run(tokens)
