"""What benchmarks measure against: models with random weights, pairs without words, bare passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from circuits.facts.pairs import PromptPair, TokenPair
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span

STEPS = 5
"""Integration steps of EAP-IG."""
N_PAIRS, N_TOKENS, N_SHARED = 8, 20, 6
SHAPES = {"gpt2-small": (12, 768, 12), "gpt2-medium": (24, 1024, 16)}
"""Layers, width and heads."""


def gpt2(shape: str, seed: int = 0) -> GPT2LMHeadModel:
    """A random GPT-2 of the named size, no gradients on its weights."""
    layers, width, heads = SHAPES[shape]
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=width, n_head=heads)).eval()
    return model.requires_grad_(False)


LLAMAS = {
    "tinyllama": (22, 2048, 32, 4, 5632),
    "llama-2-7b": (32, 4096, 32, 32, 11008),
}
"""Layers, width, heads, key-value heads and width of the MLP."""


def llama(shape: str, device: str = "cpu", seed: int = 0) -> LlamaForCausalLM:
    """A random model of the named shape in bf16."""
    layers, width, heads, kv_heads, d_mlp = LLAMAS[shape]
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=d_mlp,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return model.requires_grad_(False)


KINDS: dict[str, dict[str, int]] = {
    "llama": {"num_key_value_heads": 4},
    "gpt_neox": {},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 64},
    "olmo2": {"num_key_value_heads": 4},
    "mixtral": {"num_key_value_heads": 4, "num_local_experts": 8},
}
"""Architectures that differ in what costs: grouped keys, parallel blocks, norms after, experts."""


def of_kind(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model of 8 layers and width 512, of one of `KINDS`."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        num_hidden_layers=8,
        hidden_size=512,
        num_attention_heads=8,
        intermediate_size=1536,
        vocab_size=8192,
        max_position_embeddings=64,
        **KINDS[kind],
    )
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def numbered_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are t0, t1, ...: the benchmarks need ids, not language."""
    end = "<|endoftext|>"
    words = {f"t{index}": index for index in range(size - 1)} | {end: size - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


def random_pairs(model: Model, shared: int = N_SHARED, seed: int = 0) -> list[TokenPair]:
    """Pairs of N_TOKENS tokens that agree in all but four, the first of these at `shared`."""
    generator = np.random.default_rng(seed)
    common = generator.integers(model.d_vocab - 1, size=shared)
    pairs = []
    for _ in range(N_PAIRS):
        clean = generator.integers(model.d_vocab - 1, size=N_TOKENS)
        clean[:shared] = common
        corrupted = clean.copy()
        corrupted[shared : shared + 4] = (clean[shared : shared + 4] + 1) % (model.d_vocab - 1)
        answer, foil = generator.choice(model.d_vocab - 1, size=2, replace=False).tolist()
        prompts = []
        for ids in (clean, corrupted):
            text = " ".join(f"t{index}" for index in ids)
            prompts.append(Prompt(text, tuple(ids.tolist()), (), False, ()))
        text_pair = PromptPair(prompts[0].text, prompts[1].text, f"t{answer}", f"t{foil}")
        span, made_by = Span(shared, shared + 4), model.tokenizer.fingerprint
        pairs.append(TokenPair(text_pair, prompts[0], prompts[1], answer, foil, span, made_by))
    return pairs


def of_one_length(pairs: Sequence[TokenPair]) -> list[list[TokenPair]]:
    """The pairs by the length of their clean prompts."""
    groups: dict[int, list[TokenPair]] = {}
    for pair in pairs:
        groups.setdefault(len(pair.clean.ids), []).append(pair)
    return list(groups.values())


@torch.no_grad()
def forward_all(
    hf_model: PreTrainedModel, prompts: Sequence[Sequence[int]], most: int = 32
) -> None:
    """One forward pass of every prompt, in batches of one length and of at most `most`."""
    groups: dict[int, list[Sequence[int]]] = {}
    for ids in prompts:
        groups.setdefault(len(ids), []).append(ids)
    for group in groups.values():
        for start in range(0, len(group), most):
            tokens = torch.tensor(group[start : start + most], device=hf_model.device)
            hf_model(tokens, logits_to_keep=1, use_cache=False)


class BarePasses:
    """The Hugging Face model alone: forward passes, and forward with backward to the embedding."""

    def __init__(self, hf_model: PreTrainedModel, pairs: list[TokenPair]) -> None:
        hf_model.set_attn_implementation("eager")
        self.hf_model = hf_model
        device = hf_model.device
        self.clean = torch.tensor([pair.clean.ids for pair in pairs], device=device)
        self.answer = torch.tensor([[pair.answer] for pair in pairs], device=device)

    def forward(self) -> Tensor:
        """One forward pass without gradients."""
        with torch.no_grad():
            return self.hf_model(self.clean, logits_to_keep=1, use_cache=False).logits

    def forward_backward(self) -> None:
        """One forward pass and the backward pass to the token embeddings."""
        embedding = self.hf_model.get_input_embeddings()(self.clean).requires_grad_(True)
        logits = self.hf_model(inputs_embeds=embedding, logits_to_keep=1, use_cache=False).logits
        torch.autograd.grad(logits[:, -1].gather(1, self.answer).sum(), embedding)

    def eap(self) -> None:
        """What EAP cannot do without: two forward passes and one backward pass."""
        self.forward()
        self.forward_backward()

    def eap_ig(self) -> None:
        """What EAP-IG at midpoints cannot do without: clean, corrupted, and its steps."""
        self.forward()
        self.forward()
        for _ in range(STEPS):
            self.forward_backward()
