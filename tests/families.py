"""A tiny random model of every architecture that is covered, under the name of its variant."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.model.model import Model

WORDS = [
    *("<s>", "</s>", "The", "capital", "of", "France", "Japan", "Peru", "Norway", "Cuba", "is"),
    *("Paris", "Tokyo", "Lima", "Oslo", "Havana", "In", "city", "<|endoftext|>"),
]
PROMPTS = (("The capital of {} is", "France", "Japan"), ("In {} The city of", "Peru", "Cuba"))
ANSWERS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana"}


def _tokenizer() -> PreTrainedTokenizerFast:
    """A token a word; what a model is, not how it reads, is the matter here."""
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="</s>"
    )


TOKENIZER = _tokenizer()


def _config(**more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 32,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | more


def _gpt(**more: Any) -> dict[str, Any]:
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 4, "n_positions": 32, "n_inner": 24}
    return sizes | {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1} | more


def _opt(**more: Any) -> dict[str, Any]:
    found = _config(ffn_dim=24, word_embed_proj_dim=16, **more)
    del found["num_key_value_heads"]  # it knows no such thing
    return found


_WINDOW: dict[str, Any] = {"sliding_window": 3}
_OWN_KEYS: dict[str, Any] = {"num_key_value_heads": 4}
_PARTLY: dict[str, Any] = {
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
}
_CAPS: dict[str, Any] = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_UNTURNED: dict[str, Any] = {"no_rope_layers": [0, 1], "use_sliding_window": True}
_ALTERNATING = ["sliding_attention", "full_attention"]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _gpt()),
    "llama": ("llama", _config()),
    "qwen2": ("qwen2", _config(use_sliding_window=True, max_window_layers=1, **_WINDOW)),
    "qwen3": ("qwen3", _config(head_dim=6)),
    "mistral": ("mistral", _config(**_WINDOW)),
    "stablelm": ("stablelm", _config(use_qkv_bias=True, **_PARTLY)),
    "stablelm, parallel": ("stablelm", _config(use_parallel_residual=True, **_PARTLY)),
    "gpt_neox": ("gpt_neox", _config(**_OWN_KEYS, **_PARTLY)),
    "gpt_neox, sequential": ("gpt_neox", _config(**_OWN_KEYS, use_parallel_residual=False)),
    "gptj": ("gptj", _gpt(rotary_dim=2)),
    "phi": ("phi", _config(**_OWN_KEYS, **_PARTLY)),
    "phi3": ("phi3", _config(**_PARTLY, **_WINDOW)),
    "falcon": ("falcon", _config(alibi=False, bias=True, ffn_hidden_size=24)),
    "opt": ("opt", _opt()),
    "opt, bare": ("opt", _opt(layer_norm_elementwise_affine=False, enable_bias=False)),
    "gpt_neo": (
        "gpt_neo",
        {
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "hidden_size": 16,
            "num_heads": 4,
            "intermediate_size": 24,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 32,
            "window_size": 3,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
    ),
    "gemma": ("gemma", _config(head_dim=6)),
    "gemma2": ("gemma2", _config(head_dim=6, query_pre_attn_scalar=5, **_CAPS, **_WINDOW)),
    "gemma3_text": (
        "gemma3_text",
        _config(head_dim=6, query_pre_attn_scalar=5, layer_types=_ALTERNATING, **_WINDOW),
    ),
    "olmo2": ("olmo2", _config()),
    "olmo3": ("olmo3", _config(layer_types=_ALTERNATING, **_WINDOW)),
    "smollm3": ("smollm3", _config(layer_types=_ALTERNATING, **_UNTURNED, **_WINDOW)),
    "mixtral": ("mixtral", _config(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": ("qwen2_moe", _config(shared_expert_intermediate_size=8, **_EXPERTS)),
    "qwen3_moe": ("qwen3_moe", _config(head_dim=6, **_EXPERTS)),
}


def family_hf(family: str, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """The Hugging Face model: every weight random, every path of some consequence.

    `more` replaces fields of its configuration.
    """
    kind, options = FAMILIES[family]
    config = AutoConfig.for_model(kind, **options | more)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            elif "embed_positions" not in name and "wpe" not in name:
                parameter.copy_(0.4 * noise)
    return hf.eval()


def family_model(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """The same model, wrapped."""
    return Model.from_hf(family_hf(family, dtype), TOKENIZER, family)


def family_pairs(model: Model) -> list[TokenPair]:
    """Two pairs; before the subject there is a beginning that both prompts share."""
    pairs = [
        PromptPair(
            clean=frame.format(subject),
            corrupted=frame.format(other),
            answer=ANSWERS[subject],
            foil=ANSWERS[other],
            subject=subject,
            relation="capital",
        )
        for frame, subject, other in PROMPTS
    ]
    return encode_pairs(model.tokenizer, pairs)
