"""Where a run can be read or changed, by concept: the only file that knows TransformerLens' names.

Each function gives the name of a hook of a layer. Shapes are those of a run on `batch` prompts of
`pos` tokens; keys and values have `n_kv_heads` heads where these are shared.
"""

from __future__ import annotations

EMBEDDING = "embed.hook_out"
"""Token embeddings [batch pos d_model]."""
POSITIONS = "pos_embed.hook_out"
"""Position embeddings [batch pos d_model], where a model learns them."""
ROTARY = ("rotary_emb.hook_cos", "rotary_emb.hook_sin")
"""Cosine and sine of the rotation [batch pos d_head], where positions rotate."""
UNEMBED = "unembed.hook_in"
"""What the output matrix reads [batch pos d_model]."""
SLOTS = ("q", "k", "v")


def resid_pre(layer: int) -> str:
    """Residual stream before a block [batch pos d_model]."""
    return f"blocks.{layer}.hook_in"


def resid_mid(layer: int) -> str:
    """Residual stream between attention and MLP [batch pos d_model]."""
    return f"blocks.{layer}.ln2.hook_in"


def resid_post(layer: int) -> str:
    """Residual stream after a block [batch pos d_model]."""
    return f"blocks.{layer}.hook_out"


def projection(layer: int, slot: str) -> str:
    """Queries, keys or values (slot q, k or v) before rotation [batch pos head d_head]."""
    return f"blocks.{layer}.attn.{slot}.hook_out"


def projections(layer: int) -> tuple[str, ...]:
    """Queries, keys and values, in this order."""
    return tuple(projection(layer, slot) for slot in SLOTS)


def rotated_queries(layer: int) -> str:
    """Queries after rotation; which axis is the head's depends on the model."""
    return f"blocks.{layer}.attn.hook_rot_q"


def attention_scores(layer: int) -> str:
    """Attention before the softmax [batch head query key]."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def pattern(layer: int) -> str:
    """Attention [batch head query key]."""
    return f"blocks.{layer}.attn.hook_pattern"


def head_outputs(layer: int) -> str:
    """Every head's output before the output matrix [batch pos head*d_head]."""
    return f"blocks.{layer}.attn.o.hook_in"


def attention_out(layer: int) -> str:
    """What attention adds to the residual stream [batch pos d_model]."""
    return f"blocks.{layer}.attn.hook_out"


def mlp_keys(layer: int) -> str:
    """What the MLP's output matrix reads [batch pos d_mlp]."""
    return f"blocks.{layer}.mlp.out.hook_in"


def mlp_out(layer: int) -> str:
    """What the MLP adds to the residual stream [batch pos d_model]."""
    return f"blocks.{layer}.mlp.hook_out"


def normalized(layer: int, norm: str) -> str:
    """The direction that norm `ln1` or `ln2` gives, before its gain [batch pos d_model]."""
    return f"blocks.{layer}.{norm}.hook_normalized"


def norm_scale(layer: int, norm: str) -> str:
    """What norm `ln1` or `ln2` divides by [batch pos 1]."""
    return f"blocks.{layer}.{norm}.hook_scale"


def norm_out(layer: int, norm: str) -> str:
    """What norm `ln1` or `ln2` gives, gain included [batch pos d_model]."""
    return f"blocks.{layer}.{norm}.hook_out"
