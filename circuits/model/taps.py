"""Where a run can be read or changed, by concept: the only file that knows TransformerLens' names.

Each function gives the name of a hook of a layer. Shapes are those of a run on `batch` prompts of
`pos` tokens; keys and values have `n_kv_heads` heads where these are shared. What stands at other
places in other architectures is a method of `Taps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuits.model.architectures import Architecture

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING = "embed.hook_out"
"""Token embeddings [batch pos d_model]."""
POSITIONS = "pos_embed.hook_out"
"""Position embeddings [batch pos d_model], where a model learns them."""
UNEMBED = "unembed.hook_in"
"""What the output matrix reads [batch pos d_model]."""
UNEMBEDDED = "unembed.hook_out"
"""Logits before a soft cap [batch pos d_vocab]."""
SLOTS = ("q", "k", "v")
NORMS = ("ln1", "ln2", "ln1_post", "ln2_post", "q_norm", "k_norm")
"""The norms that a layer may have, by the name that `Weights.norm` takes."""
FINAL_NORM = "ln_final"


@dataclass(frozen=True)
class Taps:
    """What depends on the architecture."""

    architecture: Architecture

    @property
    def attention_norm(self) -> str | None:
        """The norm through which heads read."""
        return "ln1" if self.architecture.normed_before else None

    @property
    def mlp_norm(self) -> str | None:
        """The norm through which the MLP reads."""
        return "ln1" if self.architecture.one_norm else self.attention_norm and "ln2"

    def mlp_residual(self, layer: int) -> str:
        """Residual stream that the MLP reads, before its norm [batch pos d_model]."""
        if self.architecture.parallel:
            return resid_pre(layer)
        return f"blocks.{layer}.{self.mlp_norm}.hook_in" if self.mlp_norm else mlp_in(layer)

    def attention_out(self, layer: int) -> str:
        """What attention adds to the residual stream [batch pos d_model]."""
        after = self.architecture.normed_after
        return f"blocks.{layer}.ln1_post.hook_out" if after else attention_raw(layer)

    def mlp_out(self, layer: int) -> str:
        """What the MLP adds to the residual stream [batch pos d_model]."""
        return (
            f"blocks.{layer}.ln2_post.hook_out"
            if self.architecture.normed_after
            else mlp_raw(layer)
        )

    def head_scale(self, layer: int) -> str | None:
        """What the norm after attention divides by [batch pos 1], where there is one."""
        return norm_scale(layer, "ln1_post") if self.architecture.normed_after else None


def resid_pre(layer: int) -> str:
    """Residual stream before a block [batch pos d_model]."""
    return f"blocks.{layer}.hook_in"


def resid_post(layer: int) -> str:
    """Residual stream after a block [batch pos d_model]."""
    return f"blocks.{layer}.hook_out"


def projection(layer: int, slot: str) -> str:
    """Queries, keys or values (slot q, k or v) as projected [batch pos head d_head]."""
    return f"blocks.{layer}.attn.{slot}.hook_out"


def projections(layer: int) -> tuple[str, ...]:
    """Queries, keys and values, in this order."""
    return tuple(projection(layer, slot) for slot in SLOTS)


def attention_scores(layer: int) -> str:
    """Attention before the softmax [batch head query key]."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def pattern(layer: int) -> str:
    """Attention [batch head query key]."""
    return f"blocks.{layer}.attn.hook_pattern"


def head_outputs(layer: int) -> str:
    """Every head's output before the output matrix [batch pos head*d_head]."""
    return f"blocks.{layer}.attn.o.hook_in"


def attention_raw(layer: int) -> str:
    """What attention writes, before a norm after it [batch pos d_model]."""
    return f"blocks.{layer}.attn.hook_out"


def mlp_in(layer: int) -> str:
    """What the MLP reads, its norm included [batch pos d_model]."""
    return f"blocks.{layer}.mlp.hook_in"


def mlp_up(layer: int) -> str:
    """What the MLP's input matrix gives; where there is a gate, the other factor [batch pos d_mlp].

    Without a gate it is what the activation is applied to.
    """
    return f"blocks.{layer}.mlp.in.hook_out"


def mlp_gate(layer: int) -> str:
    """What the activation is applied to in a gated MLP [batch pos d_mlp]."""
    return f"blocks.{layer}.mlp.gate.hook_out"


def mlp_keys(layer: int) -> str:
    """What the MLP's output matrix reads [batch pos d_mlp]."""
    return f"blocks.{layer}.mlp.out.hook_in"


def mlp_raw(layer: int) -> str:
    """What the MLP writes, before a norm after it [batch pos d_model]."""
    return f"blocks.{layer}.mlp.hook_out"


def norm_ends(layer: int | None, name: str) -> tuple[str, str]:
    """What a norm reads and what it gives; without a layer, the one before the output matrix."""
    owner = "attn." if name in ("q_norm", "k_norm") else ""
    place = name if layer is None else f"blocks.{layer}.{owner}{name}"
    return f"{place}.hook_in", f"{place}.hook_out"


def normalized(layer: int, norm: str) -> str:
    """The direction that a norm gives, before its gain [batch pos d_model]."""
    return f"blocks.{layer}.{norm}.hook_normalized"


def norm_scale(layer: int, norm: str) -> str:
    """What a norm divides by [batch pos 1]."""
    return f"blocks.{layer}.{norm}.hook_scale"


def keeping(
    points: Iterable[str],
) -> tuple[dict[str, Tensor], list[tuple[str, Callable[..., Any]]]]:
    """What a run with these hooks holds at the points, by their names, and the hooks."""
    found: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> None:
        found[hook.name] = value

    return found, [(point, keep) for point in points]
