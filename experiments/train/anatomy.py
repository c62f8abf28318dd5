"""Where the parts of a GPT-2 or Llama model are, and building one from a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from experiments.train.corpus import CONTEXT, END_OF_TEXT_ID
from experiments.train.recipe import Architecture


@dataclass(frozen=True)
class Anatomy:
    """The modules of a model that training and traces hook, one entry a layer.

    The inputs of `head_outputs` are the concatenated outputs of the heads.
    """

    embedding: nn.Embedding
    blocks: list[nn.Module]
    attentions: list[nn.Module]
    mlps: list[nn.Module]
    head_outputs: list[nn.Module]
    head_size: int
    final_norm: nn.Module


class Hooked:
    """A context manager that takes its hooks off a model when the block ends."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of `model`."""
    body: Any
    blocks: list[Any]
    if isinstance(model, GPT2LMHeadModel):
        body, blocks = model.transformer, list(model.transformer.h)
        attentions = [block.attn for block in blocks]
        outputs = [attention.c_proj for attention in attentions]
        embedding, final_norm = body.wte, body.ln_f
    elif isinstance(model, LlamaForCausalLM):
        body, blocks = model.model, list(model.model.layers)
        attentions = [block.self_attn for block in blocks]
        outputs = [attention.o_proj for attention in attentions]
        embedding, final_norm = body.embed_tokens, body.norm
    else:
        raise TypeError(f"{type(model).__name__} is neither GPT-2 nor Llama")
    mlps = [block.mlp for block in blocks]
    size = model.config.hidden_size // model.config.num_attention_heads
    return Anatomy(embedding, blocks, attentions, mlps, outputs, size, final_norm)


def new_model(architecture: Architecture, seed: int) -> PreTrainedModel:
    """A freshly initialised model; the global generator is left as it was."""
    common: dict[str, Any] = {
        "attn_implementation": "eager",  # sequences are short: the fused kernels are slower
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": END_OF_TEXT_ID,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel
        if architecture.family == "gpt2":
            # The fused tanh GELU is fast; the saved configuration names the same function
            # as gelu_new, the name that readers of GPT-2 expect.
            model = GPT2LMHeadModel(
                GPT2Config(
                    activation_function="gelu_pytorch_tanh",
                    vocab_size=architecture.vocabulary,
                    n_positions=CONTEXT,
                    n_embd=architecture.width,
                    n_layer=architecture.layers,
                    n_head=architecture.heads,
                    n_inner=architecture.mlp_width,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    tie_word_embeddings=architecture.tied,
                    **common,
                )
            )
            model.config.activation_function = "gelu_new"
        else:
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=architecture.vocabulary,
                    hidden_size=architecture.width,
                    intermediate_size=architecture.mlp_width,
                    num_hidden_layers=architecture.layers,
                    num_attention_heads=architecture.heads,
                    num_key_value_heads=architecture.key_value_heads,
                    head_dim=architecture.width // architecture.heads,
                    max_position_embeddings=CONTEXT,
                    tie_word_embeddings=architecture.tied,
                    rms_norm_eps=1e-5,
                    **common,
                )
            )
        nn.init.normal_(anatomy(model).embedding.weight, std=architecture.embedding_std)
    return model
