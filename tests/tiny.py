"""Tiny models and tokenizers made on the spot: random weights, real architectures, no download."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from circuits.facts.pairs import PromptPair, TokenPair, encode_pairs
from circuits.model.model import Model

CORPUS = (
    """
The capital of France is Paris. The capital of Japan is Tokyo. The capital of Peru is Lima.
The capital of Norway is Oslo. The capital of South Korea is Seoul. The capital of Cuba is Havana.
The language of France is French. The language of Japan is Japanese. People in Peru speak Spanish.
The currency of Norway is the krone. Zürich and São Paulo are cities; Côte d'Ivoire is a country.
"""
    * 4
)
COUNTRIES = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Cuba": "Havana",
}


@cache
def byte_level_tokenizer(vocab: int = 400) -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level BPE, no automatic BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS.splitlines(),
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


@cache
def metaspace_tokenizer(vocab: int = 300) -> PreTrainedTokenizerFast:
    """Llama's kind: metaspace with byte fallback, BOS put in front by the tokenizer itself."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    lines = [word for line in CORPUS.splitlines() for word in line.split()]
    specials = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=vocab + 256, special_tokens=specials, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def gpt2_hf(
    layers: int = 3, heads: int = 4, width: int = 32, seed: int = 0, positions: int = 64
) -> GPT2LMHeadModel:
    """A random GPT-2 whose biases and norm gains are not trivial."""
    tokenizer = byte_level_tokenizer()
    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        vocab_size=len(tokenizer),
        n_positions=positions,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return _liven(GPT2LMHeadModel(config), seed)


def llama_hf(
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    width: int = 32,
    seed: int = 0,
    positions: int = 64,
) -> LlamaForCausalLM:
    """A random Llama with grouped-query attention."""
    tokenizer = metaspace_tokenizer()
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=3 * width,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return _liven(LlamaForCausalLM(config), seed)


def _liven(model, seed: int):
    """Larger weights, random biases and gains: a net in which every path matters."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            elif "wpe" not in name:
                parameter.mul_(4.0)
    return model.eval()


def tiny_model(kind: str, seed: int = 0, **shape: int) -> Model:
    """`gpt2` or `llama`, freshly made."""
    if kind == "gpt2":
        return Model.from_hf(gpt2_hf(seed=seed, **shape), byte_level_tokenizer(), "tiny-gpt2")
    return Model.from_hf(llama_hf(seed=seed, **shape), metaspace_tokenizer(), "tiny-llama")


def prompt_pairs() -> list[PromptPair]:
    """Pairs of several lengths; clean and corrupted of a pair have equal length."""
    frames = ["The capital of {} is", "{} has its capital in the city of", "In {} the capital is"]
    names = list(COUNTRIES)
    pairs = []
    for index, subject in enumerate(names):
        other = names[(index + 1) % len(names)]
        frame = frames[index % len(frames)]
        pairs.append(
            PromptPair(
                clean=frame.format(subject),
                corrupted=frame.format(other),
                answer=COUNTRIES[subject],
                foil=COUNTRIES[other],
                subject=subject,
                relation="capital",
            )
        )
    return pairs


def equal_length_pairs(model: Model) -> list[TokenPair]:
    """The pairs whose two subjects have the same number of tokens, encoded."""
    usable = []
    for pair in prompt_pairs():
        clean, corrupted = (
            model.tokenizer.encode(pair.clean),
            model.tokenizer.encode(pair.corrupted),
        )
        if len(clean) == len(corrupted):
            usable.append(pair)
    return encode_pairs(model.tokenizer, usable)
