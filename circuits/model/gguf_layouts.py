"""How each architecture lies in a GGUF file: one row says what differs from its Hugging Face model.

Names of tensors are the `gguf` package's; what converters do to the numbers stands in these rows,
and was held against llama.cpp's own `convert_hf_to_gguf.py`. What a file does not say, and
llama.cpp therefore knows by heart, stands in `settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Facts = Mapping[str, Any]
"""The file's metadata of its architecture, without the architecture's name in front."""


@dataclass(frozen=True)
class Layout:
    """One row.

    `kind` is the Hugging Face architecture, `named` the `gguf` package's name for it, `fields`
    are configuration fields by the file's key, `settings` makes those that need more than a new
    name from the file's facts and the names of its tensors. `turned` are the layers whose matrices
    are stored transposed, `interleaved` those whose rows are stored in the order that pairs the two
    halves of a rotary embedding (query and key heads), `grouped` those that hold all queries, then
    all keys, then all values where the model goes head by head. With `gain` norms are stored as
    what they multiply with, where the model has that minus one.
    """

    kind: str
    named: str
    fields: Mapping[str, str]
    settings: Callable[[Facts, frozenset[str]], dict[str, Any]] = lambda facts, tensors: {}
    turned: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    grouped: tuple[str, ...] = ()
    gain: bool = False

    def plain(self, value: Tensor, name: str, config: Any) -> Tensor:
        """A tensor of the file, `name` without its ending, as the model has it."""
        layer = name.rpartition(".")[2]
        if layer in self.interleaved:
            heads = config.num_key_value_heads if layer == "attn_k" else config.num_attention_heads
            pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, -1)
            value = pairs.transpose(1, 2).reshape(value.shape)
        if layer in self.grouped:
            parts = value.unflatten(0, (3, config.num_attention_heads, -1))
            value = parts.transpose(0, 1).reshape(value.shape)
        if layer in self.turned and value.ndim == 2:
            value = value.T.contiguous()
        return value - 1 if self.gain and layer.endswith("norm") else value


_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_GROUPED = {"attention.head_count_kv": "num_key_value_heads"}
_RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_LLAMA = {**_SIZES, **_GROUPED, **_RMS, "rope.dimension_count": "head_dim"}
_QWEN = {**_SIZES, **_GROUPED, **_RMS}
_WIDE = {**_QWEN, "attention.key_length": "head_dim"}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_CAPS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}


def _rope(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    """Rotation of all dimensions of a head."""
    return {"rope_parameters": {"rope_type": "default", **_base(facts)}}


def _base(facts: Facts) -> dict[str, Any]:
    return {"rope_theta": facts["rope.freq_base"]} if "rope.freq_base" in facts else {}


def _partly(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    """Rotation of a head's first dimensions."""
    d_head = facts["embedding_length"] // facts["attention.head_count"]
    share = facts["rope.dimension_count"] / d_head
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share}
    return {"rope_parameters": rope | _base(facts)}


def _neox(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    return {**_partly(facts, tensors), "use_parallel_residual": facts["use_parallel_residual"]}


def _stablelm(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    return {
        **_partly(facts, tensors),
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in tensors,
    }


def _gemma2(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    """Attention scores are scaled by the width of a head, in the largest by another."""
    return {**_rope(facts, tensors), "query_pre_attn_scalar": _scale(facts, of_the_largest=46)}


def _gemma3(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    """Layers that see a window rotate faster than those that see everything."""
    near = {"rope_type": "default", "rope_theta": 1e4}
    far = near | {"rope_theta": 1e6} | _base(facts)
    return {
        "rope_parameters": {"sliding_attention": near, "full_attention": far},
        "query_pre_attn_scalar": _scale(facts, of_the_largest=62),
    }


def _scale(facts: Facts, of_the_largest: int) -> int:
    if facts["block_count"] == of_the_largest:
        return int(facts["embedding_length"] // facts["attention.head_count"])
    return int(facts["attention.key_length"])


def _falcon(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    groups = facts.get("attention.head_count_kv", 1)
    return {
        **_rope(facts, tensors),
        "multi_query": groups == 1,
        "new_decoder_architecture": groups != 1,
        "bias": "blk.0.attn_qkv.bias" in tensors,
        "alibi": False,
    }


def _normed_choice(facts: Facts, tensors: frozenset[str]) -> dict[str, Any]:
    """The weights of the chosen experts sum to one."""
    return {**_rope(facts, tensors), "norm_topk_prob": True}


_FALCON = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "ffn_hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_GPT2 = {
    "block_count": "n_layer",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_NORM = {"attention.layer_norm_epsilon": "layer_norm_eps"}
_MIXTRAL = {
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
}
LAYOUTS = {
    "falcon": Layout("falcon", "FALCON", _FALCON, _falcon),
    "gemma": Layout("gemma", "GEMMA", _WIDE, _rope, gain=True),
    "gemma2": Layout("gemma2", "GEMMA2", {**_WIDE, **_CAPS}, _gemma2, gain=True),
    "gemma3": Layout("gemma3_text", "GEMMA3", {**_WIDE, **_CAPS}, _gemma3, gain=True),
    "gpt2": Layout("gpt2", "GPT2", _GPT2, turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "gptneox": Layout("gpt_neox", "GPTNEOX", {**_SIZES, **_NORM}, _neox, grouped=("attn_qkv",)),
    "llama": Layout("llama", "LLAMA", _LLAMA, _rope, interleaved=("attn_q", "attn_k")),
    "llama with experts": Layout(
        "mixtral", "LLAMA", {**_LLAMA, **_MIXTRAL}, _rope, interleaved=("attn_q", "attn_k")
    ),
    "olmo2": Layout("olmo2", "OLMO2", _QWEN, _rope),
    "phi2": Layout("phi", "PHI2", {**_SIZES, **_GROUPED, **_NORM}, _partly),
    "qwen2": Layout("qwen2", "QWEN2", _QWEN, _rope),
    "qwen2moe": Layout("qwen2_moe", "QWEN2MOE", {**_QWEN, **_EXPERTS}, _rope),
    "qwen3": Layout("qwen3", "QWEN3", _WIDE, _rope),
    "qwen3moe": Layout("qwen3_moe", "QWEN3MOE", {**_WIDE, **_EXPERTS}, _normed_choice),
    "stablelm": Layout("stablelm", "STABLELM", {**_SIZES, **_GROUPED, **_NORM}, _stablelm),
}
"""Architectures whose files are read, by the name in the file."""

JOINED = {"mlp.experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps")}
"""Parameters that hold two of a file's tensors, one after the other in the second axis."""


def llama3_rope(factors: Tensor, rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rotation of Llama 3.1 and later, of which a file holds only the divisors of frequencies.

    None where these are not the factors that its published settings make.
    """
    found = {
        "rope_type": "llama3",
        "rope_theta": rope["rope_theta"],
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    places = torch.arange(len(factors), dtype=torch.float64) / len(factors)
    turns = 8192 / (2 * torch.pi * found["rope_theta"] ** places)
    smooth = ((turns - 1) / 3).clamp(0, 1)
    expected = 1 / ((1 - smooth) / found["factor"] + smooth)
    close = torch.allclose(expected, factors.double(), rtol=1e-4)
    return found if close else None
