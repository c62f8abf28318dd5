"""A model's weights: read and written by their names, and as the wiring orders heads and norms."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base import plugins
from circuits.base.choices import KeyValue
from circuits.base.errors import NumericalError, OptionError, UnsupportedArchitectureError
from circuits.base.writing import usual_mode
from circuits.model.architectures import Architecture
from circuits.model.norms import Norm
from circuits.model.paging import Paging
from circuits.model.patches import Patching
from circuits.model.taps import Taps
from circuits.model.tensors import first_not_finite, weights_hash
from circuits.model.tokens import Tokenizer

_SMALL = (
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json"),
)
"""Files of a tokenizer that programs beside `transformers` read."""


def _copy_small_files(source: str, folder: Path, revision: str | None) -> None:
    """Those that the tokenizer's folder, or the hub's cache, has and `folder` has not.

    A tokenizer without a source has none.
    """
    from huggingface_hub import try_to_load_from_cache

    if not source:
        return
    for name in _SMALL:
        path: Any = Path(source) / name
        if not Path(source).is_dir():
            path = try_to_load_from_cache(source, name, revision=revision)
        if isinstance(path, str | Path) and Path(path).is_file() and not (folder / name).exists():
            copyfile(path, folder / name)


@dataclass(frozen=True)
class HeadProjections:
    """Query, key and value matrices of a layer with the norm's gain folded in.

    For a residual x with normalised value x_hat, destination t sees `weight[t] @ x_hat +
    offset[t]`; `weight` is centred over d_model where the norm subtracts the mean. Destinations
    stand in the wiring's order: queries, keys, values.
    """

    weight: Float[Tensor, "dst d_head d_model"]
    offset: Float[Tensor, "dst d_head"]


@dataclass
class Origin:
    """Where weights come from, and their versions that it tells of; one for all models of them."""

    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)


class Weights:
    """What `circuits.model.model.Model` can do with its weights; the bridge holds them."""

    name: str
    config: Any
    architecture: Architecture
    _generation: Any  # the generation configuration
    _stored_dtype: torch.dtype | None  # of the files that the weights were read from
    bridge: Any
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    norm_eps: float
    uses_rms_norm: bool
    _parameters: dict[str, torch.nn.Parameter]
    _buffers: dict[str, Tensor]
    _origin: Origin
    patching: Patching
    paging: Paging
    placed: list[Any]  # the edits that are in the weights, the first one first
    _fused: dict[str, tuple[int, str]]  # layer and part (weight or bias) of joint weights
    _aligned: dict[str, int]  # their versions that the bridge has copies of

    @property
    def taps(self) -> Taps:
        """Where this architecture's runs are read."""
        return Taps(self.architecture)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the weights come from, the plugins loaded and the patches in place.

        The hash is that of the weights now.

        Torch counts the changes of every tensor, so they are hashed again only where one changed.
        """
        if self.is_changed:
            now = weights_hash(self._parameters, self.paging.use)
            self.provenance = {**self.origin, "weights_sha256": now}
        return {**self.origin, **plugins.record(), **self.patching.record()}

    @provenance.setter
    def provenance(self, value: dict[str, Any]) -> None:
        self._origin.provenance, self._origin.versions = value, self._count_changes()

    @property
    def origin(self) -> dict[str, Any]:
        """The provenance as it was last set or hashed."""
        return self._origin.provenance

    @property
    def is_changed(self) -> bool:
        """Whether weights were written to since the provenance was set or hashed."""
        return self._count_changes() != self._origin.versions

    def forget_hash(self) -> None:
        """Have the weights hashed again when the provenance is next read."""
        self._origin.versions = {}

    def _count_changes(self) -> dict[str, int]:
        return {name: tensor._version for name, tensor in self._parameters.items()}

    def first_not_finite(self) -> str | None:
        """Name of the first weight that holds NaN or infinity."""
        return first_not_finite(self._parameters, self.paging.use)

    def why_not_finite(self) -> str:
        """The end of a message about a number that is not finite: what is wrong, or what to try."""
        if name := self.first_not_finite():
            return f"the weight {name!r} is not finite"
        if self.dtype != torch.float32:
            return "try `dtype` fp32"
        return "all weights are finite, so a value grew too large on the way"

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of all weights, as Hugging Face has them."""
        return tuple(self._parameters)

    def parameter(self, name: str) -> Tensor:
        """A weight by its Hugging Face name and in its layout; OptionError for an unknown name.

        It is the weight itself, or a copy where a device map has put that elsewhere:
        `set_parameter` is what changes it.
        """
        self.shape(name)
        return self.paging.use(self._parameters[name].detach())

    def shape(self, name: str) -> torch.Size:
        """Shape of a weight, which need not be read for it; OptionError for an unknown name."""
        if name not in self._parameters:
            raise OptionError(f"{self.name!r} has no parameter {name!r}")
        return self._parameters[name].shape

    @torch.no_grad()
    def set_parameter(self, name: str, value: Tensor) -> None:
        """Overwrite a weight in place; `circuits.edits.edit` is what takes a change back."""
        shape = self.shape(name)
        if value.shape != shape:
            raise OptionError(
                f"{name!r} is of shape {tuple(shape)}, the value of {tuple(value.shape)}"
            )
        self.paging.write(self._parameters[name], value)
        self.align()

    @torch.no_grad()
    def align(self) -> None:
        """Have the bridge, which splits joint weights (`Architecture.fused`), run on them.

        Torch counts the changes of a tensor, also those made in place by whoever holds it.
        """
        if self.architecture.fused is None:
            return
        path, split = self.architecture.fused
        for name, (layer, what) in self._fused.items():
            joint = self._parameters[name]
            if joint._version == self._aligned.get(name):
                continue
            value, block = self.paging.use(joint), self.bridge.blocks[layer]
            if name.startswith(path.format(layer)):
                slots = [getattr(block.attn, slot) for slot in "qkv"]
                parts = split(value, self.n_heads, self.d_head)
            else:
                slots, parts = [block.mlp.gate, getattr(block.mlp, "in")], value.chunk(2)
            for slot, part in zip(slots, parts, strict=True):
                self.paging.write(getattr(slot.original_component, what), part)
            self._aligned[name] = joint._version

    def _find_fused(self) -> None:
        """Find the joint weights once; the bridge has just made its copies of them."""
        path, _ = self.architecture.fused or ("", None)
        names = {
            f"{joint.format(layer)}.{what}": (layer, what)
            for joint in (path, self.architecture.fused_mlp)
            for layer in range(self.n_layers)
            for what in ("weight", "bias")
        }
        self._fused = {name: names[name] for name in names if name in self._parameters}
        self._aligned = {name: self._parameters[name]._version for name in self._fused}

    def mlp_output_name(self, layer: int) -> str:
        """Name of the matrix from which a layer's MLP writes (ROME's W)."""
        if not 0 <= layer < self.n_layers:
            raise OptionError(f"{self.name!r} has layers 0 to {self.n_layers - 1}, not {layer}")
        name = self.architecture.mlp_output
        if name is None:
            raise OptionError(
                f"{self.name!r} is a mixture of experts: its MLPs have no one output matrix to edit"
            )
        return name.format(layer)

    def mlp_output_matrix(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The matrix from which a layer's MLP writes, a column a neuron, however it is held."""
        name = self.mlp_output_name(layer)
        weight = self.parameter(name)
        return weight.T if self.is_transposed(name) else weight

    @property
    def is_gated(self) -> bool:
        """Whether a neuron of its MLPs is a product with a gate."""
        return hasattr(self.bridge.blocks[0].mlp, "gate")

    def check_neurons(self, hint: str = "") -> None:
        """UnsupportedArchitectureError, ending in the hint, where MLPs have no one set of them."""
        if self.architecture.mlp_output is None:
            raise UnsupportedArchitectureError(
                f"{self.name!r} mixes experts: its MLPs have no one set of neurons{hint}"
            )

    def block_prefix(self, layer: int) -> str:
        """How the names of all weights of a layer begin."""
        return self.mlp_output_name(layer).partition(f".{layer}.")[0] + f".{layer}."

    def is_transposed(self, name: str) -> bool:
        """True where a matrix is held as input by output (GPT-2's Conv1D)."""
        return self.architecture.transposed and re.search(r"\.c_\w+\.weight$", name) is not None

    def to_hf(self, share: bool = False) -> Any:
        """A plain Hugging Face model with the weights as they are now, none tracking gradients.

        Its tensors are its own; with `share` they are this model's, so that it costs no memory,
        follows every edit, and must not be written to.
        """
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.config)
        config.tie_word_embeddings = self._is_tied
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(
                config, dtype=self.dtype, attn_implementation="eager"
            )
        for name, tensor in {**self._parameters, **self._buffers}.items():
            value = tensor.detach() if share else self.paging.use(tensor.detach()).clone()
            path, _, leaf = name.rpartition(".")
            module = plain.get_submodule(path)
            is_parameter = leaf in module._parameters
            setattr(module, leaf, torch.nn.Parameter(value, False) if is_parameter else value)
        if self._is_tied:
            plain.tie_weights()
        if self._generation is not None:
            plain.generation_config = copy.deepcopy(self._generation)
        if share:
            self.paging.watch(plain)
        return plain.requires_grad_(False).eval()

    @property
    def _is_tied(self) -> bool:
        """Whether embedding and output matrix are one tensor, whatever the configuration says."""
        return "lm_head.weight" not in self._parameters

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights as they are now, configuration and tokenizer for `transformers`.

        Weights that were widened on loading (`load` computes in fp32) are written in the precision
        of their files; NumericalError where a weight has become too large for it. What else the
        tokenizer's files are, and how text is generated, is kept, be it valid or not.
        """
        from transformers import GenerationConfig

        plain, narrow = self.to_hf(share=True), self._stored_dtype
        if narrow in (torch.float16, torch.bfloat16) and self.dtype == torch.float32:
            plain = plain.to(narrow)  # new tensors: those of this model stay as they are
            if bad := first_not_finite(dict(plain.named_parameters())):
                raise NumericalError(f"{bad!r} holds a number too large for {narrow}")
        how, plain.generation_config = plain.generation_config, GenerationConfig()
        plain.save_pretrained(folder)
        # By itself: the model's own saving refuses what generating only warns of.
        how.to_json_file(Path(folder) / "generation_config.json", keys_to_pop=["compile_config"])
        self.tokenizer.hf.save_pretrained(folder)
        _copy_small_files(self.tokenizer.hf.name_or_path, Path(folder), self.origin.get("revision"))
        for path in Path(folder).glob("*.safetensors"):
            path.chmod(usual_mode(Path(folder)))

    @torch.no_grad()
    def head_projections(
        self, layer: int, kv: KeyValue | str = KeyValue.GROUPED
    ) -> HeadProjections:
        """Query, key and value matrices with the norm folded in, as the wiring orders them."""
        weights = torch.cat([w.transpose(1, 2) for w in self.head_input_weights(layer, kv)])
        norm = self.norm(layer, "ln1")
        if norm is not None:
            weights = weights * norm.gain
            weights = weights - weights.mean(-1, keepdim=True) if norm.centres else weights
        return HeadProjections(weights, self.head_offsets(layer, kv))

    def head_input_weights(
        self, layer: int, kv: KeyValue | str = KeyValue.GROUPED
    ) -> list[Float[Tensor, "head d_model d_head"]]:
        """W_Q, W_K and W_V as the model holds them; one K and V a query head where asked for."""
        with self.paging.reading(self.bridge.blocks[layer].attn) as attention:
            return [self._each_query(getattr(attention, f"W_{slot}"), slot, kv) for slot in "QKV"]

    @torch.no_grad()
    def head_offsets(
        self, layer: int, kv: KeyValue | str = KeyValue.GROUPED
    ) -> Float[Tensor, "dst d_head"]:
        """What queries, keys and values are where the normalised residual is zero."""
        norm, offsets = self.norm(layer, "ln1"), []
        shift = None if norm is None else norm.shift
        with self.paging.reading(self.bridge.blocks[layer].attn) as attention:
            parts = [[getattr(attention, f"{part}_{letter}") for part in "Wb"] for letter in "QKV"]
        for letter, (weight, bias) in zip("QKV", parts, strict=True):
            offset = weight.new_zeros(weight.shape[0], weight.shape[2])
            if bias is not None:
                offset = offset + bias.reshape(offset.shape)
            if shift is not None:
                offset = offset + torch.einsum("d,hde->he", shift, weight)
            offsets.append(self._each_query(offset, letter, kv))
        return torch.cat(offsets)

    def _each_query(self, value: Tensor, letter: str, kv: KeyValue | str) -> Tensor:
        if letter == "Q" or KeyValue.of(kv).is_shared:
            return value
        return value.repeat_interleave(self.n_heads // self.n_kv_heads, 0)

    def output_matrices(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Each head's output matrix W_O."""
        with self.paging.reading(self.bridge.blocks[layer].attn) as attention:
            matrices: Tensor = attention.W_O
        return matrices

    def head_output_weights(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head adds to the residual stream: W_O, times the gain of a norm after it.

        With such a norm it acts on outputs that are divided as `share_heads` divides them.
        """
        matrices, norm = self.output_matrices(layer), self.norm(layer, "ln1_post")
        return matrices if norm is None else matrices * norm.gain

    def head_output_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """The attention block's output bias, which belongs to no head; None where there is none."""
        return self.bridge.blocks[layer].attn.b_O

    def norm(self, layer: int, name: str) -> Norm | None:
        """A layer's norm by the bridge's name (ln1, ln1_post, q_norm, ...), if there is one."""
        block = self.bridge.blocks[layer]
        owner = block.attn if name in ("q_norm", "k_norm") else block
        component = owner._modules.get(name)
        return None if component is None else self._norm(component)

    @property
    def last_norm(self) -> Norm:
        """The norm before the output matrix."""
        return self._norm(self.bridge.ln_final)

    def _norm(self, component: Any) -> Norm:
        return Norm.of(component, self.architecture.gain_from_one, self.dtype, self.device)

    def final_norm(self) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"] | None]:
        """Gain and, where there is one, shift of the norm before the output matrix."""
        return self.last_norm.gain, self.last_norm.shift

    def activation(self, value: Float[Tensor, "*rest d_mlp"]) -> Float[Tensor, "*rest d_mlp"]:
        """The MLPs' activation, element by element."""
        from transformers.activations import ACT2FN

        names = ("activation_function", "hidden_activation", "hidden_act", "activation")
        kind = next(kind for name in names if (kind := getattr(self.config, name, None)))
        return ACT2FN[kind](value)

    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """Output matrix, one row a token."""
        return self.paging.use(self.bridge.unembed.weight)

    def unembedding_bias(self) -> Float[Tensor, " d_vocab"] | None:
        """What is added to the logits whatever the residual stream; None where there is nothing."""
        return getattr(self.bridge.unembed.original_component, "bias", None)

    def embedding_std(self) -> float:
        """Standard deviation of the token embedding matrix, the unit of causal tracing's noise."""
        with self.paging.reading(self.bridge.embed) as embed:
            std = float(embed.weight.float().std())
        return std * float(getattr(self.bridge.embed.original_component, "embed_scale", 1.0))
