"""Weights and tokenizer from a model's files (`circuits.model.sources`), or one clear message."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from circuits.base.errors import (
    KnowledgeCircuitsError,
    ModelNotFoundError,
    NumericalError,
    StoreError,
    is_out_of_memory,
)
from circuits.model import mapped
from circuits.model.architectures import check_architecture, short
from circuits.model.gguf import GgufFile, filled
from circuits.model.paging import Paging
from circuits.model.placing import DeviceMap
from circuits.model.shards import folder_at_hand, stored_weights
from circuits.model.sources import Source, resolve
from circuits.model.tensors import align, first_not_finite, parse_device, parse_dtype, weights_hash
from circuits.model.wrapped import KEY_MAPPING, is_wrapper, text_name, text_part

logger = logging.getLogger(__name__)

Read = tuple[Any, Any, dict[str, Any], torch.dtype | None]
"""Model, tokenizer, where they are from, and the type that the weights were stored in."""


@dataclass(frozen=True)
class LoadedWeights:
    """A Hugging Face model and tokenizer, with where they came from.

    `stored_dtype` is what the weights' own files hold, where that is known; `paging` brings
    weights that stay elsewhere to the `device` that runs the model, None for where they all are.
    """

    name: str
    hf_model: Any
    hf_tokenizer: Any
    provenance: dict[str, Any]
    stored_dtype: torch.dtype | None = None
    paging: Paging = field(default_factory=Paging)
    device: torch.device | None = None


def load_weights(
    name: str,
    device: str | None = None,
    dtype: str = "fp32",
    shared: Path | None = None,
    device_map: str | None = None,
) -> LoadedWeights:
    """Weights on the device, ready for hooks; no gradient is tracked for any parameter.

    In memory of the processor they are those of all processes that name the same folder `shared`.
    By a `device_map` they are not on the device yet: `Paging.take` gives each its place.
    """
    from transformers.utils import logging as hf_logging

    torch_dtype, where = parse_dtype(dtype), parse_device(device)
    placing = DeviceMap.of(device_map, where)
    source = resolve(name)
    read: Callable[..., Read] = _from_gguf if source.is_gguf else _from_directory
    paging = Paging(placing, where)
    progress_was_on = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        if placing is not None and placing.has_file:
            file = _own_file(read, source, name, torch_dtype)
            paging = Paging(placing, where, [file])
            read = partial(read, weights=file.weights)
        elif shared is not None and where.type == "cpu":
            read = _common(read, shared)
        hf_model, hf_tokenizer, origin, kept = read(source, name, torch_dtype)
    except Exception as error:  # a damaged directory makes the libraries raise almost anything
        if isinstance(error, KnowledgeCircuitsError) or is_out_of_memory(error):
            raise
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ModelNotFoundError(f"{name!r} cannot be loaded: {kind}{gist(error)}") from None
    finally:
        if progress_was_on:
            hf_logging.enable_progress_bar()
    _check_vocabulary(hf_model, hf_tokenizer, name)
    if placing is None:
        hf_model.to(where)
    hf_model.eval()
    parameters = dict(hf_model.named_parameters())
    align(parameters.values())
    if bad := first_not_finite(parameters, paging.use):
        too_large = " in this dtype; try fp32" if torch_dtype == torch.float16 else ""
        raise NumericalError(
            f"{name!r} cannot be used: weight {bad!r} holds NaN or infinity{too_large}"
        )
    provenance = {
        "model": name,
        **origin,
        "dtype": dtype,
        "weights_sha256": weights_hash(parameters, paging.use),
    }
    return LoadedWeights(name, hf_model, hf_tokenizer, provenance, kept, paging, where)


def _own_file(
    read: Callable[..., Read], source: Source, name: str, dtype: torch.dtype
) -> mapped.WeightFile:
    """A file with the weights of this type; those at hand get there one by one."""
    try:
        if source.is_gguf:
            gguf = GgufFile(source.weights, name)
            return mapped.WeightFile.of(gguf.weights(gguf.config(), dtype))
        if folder := folder_at_hand(source.weights, source.revision, source.local_only):
            return mapped.WeightFile.of(stored_weights(folder, dtype))
        own = read(source, name, dtype)
        return mapped.WeightFile.of(own[0].named_parameters())
    except OSError as error:
        if error.errno is None:
            raise
        raise StoreError(
            f"the weights of {name!r} cannot be put into a file of the temporary folder (TMPDIR "
            f"names it): {error.strerror}"
        ) from None
    finally:
        gc.collect()  # modules hold each other, and with them what is in a file from now on


def _common(read: Callable[..., Read], folder: Path) -> Callable[..., Read]:
    """`read`, with the weights that the folder has; who comes first puts them there."""

    def common(source: Source, name: str, dtype: torch.dtype) -> Read:
        path = mapped.place(folder, name, dtype)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                own = read(source, name, dtype)
                try:
                    mapped.write(path, own[0].named_parameters())
                except OSError as error:
                    logger.warning(
                        "the weights of %r are not shared between processes: %s", name, error
                    )
                    return own
                del own
                gc.collect()  # modules hold each other, and with them what is mapped from now on
        return read(source, name, dtype, mapped.read(path))

    return common


def _from_directory(
    source: Source, name: str, dtype: torch.dtype, weights: Mapping[str, torch.Tensor] | None = None
) -> Read:
    """Model and tokenizer of a Hugging Face directory or hub name; `weights` instead of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": source.local_only, "revision": source.revision}
    whole = AutoConfig.from_pretrained(source.weights, **options)
    config = text_part(whole)
    check_architecture(config, name)
    _check_size(config, source.weights, name)
    hf_tokenizer = AutoTokenizer.from_pretrained(source.tokenizer, **options)
    how: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": "eager",
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # `_check_complete` says it in one line
    }
    if weights is None:
        within = {"config": config, "key_mapping": KEY_MAPPING} if is_wrapper(whole) else {}
        with _without_warnings() if within else nullcontext():  # on what is left out
            # A pickle from outside is never opened.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.weights, use_safetensors=True, **within, **how, **options
            )
    else:
        loaded = filled(config, weights, **how)
    report = dict(loaded[1])
    origin = {"revision": getattr(config, "_commit_hash", None)}
    if is_wrapper(whole):
        report["unexpected_keys"] = [x for x in report["unexpected_keys"] if text_name(x)]
        origin["language_model_of"] = whole.model_type
    _check_complete(report, name)
    stored = getattr(whole, "dtype", None) or getattr(config, "dtype", None)
    kept = stored if isinstance(stored, torch.dtype) else None
    return loaded[0], hf_tokenizer, origin, kept


@contextmanager
def _without_warnings() -> Iterator[None]:
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def _from_gguf(
    source: Source, name: str, dtype: torch.dtype, weights: Mapping[str, torch.Tensor] | None = None
) -> Read:
    """Model and tokenizer of a GGUF file, the weights taken out of their blocks or given."""
    file = GgufFile(source.weights, name)
    config = file.config()
    check_architecture(config, name)
    hf_tokenizer = file.tokenizer()
    hf_model, report = file.model(config, dtype, weights)
    _check_complete(report, name)
    return hf_model, hf_tokenizer, {"revision": None, "quantisation": file.quantisation}, None


def _check_vocabulary(hf_model: Any, hf_tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for."""
    highest, rows = max(hf_tokenizer.get_vocab().values(), default=-1), hf_model.config.vocab_size
    if highest >= rows:
        raise ModelNotFoundError(
            f"{name!r} has a tokenizer of {highest + 1} tokens and a model of {rows}; use the "
            "tokenizer that the model was saved with, or resize its embeddings "
            "(`resize_token_embeddings` of transformers)"
        )


def _check_size(config: Any, weights: str, name: str) -> None:
    """Refuse more layers than the file has bytes for, which would take for ever to set up."""
    layers = config.num_hidden_layers
    files = [path.stat().st_size for path in Path(weights).glob("*.safetensors")]
    # A layer has two norms at the least, a weight two bytes.
    if files and (type(layers) is not int or not 0 < layers <= sum(files) // 4):
        raise ModelNotFoundError(
            f"{name!r} cannot be loaded: config.json names {short(layers)} layers, more or less "
            "than its weights can hold"
        )


def gist(error: Exception) -> str:
    """The first line of an error's message, and those after it that a colon announces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    last = next((place for place, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: last + 1])


def _check_complete(report: Mapping[str, Any], name: str) -> None:
    """Refuse weights that are absent, of another shape or of no use.

    `transformers` makes up random ones for the first two and leaves out the last without a word.
    """
    others = sorted(each[0] for each in report["mismatched_keys"])
    faults = (
        (others, "of another shape than config.json says"),
        (sorted(report["missing_keys"]), "missing"),
        (sorted(report["unexpected_keys"]), "there that config.json has no place for"),
    )
    for weights, fault in faults:
        if weights:
            more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
            raise ModelNotFoundError(
                f"{name!r} cannot be loaded: weight {weights[0]!r}{more} {fault}"
            )
