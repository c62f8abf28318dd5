"""GGUF files: weights in quantised blocks, configuration and tokenizer in one file.

Weights are taken out of their blocks exactly (a block is a scale, an offset and small integers, see
the `gguf` package), tensor by tensor and some rows at a time, so that hardly more than the plain
weights is in memory. The header is read here because the library's own reader takes seconds for a
vocabulary of 50,000.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from circuits.base.errors import ModelNotFoundError, UnsupportedArchitectureError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS |= {12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ITEMS = 10_000_000
_CHUNK = 1 << 22
"""Weights taken out of their blocks at a time."""


@dataclass(frozen=True)
class Layout:
    """How an architecture's file differs from its Hugging Face model.

    `fields` are configuration fields by the file's key, `turned` the layers whose matrices are
    stored transposed, `interleaved` those whose rows are stored in the order that pairs the two
    halves of a rotary embedding (query and key heads).
    """

    fields: Mapping[str, str]
    turned: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()


_COMMON = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "rope.dimension_count": "head_dim",
}
LAYOUTS = {
    "llama": Layout(_COMMON, interleaved=("attn_q", "attn_k")),
    "gpt2": Layout(
        {
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
}
"""Architectures whose files are read, by the name in the file."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file; `shape` as torch has it."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufFile:
    """The header of a GGUF file, and its weights when they are asked for.

    ModelNotFoundError where the file is damaged, UnsupportedArchitectureError where its
    architecture or one of its tensors is not covered.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self.name = Path(path), name
        try:
            with open(self.path, "rb") as file:
                self.metadata, self.tensors, self._start = _Header(file).read()
        except (ValueError, EOFError, struct.error, OSError, MemoryError) as error:
            raise ModelNotFoundError(f"{name!r} is no readable GGUF file: {error}") from None
        self.architecture = str(self.metadata.get("general.architecture"))
        if self.architecture not in LAYOUTS:
            raise UnsupportedArchitectureError(
                f"{name!r} is a GGUF file of architecture {self.architecture!r}, which is not "
                f"covered; covered: {', '.join(sorted(LAYOUTS))}"
            )
        if "token_embd.weight" not in self.tensors:
            raise ModelNotFoundError(f"{name!r} is a GGUF file without weights or token embeddings")
        self.layout = LAYOUTS[self.architecture]

    @cached_property
    def quantisation(self) -> str:
        """The types of the stored tensors, the most frequent first, such as Q4_1 F32 Q8_0."""
        from gguf import GGMLQuantizationType

        kinds = Counter(each.kind for each in self.tensors.values())
        return " ".join(GGMLQuantizationType(kind).name for kind, _ in kinds.most_common())

    def config(self) -> Any:
        """The Hugging Face configuration that the metadata describe."""
        from transformers import AutoConfig

        prefix = f"{self.architecture}."
        scaling = self.metadata.get(f"{prefix}rope.scaling.type", "none")
        if scaling != "none" or "rope_freqs.weight" in self.tensors:
            raise UnsupportedArchitectureError(
                f"{self.name!r} is a GGUF file with scaled rotary embeddings, which is not "
                "covered; use the Hugging Face directory that it was made from"
            )
        found = {
            field: self.metadata[prefix + key]
            for key, field in self.layout.fields.items()
            if prefix + key in self.metadata
        }
        special = {
            f"{token}_token_id": self.metadata[f"tokenizer.ggml.{token}_token_id"]
            for token in ("bos", "eos")
            if f"tokenizer.ggml.{token}_token_id" in self.metadata
        }
        return AutoConfig.for_model(
            self.architecture,
            vocab_size=self.tensors["token_embd.weight"].shape[0],
            tie_word_embeddings="output.weight" not in self.tensors,
            **found,
            **special,
        )

    def tokenizer(self) -> Any:
        """The tokenizer in the file."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(
            self.path.parent, gguf_file=self.path.name, local_files_only=True
        )

    def model(
        self, config: Any, dtype: torch.dtype, weights: Mapping[str, Tensor] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The Hugging Face model of this configuration, and what `transformers` says of loading.

        `weights` are plain ones of this type, where they are at hand.
        """
        if weights is None:
            weights = dict(self.weights(config, dtype))
        return filled(
            config,
            weights,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the caller says it in one line
        )

    def _names(self, parameters: list[str], config: Any) -> dict[str, str]:
        """The file's name for every parameter of the model; all of the file's are used."""
        from gguf import MODEL_ARCH, get_tensor_name_map

        known = get_tensor_name_map(MODEL_ARCH[self.architecture.upper()], config.num_hidden_layers)
        found = {}
        for ours in parameters:  # a tied output matrix is none of them
            layer, _, leaf = ours.rpartition(".")
            name = f"{known.get_name(layer)}.{leaf}"
            if name not in self.tensors:
                raise ModelNotFoundError(f"{self.name!r} cannot be loaded: weight {ours!r} missing")
            found[ours] = name
        if unused := sorted(set(self.tensors) - set(found.values())):
            raise UnsupportedArchitectureError(
                f"{self.name!r} holds {unused[0]!r}, which a plain {self.architecture} has no "
                "place for"
            )
        return found

    def weights(self, config: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Plain weights of this type by their Hugging Face names, one after the other."""
        names = self._names(parameter_names(config), config)
        with open(self.path, "rb") as file:
            for ours, name in names.items():
                value = self._plain(file, name, dtype)
                layer = name.split(".")[-2]
                if layer in self.layout.interleaved:
                    heads = _heads(config, layer)
                    pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, -1)
                    value = pairs.transpose(1, 2).reshape(value.shape)
                if layer in self.layout.turned and value.ndim == 2:
                    value = value.T.contiguous()
                yield ours, value

    def _plain(self, file: IO[bytes], name: str, dtype: torch.dtype) -> Tensor:
        """One tensor out of its blocks, a few rows at a time."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        stored = self.tensors[name]
        kind = GGMLQuantizationType(stored.kind)
        block, size = GGML_QUANT_SIZES[kind]
        width = stored.shape[-1]
        rows, row_bytes = prod(stored.shape[:-1]), width // block * size
        value = torch.empty(rows, width, dtype=dtype)
        step = max(1, _CHUNK // width)
        file.seek(self._start + stored.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            raw = np.fromfile(file, np.uint8, count * row_bytes)
            try:
                part = dequantize(raw.reshape(count, row_bytes), kind)
            except (ValueError, NotImplementedError) as error:
                raise ModelNotFoundError(
                    f"{self.name!r} cannot be loaded: {name}: {error}"
                ) from None
            value[start : start + count] = torch.from_numpy(part)
        return value.reshape(stored.shape)


def parameter_names(config: Any) -> list[str]:
    """Names of the parameters of a model that is not there yet."""
    return [name for name, _ in _blank(config).named_parameters()]


def filled(config: Any, weights: Mapping[str, Tensor], **options: Any) -> Any:
    """What `from_pretrained` of `transformers` gives of these weights, which it does not copy."""
    return type(_blank(config)).from_pretrained(
        None, config=config, state_dict=dict(weights), **options
    )


def _blank(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _heads(config: Any, layer: str) -> int:
    return config.num_key_value_heads if layer == "attn_k" else config.num_attention_heads


class _Header:
    """A reader of the little-endian header, versions 2 and 3."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor], int]:
        """Metadata (arrays only by their lengths), tensors, and where their data begin."""
        if self.file.read(4) != b"GGUF":
            raise ValueError("it does not begin as one")
        version = self._number("I")
        if version not in (2, 3):
            raise ValueError(f"its version {version} is not 2 or 3")
        n_tensors, n_values = self._number("Q"), self._number("Q")
        if max(n_tensors, n_values) > _MOST_ITEMS:
            raise ValueError("its header is damaged")
        metadata = {}
        for _ in range(n_values):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        tensors = {}
        for _ in range(n_tensors):
            name = self._text()
            sides = [self._number("Q") for _ in range(self._number("I"))]
            tensors[name] = StoredTensor(
                tuple(reversed(sides)), self._number("I"), self._number("Q")
            )
        align = metadata.get("general.alignment", 32)
        return metadata, tensors, -(-self.file.tell() // align) * align

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"it holds a value of the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if count > _MOST_ITEMS:
            raise ValueError("its header is damaged")
        if inner in _NUMBERS:
            self._bytes(count * struct.calcsize(_NUMBERS[inner]))
        else:
            for _ in range(count):
                self._value(inner)
        return count

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._bytes(struct.calcsize(kind)))[0]

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8")

    def _bytes(self, count: int) -> bytes:
        if count > 1 << 30:
            raise ValueError("its header is damaged")
        found = self.file.read(count)
        if len(found) < count:
            raise EOFError("it is cut short")
        return found
