"""GGUF files: weights in quantised blocks, configuration and tokenizer in one file.

Weights are taken out of their blocks exactly (a block is a scale, an offset and small integers, see
the `gguf` package), tensor by tensor and some rows at a time, so that hardly more than the plain
weights is in memory. `gguf_layouts` says how each architecture lies in its file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from circuits.base.errors import ModelNotFoundError, UnsupportedArchitectureError
from circuits.model.gguf_header import Header
from circuits.model.gguf_layouts import JOINED, LAYOUTS, llama3_rope

_ROPE_FACTORS = "rope_freqs.weight"

_CHUNK = 1 << 22
"""Weights taken out of their blocks at a time."""


class GgufFile:
    """The header of a GGUF file, and its weights when they are asked for.

    ModelNotFoundError where the file is damaged, UnsupportedArchitectureError where its
    architecture or one of its tensors is not covered.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self.name = Path(path), name
        try:
            with open(self.path, "rb") as file:
                self.metadata, self.tensors, self._start = Header(file).read()
        except (ValueError, EOFError, struct.error, OSError, MemoryError) as error:
            raise ModelNotFoundError(f"{name!r} is no readable GGUF file: {error}") from None
        if (parts := self.metadata.get("split.count", 1)) > 1:
            raise ModelNotFoundError(
                f"{name!r} is one of the {parts} parts of a split GGUF file; join them "
                "(`llama-gguf-split --merge` of llama.cpp) and name the whole"
            )
        self.architecture = str(self.metadata.get("general.architecture"))
        prefix = f"{self.architecture}."
        self._facts = {
            key.removeprefix(prefix): value
            for key, value in self.metadata.items()
            if key.startswith(prefix)
        }
        row = self.architecture
        if row == "llama" and self._facts.get("expert_count"):
            row = "llama with experts"
        if row not in LAYOUTS:
            raise UnsupportedArchitectureError(
                f"{name!r} is a GGUF file of architecture {self.architecture!r}, which is not "
                f"covered; covered: {', '.join(sorted(LAYOUTS))}"
            )
        if "token_embd.weight" not in self.tensors:
            raise ModelNotFoundError(f"{name!r} is a GGUF file without weights or token embeddings")
        self.layout = LAYOUTS[row]

    @cached_property
    def quantisation(self) -> str:
        """The types of the stored tensors, the most frequent first, such as Q4_1 F32 Q8_0."""
        from gguf import GGMLQuantizationType

        kinds = Counter(each.kind for each in self.tensors.values())
        return " ".join(GGMLQuantizationType(kind).name for kind, _ in kinds.most_common())

    def config(self) -> Any:
        """The Hugging Face configuration that the metadata describe."""
        from transformers import AutoConfig

        facts = self._facts
        found = {field: facts[key] for key, field in self.layout.fields.items() if key in facts}
        special = {
            f"{token}_token_id": self.metadata[f"tokenizer.ggml.{token}_token_id"]
            for token in ("bos", "eos")
            if f"tokenizer.ggml.{token}_token_id" in self.metadata
        }
        try:
            settings = self.layout.settings(facts, frozenset(self.tensors))
        except KeyError as error:
            raise ModelNotFoundError(
                f"{self.name!r} is a GGUF file that does not say its {error.args[0]}"
            ) from None
        if "rope_parameters" in settings:
            settings["rope_parameters"] = self._scaled(settings["rope_parameters"])
        return AutoConfig.for_model(
            self.layout.kind,
            vocab_size=self.tensors["token_embd.weight"].shape[0],
            tie_word_embeddings="output.weight" not in self.tensors,
            **found,
            **settings,
            **special,
        )

    def _scaled(self, rope: dict[str, Any]) -> dict[str, Any]:
        """The rotation, stretched as the file says; where layers differ, of those that see all."""
        kind = self._facts.get("rope.scaling.type", "none")
        if "full_attention" in rope:
            return rope | {"full_attention": self._scaled(rope["full_attention"])}
        found: dict[str, Any] | None = None
        if _ROPE_FACTORS in self.tensors:
            if kind == "none" and "rope_theta" in rope:
                found = llama3_rope(self._rope_factors(), rope)
        elif kind == "none":
            found = rope
        elif kind in ("linear", "yarn") and "rope.scaling.factor" in self._facts:
            found = rope | {"rope_type": kind, "factor": self._facts["rope.scaling.factor"]}
            original = self._facts.get("rope.scaling.original_context_length")
            if kind == "yarn" and original is not None:
                found["original_max_position_embeddings"] = original
        if found is None:
            raise UnsupportedArchitectureError(
                f"{self.name!r} is a GGUF file whose rotary embeddings are scaled in a way that is "
                "not covered; use the Hugging Face directory that it was made from"
            )
        return found

    def _rope_factors(self) -> Tensor:
        with open(self.path, "rb") as file:
            return self._plain(file, _ROPE_FACTORS, torch.float64)

    def tokenizer(self) -> Any:
        """The tokenizer in the file, whatever tokenizer lies beside it."""
        from transformers import PreTrainedTokenizerFast

        with TemporaryDirectory() as empty:  # `transformers` prefers what the folder has
            found = PreTrainedTokenizerFast.from_pretrained(
                empty, gguf_file=str(self.path.absolute()), local_files_only=True
            )
        found.name_or_path = found.init_kwargs["name_or_path"] = ""  # no folder has its files
        found.init_kwargs.pop("gguf_file", None)
        return found

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

    def _names(self, parameters: list[str], config: Any) -> dict[str, tuple[str, ...]]:
        """The file's names for every parameter of the model; all of the file's are used."""
        from gguf import MODEL_ARCH, get_tensor_name_map

        kind = MODEL_ARCH[self.layout.named]
        known = get_tensor_name_map(kind, config.num_hidden_layers)
        found = {}
        for ours in parameters:  # a tied output matrix is none of them
            layer, _, leaf = ours.rpartition(".")
            names: tuple[str, ...] = (f"{known.get_name(layer)}.{leaf}",)
            if whole := known.get_name(ours):  # experts' matrices are parameters without a layer
                names = (f"{whole}.weight",)
            for ending, parts in JOINED.items():
                if ours.endswith(ending):
                    block = ours.removesuffix(f".{ending}").rpartition(".")[2]
                    names = tuple(f"blk.{block}.{part}.weight" for part in parts)
            if not set(names) <= set(self.tensors):
                raise ModelNotFoundError(f"{self.name!r} cannot be loaded: weight {ours!r} missing")
            found[ours] = names
        used = {name for names in found.values() for name in names} | {_ROPE_FACTORS}
        if unused := sorted(set(self.tensors) - used):
            raise UnsupportedArchitectureError(
                f"{self.name!r} holds {unused[0]!r}, which a plain {self.architecture} has no "
                "place for"
            )
        return found

    def weights(self, config: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Plain weights of this type by their Hugging Face names, one after the other."""
        names = self._names(parameter_names(config), config)
        with open(self.path, "rb") as file:
            for ours, parts in names.items():
                values = [
                    self.layout.plain(
                        self._plain(file, name, dtype), name.rpartition(".")[0], config
                    )
                    for name in parts
                ]
                yield ours, values[0] if len(values) == 1 else torch.cat(values, 1)

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
