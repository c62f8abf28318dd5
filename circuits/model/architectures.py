"""The architectures that are covered: one row says what an architecture reads and writes where.

Everything else asks the row and never the architecture's name. A row's words:

- *parallel*: attention and MLP of a layer both read the residual stream before the layer, so there
  is no edge from a layer's heads to its own MLP; with *one_norm* they also share the norm.
- *norms*: before attention and MLP, after them (then all heads of a layer pass one norm together
  before they reach the residual stream), or both.
- *query_norm*: what queries and keys pass between their projection and the attention scores:
  nothing, one norm a head, or one over all heads. A destination's input is before the projection.
- *positions*: learned and added to the embedding; or a rotation of queries and keys, of dimensions
  half a head apart or next to each other, of all of a head's dimensions or of its first.
- *fused*: the joint matrix of queries, keys and values, and how it is laid out.

What all architectures share, whatever their row: grouped keys and values, biases, windows of
attention and soft caps are read from the model's configuration and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from circuits.base.errors import UnsupportedArchitectureError
from circuits.model.wrapped import WRAPPERS

if TYPE_CHECKING:
    from torch import Tensor


class Norms(Enum):
    """Where the norms of a layer stand."""

    BEFORE = "before attention and MLP"
    AFTER = "after attention and MLP"
    BOTH = "before and after attention and MLP"


class QueryNorm(Enum):
    """What queries and keys pass after their projection."""

    NONE = "nothing"
    HEAD = "a norm a head"
    JOINT = "one norm over all heads"


class Positions(Enum):
    """How a model knows positions."""

    LEARNED = "embeddings of positions"
    HALVES = "rotation of dimensions half a head apart"
    PAIRS = "rotation of neighbouring dimensions"


Split = Callable[[Any, int, int], tuple[Any, ...]]
"""From a joint weight or bias, number of heads and d_head to those of queries, keys and values."""


def three_columns(joint: Tensor, n_heads: int, d_head: int) -> tuple[Tensor, ...]:
    """GPT-2's: input by output, queries of all heads, then keys, then values."""
    return tuple(part.T if part.ndim == 2 else part for part in joint.chunk(3, -1))


def by_head(joint: Tensor, n_heads: int, d_head: int) -> tuple[Tensor, ...]:
    """GPT-NeoX's: output by input, query, key and value of one head after the other."""
    heads = joint.unflatten(0, (n_heads, 3, d_head))
    return tuple(heads[:, place].flatten(0, 1) for place in range(3))


def queries_then_shared(joint: Tensor, n_heads: int, d_head: int) -> tuple[Tensor, ...]:
    """Falcon's and Phi-3's: output by input, all queries, then the fewer keys, then the values."""
    shared = (len(joint) - n_heads * d_head) // 2
    return joint.split([n_heads * d_head, shared, shared])


@dataclass(frozen=True)
class Architecture:
    """One row; `{}` in a name stands for the layer.

    `mlp_output` names the matrix from which an MLP writes, the weight that edits change; None for a
    mixture of experts, which has many. `parallel` may name the field of the configuration that
    says it. `plain` holds fields whose other values are not covered. `gain_from_one` says that
    norms hold their gain minus one, `scale` what attention scores are multiplied with where it is
    not one over the root of d_head, `cache` the argument that brings earlier keys and values,
    `transposed` that matrices are held input by output, `bare_mlp` that an MLP's parts lie in the
    block itself, `windowed` that it reads `sliding_window`, `closed_attention` that attention can
    be read but not replaced where it is computed. `fused_mlp` names the joint matrix of an MLP's
    gate and, below it, its other half, `turning` the field that has a 0 for each layer whose
    queries and keys are not rotated.
    """

    mlp_output: str | None
    plain: Mapping[str, Any] = field(default_factory=dict)
    parallel: bool | str = False
    one_norm: bool = False
    norms: Norms = Norms.BEFORE
    gain_from_one: bool = False
    query_norm: QueryNorm = QueryNorm.NONE
    positions: Positions = Positions.HALVES
    fused: tuple[str, Split] | None = None
    scale: float | None = None
    cache: str = "past_key_values"
    transposed: bool = False
    bare_mlp: bool = False
    windowed: bool = False
    closed_attention: bool = False
    fused_mlp: str = ""
    turning: str = ""

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """The row of a configuration that `check_architecture` has passed."""
        row = ARCHITECTURES[config.model_type]
        if isinstance(row.parallel, str):
            row = replace(row, parallel=bool(getattr(config, row.parallel)))
        return replace(row, one_norm=row.one_norm and bool(row.parallel))

    @property
    def has_positions(self) -> bool:
        """Whether embeddings of positions are added to the residual stream."""
        return self.positions == Positions.LEARNED

    @property
    def normed_before(self) -> bool:
        """Whether attention and MLP read through a norm."""
        return self.norms != Norms.AFTER

    @property
    def normed_after(self) -> bool:
        """Whether what attention and MLP write passes a norm."""
        return self.norms != Norms.BEFORE

    @property
    def is_joint(self) -> bool:
        """Whether one head's query or key changes what the others' are, through a shared norm."""
        return self.query_norm == QueryNorm.JOINT


_UNBIASED: dict[str, Any] = {"attention_bias": False, "mlp_bias": False}
_GPT2 = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
_FALCON = {"alibi": False, "new_decoder_architecture": False, "multi_query": True}
_OPT = {"do_layer_norm_before": True, "_remove_final_layer_norm": False}
_DOWN = "model.layers.{}.mlp.down_proj.weight"
_QWEN3: dict[str, Any] = {
    "plain": {"attention_bias": False},
    "query_norm": QueryNorm.HEAD,
    "windowed": True,
}
_GEMMA: dict[str, Any] = {
    "gain_from_one": True,
    "mlp_output": _DOWN,
    "plain": {"attention_bias": False, "use_bidirectional_attention": False},
}

ARCHITECTURES: dict[str, Architecture] = {
    "falcon": Architecture(
        "transformer.h.{}.mlp.dense_4h_to_h.weight",
        _FALCON,
        parallel="parallel_attn",
        one_norm=True,
        fused=("transformer.h.{}.self_attention.query_key_value", queries_then_shared),
    ),
    "gemma": Architecture(**_GEMMA),
    "gemma2": Architecture(norms=Norms.BOTH, windowed=True, **_GEMMA),
    "gemma3_text": Architecture(
        norms=Norms.BOTH,
        query_norm=QueryNorm.HEAD,
        windowed=True,
        **_GEMMA | {"plain": {"attention_bias": False, "use_bidirectional_attention": False}},
    ),
    "gpt2": Architecture(
        "transformer.h.{}.mlp.c_proj.weight",
        _GPT2,
        positions=Positions.LEARNED,
        fused=("transformer.h.{}.attn.c_attn", three_columns),
        transposed=True,
    ),
    "gpt_neo": Architecture(
        "transformer.h.{}.mlp.c_proj.weight",
        positions=Positions.LEARNED,
        scale=1.0,
        cache="layer_past",
        closed_attention=True,
    ),
    "gpt_neox": Architecture(
        "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
        {"attention_bias": True},
        parallel="use_parallel_residual",
        fused=("gpt_neox.layers.{}.attention.query_key_value", by_head),
    ),
    "gptj": Architecture(
        "transformer.h.{}.mlp.fc_out.weight",
        parallel=True,
        one_norm=True,
        positions=Positions.PAIRS,
        cache="layer_past",
        closed_attention=True,
    ),
    "llama": Architecture(_DOWN, _UNBIASED),
    "mistral": Architecture(_DOWN, windowed=True),
    "mixtral": Architecture(None, windowed=True),
    "olmo2": Architecture(
        _DOWN,
        {"attention_bias": False},
        norms=Norms.AFTER,
        query_norm=QueryNorm.JOINT,
    ),
    "olmo3": Architecture(
        _DOWN,
        {"attention_bias": False},
        norms=Norms.AFTER,
        query_norm=QueryNorm.JOINT,
        windowed=True,
    ),
    "opt": Architecture(
        "model.decoder.layers.{}.fc2.weight",
        _OPT,
        positions=Positions.LEARNED,
        bare_mlp=True,
        closed_attention=True,
    ),
    "phi": Architecture(
        "model.layers.{}.mlp.fc2.weight",
        {"qk_layernorm": False},
        parallel=True,
        one_norm=True,
    ),
    "phi3": Architecture(
        _DOWN,
        windowed=True,
        fused=("model.layers.{}.self_attn.qkv_proj", queries_then_shared),
        fused_mlp="model.layers.{}.mlp.gate_up_proj",
    ),
    "qwen2": Architecture(_DOWN, windowed=True),
    "qwen2_moe": Architecture(None, windowed=True),
    "qwen3": Architecture(_DOWN, **_QWEN3),
    "qwen3_moe": Architecture(None, **_QWEN3),
    "smollm3": Architecture(_DOWN, _UNBIASED, windowed=True, turning="no_rope_layers"),
    "stablelm": Architecture(
        _DOWN,
        {"qk_layernorm": False},
        parallel="use_parallel_residual",
        one_norm=True,
    ),
}
"""Covered model types."""

_INSTEAD = {
    **dict.fromkeys(WRAPPERS, "only its language model is; name its folder or its hub name"),
    "bloom": "it knows positions by ALiBi",
    "mpt": "it knows positions by ALiBi",
}
"""What helps, for types that are likely to be tried."""


def check_architecture(config: Any, name: str) -> None:
    """Refuse, by name and before any pass, what no row covers."""
    kind = getattr(config, "model_type", "unknown")
    if kind not in ARCHITECTURES:
        why = f": {_INSTEAD[kind]}" if kind in _INSTEAD else ""
        raise UnsupportedArchitectureError(
            f"{name!r} has architecture {kind!r}, which is not covered{why}; covered and tested: "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    plain = {"word_embed_proj_dim": getattr(config, "hidden_size", None)}
    for key, expected in (plain | dict(ARCHITECTURES[kind].plain)).items():
        value = getattr(config, key, expected)
        if value != expected and (value or expected):  # None says no as well as False
            raise UnsupportedArchitectureError(
                f"{name!r} sets {key}={short(value)}, a variant of {kind} that is not covered"
            )
    if not ARCHITECTURES[kind].windowed and getattr(config, "sliding_window", None) is not None:
        raise UnsupportedArchitectureError(
            f"{name!r} sets sliding_window={short(config.sliding_window)}, which is not covered"
        )
    if quantised := getattr(config, "quantization_config", None):
        how = quantised.get("quant_method", "?") if isinstance(quantised, Mapping) else "?"
        raise UnsupportedArchitectureError(
            f"{name!r} is quantised ({how}): its weights are not plain matrices; use the model "
            "that it was made from"
        )
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *rope.values()] if isinstance(rope, Mapping) else []  # or one a kind of layer
    ropes = [each for each in kinds if isinstance(each, Mapping)]
    if any(each.get("rope_type", each.get("type")) == "longrope" for each in ropes):
        # Its angles change with the prompt's length, and a shared prefix has none of its own.
        raise UnsupportedArchitectureError(
            f"{name!r} rotates by 'longrope', which is not covered; covered are the default, "
            "linear, dynamic, yarn and llama3"
        )


def attention_windows(config: Any) -> list[int | None]:
    """For each layer how many positions a token sees, itself included; None for all before it."""
    n_layers = config.num_hidden_layers
    if hasattr(config, "attention_layers"):
        return [config.window_size if kind == "local" else None for kind in config.attention_layers]
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * n_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def short(value: Any) -> str:
    """A value of a configuration, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
