"""A language model with hooks: the only file that imports TransformerLens.

`Model` wraps a `TransformerBridge` with its raw weights; everything else in the project asks it
for logits under forward hooks and for weights. Where a run can be read or
changed stands in `circuits.model.taps`.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.choices import KeyValue
from circuits.base.errors import (
    KnowledgeCircuitsError,
    ModelNotFoundError,
    NumericalError,
    OptionError,
    is_out_of_memory,
)
from circuits.model.architectures import Architecture, attention_windows, check_architecture
from circuits.model.blocks import Blocks
from circuits.model.holding import alone
from circuits.model.loading import LoadedWeights, gist, load_weights
from circuits.model.packaged import embedded_tokenizers
from circuits.model.patches import Patching
from circuits.model.saying import NextTokens
from circuits.model.taps import UNEMBED, resid_post
from circuits.model.tensors import dtype_name, first_not_finite, parse_dtype, weights_hash
from circuits.model.tokens import Tokenizer, usual_bos
from circuits.model.weights import Origin
from circuits.model.wiring import Wiring

os.environ.setdefault("WANDB_MODE", "disabled")  # a dependency of TransformerLens, never used here

Hook = tuple[str, Callable[..., Any]]

# A strided slice into the bf16 output matrix is 200 times slower than a contiguous one.
CONTIGUOUS: Hook = (UNEMBED, lambda x, hook: x.contiguous())


@dataclass(frozen=True)
class Prefix:
    """Keys and values of positions that several runs have in common, one pair a layer."""

    length: int
    keys_values: tuple[tuple[Tensor, Tensor], ...]

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys_values[layer]

    def rows(self, layer: int, batch: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values for so many prompts; fewer rows serve again and again."""
        keys, values = self.keys_values[layer]
        times = batch // keys.shape[0]
        if times == 1:
            return keys, values
        if keys.shape[0] == 1:
            return keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)
        return keys.repeat(times, 1, 1, 1), values.repeat(times, 1, 1, 1)

    def take(self, rows: Int[Tensor, " some"]) -> Prefix:
        """That of some prompts; one that all of them share stays as it is."""
        if self.keys_values[0][0].shape[0] == 1:
            return self
        pairs = tuple((keys[rows], values[rows]) for keys, values in self.keys_values)
        return replace(self, keys_values=pairs)


class Model(Blocks):
    """A decoder-only transformer whose every head and MLP can be read and replaced.

    `bridge` is the TransformerBridge of TransformerLens that runs it, for whatever is not here.
    """

    def __init__(self, weights: LoadedWeights) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        hf_model = weights.hf_model
        check_architecture(hf_model.config, weights.name)
        self.name = weights.name
        self.max_tokens: int = hf_model.config.max_position_embeddings
        bos = usual_bos(weights.hf_tokenizer, hf_model.config.model_type)
        self.tokenizer = Tokenizer(weights.hf_tokenizer, bos, self.max_tokens)
        # The bridge keeps these very tensors, under other names.
        self._parameters: dict[str, torch.nn.Parameter] = dict(hf_model.named_parameters())
        self._origin = Origin()
        self.provenance = {
            **weights.provenance,
            "tokenizer_sha256": self.tokenizer.fingerprint,
            "versions": library_versions(),
        }
        self._turn, self.placed = threading.RLock(), []
        self._stored_sha256: str | None = None  # of the weights as `load` found them
        self.patching, self._hooked = Patching(), 0
        self.most_rows = sys.maxsize  # of a batch, as far as memory has shown
        self.memory: int | None = None  # bytes that attribution takes, where a search says nothing
        buffers = dict(hf_model.named_buffers())
        self.config = hf_model.config
        self.config.architectures = [type(hf_model).__name__]
        self.architecture = Architecture.of(self.config)
        self.windows = attention_windows(self.config)
        if self.architecture.mlp_output is None:  # other ways to run experts lack some dtypes
            self.config._experts_implementation = "eager"
        self._generation = getattr(hf_model, "generation_config", None)
        self._stored_dtype = weights.stored_dtype
        self.bridge = TransformerBridge.boot_transformers(
            f"local-{self.config.model_type}",  # a label: weights and tokenizer are given
            hf_model=hf_model,
            tokenizer=_for_bridge(weights.hf_tokenizer),
            device=weights.device or hf_model.device,
            dtype=hf_model.dtype,
        )
        self.bridge.eval()
        for parameter in self.bridge.parameters():  # the bridge's own copies want gradients
            parameter.requires_grad_(False)
        config = self.bridge.cfg
        self.n_layers: int = config.n_layers
        self.n_heads: int = config.n_heads
        self.n_kv_heads: int = getattr(config, "n_key_value_heads", None) or config.n_heads
        self.d_model: int = config.d_model
        self.d_head: int = config.d_head
        self.d_vocab: int = hf_model.config.vocab_size
        self.norm_eps: float = config.eps
        self.uses_rms_norm = bool(self.bridge.ln_final.uses_rms_norm)
        self.device: torch.device = weights.device or hf_model.device
        self.dtype: torch.dtype = hf_model.dtype
        self._find_fused()
        self.paging = weights.paging
        self.paging.take(self.bridge)  # with the parameters that the bridge has split
        self._buffers = {name: each.to(self.device) for name, each in buffers.items()}

    @classmethod
    def from_hf(cls, hf_model: Any, hf_tokenizer: Any, name: str = "in-memory") -> Model:
        """Wrap a model and tokenizer that are already in memory.

        The model is modified: its submodules become the bridge's. ValueError for a second wrap.
        """
        if any("GeneralizedComponent" in str(type(part).__mro__) for part in hf_model.modules()):
            raise ValueError("this model is wrapped already; make a fresh one for a second Model")
        hf_model.set_attn_implementation("eager")
        provenance = {
            "model": name,
            "revision": None,
            "weights_sha256": weights_hash(dict(hf_model.named_parameters())),
            "dtype": dtype_name(hf_model.dtype),
        }
        return cls(LoadedWeights(name, hf_model.eval(), hf_tokenizer, provenance))

    def with_bos(self, bos: bool | None) -> Model:
        """The same model, weights included, for which `bos` None means this; itself for None.

        What is done to the weights of one, and what their provenance says of it, holds for both.

        PromptError for a BOS that the tokenizer does not have.
        """
        if bos is None or self.tokenizer.use_bos(bos) == self.tokenizer.default_bos:
            return self
        other = copy.copy(self)
        other.tokenizer = Tokenizer(self.tokenizer.hf, bos, self.max_tokens)
        other._stored_sha256 = None  # loading its name gives the other choice
        return other

    @property
    def is_as_stored(self) -> bool:
        """Whether loading its name gives it again: no edit, patch, other BOS or other change."""
        now = self.provenance["weights_sha256"]
        return now == self._stored_sha256 and not (self.placed or self.patching.patches)

    def check_castable(self) -> None:
        """OptionError where `in_dtype` cannot be had."""
        if self.patching.patches:
            raise OptionError(
                f"{self.name!r} is patched, and is not cast to another precision; patch a model "
                "that is loaded in that precision"
            )
        if self.paging.active:
            raise OptionError(
                f"the weights of {self.name!r} are changed and not all where it runs, so they are "
                "not cast to another precision; load it without `device_map`"
            )

    @alone
    @torch.no_grad()
    def in_dtype(self, dtype: str) -> Model:
        """Another model with these weights, edits included, cast to fp32, bf16 or fp16.

        OptionError as `check_castable`; NumericalError where a weight is too large.
        """
        self.check_castable()
        kind, origin = parse_dtype(dtype), self.provenance
        plain = self.to_hf()
        for parameter in plain.parameters():  # no buffers: loading leaves those as they are, too
            parameter.data = parameter.data.to(kind)
        plain.config.dtype = kind
        if bad := first_not_finite(dict(plain.named_parameters())):
            raise NumericalError(f"the weight {bad!r} of {self.name!r} is not finite in {dtype}")
        made = Model.from_hf(plain, self.tokenizer.hf, self.name)
        made.provenance = {**origin, **made.origin, "revision": origin.get("revision")}
        made.memory = self.memory
        return made.with_bos(self.tokenizer.default_bos)

    def wiring(self, kv: KeyValue | str = KeyValue.GROUPED) -> Wiring:
        """The model's graph."""
        parallel = bool(self.architecture.parallel)
        return Wiring(self.n_layers, self.n_heads, self.n_kv_heads, KeyValue.of(kv), parallel)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.wiring().describe()}, {self.device}, {self.dtype})"

    # --- asking ------------------------------------------------------------------------------

    @alone
    @torch.no_grad()
    def ask(self, prompt: str, k: int = 5) -> NextTokens:
        """The k most likely next tokens of a prompt, with their probabilities."""
        ids = self.tokenizer.encode(prompt).ids
        return self.said(prompt, self.last_logits(torch.tensor([ids], device=self.device))[0], k)

    def said(self, prompt: str, logits: Float[Tensor, " d_vocab"], k: int = 5) -> NextTokens:
        """The k most likely next tokens of a prompt whose logits these are."""
        if not 1 <= k <= self.d_vocab:
            raise OptionError(f"`k` is between 1 and {self.d_vocab}, not {k}")
        values, best = logits.float().softmax(-1).topk(k)
        tokens = tuple(self.tokenizer.token_string(token) for token in best.tolist())
        return NextTokens(prompt, tokens, tuple(values.tolist()))

    @alone
    @torch.no_grad()
    def generate(self, prompt: str, n_tokens: int = 20) -> str:
        """The greedy continuation of a prompt, as text."""
        ids = list(self.tokenizer.encode(prompt).ids)
        if n_tokens < 1:
            raise OptionError(f"`n_tokens` is at least 1, not {n_tokens}")
        self.check_length(len(ids) + n_tokens - 1)
        said: list[int] = []
        for _ in range(n_tokens):
            logits = self.last_logits(torch.tensor([ids + said], device=self.device))
            said.append(int(logits[0].argmax()))
        return str(self.tokenizer.hf.decode(said))

    # --- running -----------------------------------------------------------------------------

    def last_logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        hooks: Iterable[Hook] = (),
        prefix: Prefix | None = None,
        ends: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits after the last position. Hooks are gone when this returns or raises.

        With a prefix, `tokens` are those that follow it. Where rows are padded behind, `ends` is
        the place among the tokens of each row's last one. Gradients flow where a hook makes a
        tensor require them; wrap the call in `torch.no_grad()` where none is wanted.
        """
        self.check_length(tokens.shape[1] + (prefix.length if prefix else 0))
        options = {"past_key_values": _cache(prefix, tokens.shape[0])} if prefix else {}
        with self.alone(), self.patching.positions(prefix.length if prefix else 0):
            logits = self.bridge.run_with_hooks(
                tokens,
                fwd_hooks=[*hooks, *self._at(ends), CONTIGUOUS],
                logits_to_keep=1,
                **options,
            )
        return logits[:, -1]

    def _at(self, ends: Int[Tensor, " batch"] | None) -> list[Hook]:
        """Has what follows the layers see each row's own last state at the last position."""
        if ends is None:
            return []

        def move(value: Tensor, hook: Any) -> Tensor:
            moved = value.clone()
            moved[:, -1] = value[torch.arange(len(ends), device=ends.device), ends]
            return moved

        return [(resid_post(self.n_layers - 1), move)]  # after all hooks there

    @torch.no_grad()
    def last_logits_and_prefix(
        self,
        tokens: Int[Tensor, "batch pos"],
        hooks: Iterable[Hook] = (),
        ends: bool = True,
        prefix: Prefix | None = None,
    ) -> tuple[Float[Tensor, "batch d_vocab"], Prefix]:
        """Logits after the last position, and the keys and values of this hooked run.

        `ends` says that these are whole prompts, and not their beginning. With a prefix, `tokens`
        are those that follow it, and the keys and values are of both.
        """
        from transformers.cache_utils import DynamicCache

        start = prefix.length if prefix else 0
        self.check_length(start + tokens.shape[1])
        cache: Any = _cache(prefix, tokens.shape[0]) if prefix else DynamicCache()
        with self.alone(), self.patching.positions(start, ends):
            logits = self.bridge.run_with_hooks(
                tokens,
                fwd_hooks=[*hooks, CONTIGUOUS],
                logits_to_keep=1,
                past_key_values=cache,
                use_cache=True,
            )
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return logits[:, -1], Prefix(start + tokens.shape[1], layers)

    def check_length(self, length: int) -> None:
        """OptionError where a prompt of so many tokens does not fit the model."""
        if length > self.max_tokens:
            raise OptionError(
                f"a prompt of {length} tokens is too long for {self.name!r}, which takes "
                f"{self.max_tokens}"
            )

    @contextmanager
    def hooks(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Forward hooks that are in place within a `with` block.

        Whoever asks within it asks prompts of one length together, as hooks may be of positions.
        """
        self._hooked += 1
        try:
            with self.alone(), self.bridge.hooks(fwd_hooks=list(hooks)):
                yield
        finally:
            self._hooked -= 1

    @property
    def is_embedded(self) -> bool:
        """Whether it ships, or is made of a model that does: a copy, an edit, a checkpoint.

        Such a model was trained on the atlas' own wordings. It is known by its tokenizer.
        """
        return self.tokenizer.fingerprint in embedded_tokenizers()

    @property
    def acts_by_place(self) -> bool:
        """Whether patches or hooks are in place, which may be of a prompt's positions."""
        return bool(self.patching.patches or self._hooked)

    @torch.no_grad()
    def share_prefix(self, tokens: Int[Tensor, "batch pos"]) -> Prefix | None:
        """Keys and values of a common beginning; computed once where all rows are the same."""
        if tokens.shape[1] == 0:
            return None
        rows = tokens[:1] if bool((tokens == tokens[:1]).all()) else tokens
        return self.last_logits_and_prefix(rows, ends=False)[1]


def load(
    name: str | Path,
    device: str | None = None,
    dtype: str = "fp32",
    *,
    shared: Path | None = None,
    device_map: str | None = None,
) -> Model:
    """A model by name (`kc models`), local Hugging Face directory, GGUF file or hub name.

    `device` is cpu, cuda, cuda:N, mps or None for cuda where there is one, else cpu; `dtype` is
    fp32, bf16 or fp16. Processes that name one folder `shared`, of their own, have one copy of the
    weights in the processor's memory; an edit is seen in its own process alone. By a `device_map`
    disk, or cpu=2GiB,disk, no more than so much of the weights is in memory, and the rest in a
    file. A model on a GPU may have weights elsewhere, from where they are copied to it when they
    are read: `auto`, or places with sizes and one for the rest, as cuda:0=20GiB,cuda:1=20GiB,cpu.
    Raises ModelNotFoundError or UnsupportedArchitectureError with one line that says what to do.
    """
    if not isinstance(name, str | Path):
        raise OptionError(f"a model is named by text or a path, not by {name!r}")
    weights = load_weights(str(name), device, dtype, shared, device_map)
    try:
        model = Model(weights)
        with torch.no_grad():  # what a damaged configuration breaks, the first pass shows
            logits = model.last_logits(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    except Exception as error:
        if isinstance(error, KnowledgeCircuitsError) or is_out_of_memory(error):
            raise
        raise ModelNotFoundError(
            f"{weights.name!r} cannot be run: {type(error).__name__}: {gist(error)}"
        ) from None
    if not bool(torch.isfinite(logits).all()):
        raise NumericalError(
            f"{weights.name!r} gives logits that are not finite; {model.why_not_finite()}"
        )
    model._stored_sha256 = weights.provenance["weights_sha256"]
    return model


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("knowledge-circuits", "torch", "transformer-lens", "transformers")
    return {name: version(name) for name in names}


def _for_bridge(hf_tokenizer: Any) -> Any:
    """A copy that the bridge will not try to reload from the hub."""
    tokenizer = copy.deepcopy(hf_tokenizer)
    tokenizer.init_kwargs.setdefault("name_or_path", "local")
    tokenizer.init_kwargs["add_bos_token"] = True
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _cache(prefix: Prefix, batch: int) -> Any:
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    for layer in range(len(prefix.keys_values)):
        cache.update(*prefix.rows(layer, batch), layer)
    return cache
