"""From a model's name to Hugging Face weights and tokenizer, or to one clear message.

A name is looked for in this order: the embedded models that ship with the package, those that the
package index has, a local Hugging Face directory or GGUF file, the hub's local cache, the hub.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from filelock import FileLock

from circuits.base.errors import (
    KnowledgeCircuitsError,
    ModelNotFoundError,
    NumericalError,
    StoreError,
    is_out_of_memory,
)
from circuits.base.places import user_cache
from circuits.model import mapped
from circuits.model.architectures import check_architecture, short
from circuits.model.gguf import GgufFile, filled
from circuits.model.packaged import PACKAGED, fetched
from circuits.model.paging import DeviceMap, Paging
from circuits.model.shards import folder_at_hand, stored_weights
from circuits.model.tensors import first_not_finite, parse_device, parse_dtype, weights_hash

logger = logging.getLogger(__name__)

EMBEDDED_DIR = Path(__file__).parent.parent / "embedded"
HUB_TIMEOUT_SECONDS = 4.0
Read = tuple[Any, Any, dict[str, Any], torch.dtype | None]
"""Model, tokenizer, where they are from, and the type that the weights were stored in."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class LoadedWeights:
    """A Hugging Face model and tokenizer, with where they came from.

    `stored_dtype` is what the weights' own files hold, where that is known; `paging` has the
    weights that stay in a file.
    """

    name: str
    hf_model: Any
    hf_tokenizer: Any
    provenance: dict[str, Any]
    stored_dtype: torch.dtype | None = None
    paging: Paging = field(default_factory=Paging)


def embedded_models() -> dict[str, Path]:
    """Names and directories of the models that ship with the package."""
    directories = sorted(EMBEDDED_DIR.glob("*/config.json"))
    return {path.parent.name: path.parent for path in directories}


def is_embedded(name: str) -> bool:
    """Whether a model of this name ships, or is a checkpoint of one that does."""
    return name.partition("@")[0] in embedded_models()


def embedded_checkpoints(name: str) -> dict[str, Path]:
    """Training checkpoints of an embedded model, in order of training.

    They lie beside the model in a source checkout; an installed package has none, and what the
    user put into the cache folder counts as well.
    """
    found: dict[str, Path] = {}
    for folder in (_checkpoint_cache(name), embedded_models()[name] / "checkpoints"):
        found |= {path.parent.name: path.parent for path in folder.glob("*/config.json")}
    return dict(sorted(found.items()))


def _checkpoint_cache(name: str) -> Path:
    return user_cache("checkpoints") / name


@dataclass(frozen=True)
class Source:
    """Where weights and tokenizer are read from; a `revision` only where it is a hub name.

    `is_gguf` says that both are one GGUF file.
    """

    weights: str
    tokenizer: str
    revision: str | None = None
    local_only: bool = True
    is_gguf: bool = False


def resolve(name: str) -> Source:
    """Where to load a model from; ModelNotFoundError in seconds where there is no such model.

    `NAME@REVISION` names a training checkpoint of an embedded model or a revision on the hub.
    """
    if not name.strip():
        raise ModelNotFoundError(
            f"the model has no name; use an embedded model ({', '.join(embedded_models())}), a "
            "Hugging Face directory or a hub name"
        )
    if "\0" in name:
        raise ModelNotFoundError(f"{name!r} is no possible name of a model")
    path = Path(os.path.expanduser(name))  # unlike Path.expanduser, leaves an unknown ~user alone
    base, _, revision = name.partition("@")
    if base in embedded_models():
        return _resolve_embedded(base, revision)
    if name in PACKAGED:
        return _gguf(fetched(name))
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFoundError(
                f"{name!r} is a file; a model is a Hugging Face directory or a .gguf file"
            )
        return _gguf(path)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if files and not (path / "config.json").is_file():
            if len(files) > 1:
                raise ModelNotFoundError(
                    f"{name!r} holds {len(files)} GGUF files; name one, such as {str(files[0])!r}"
                )
            return _gguf(files[0])
        _check_directory(path, name)
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"{name!r} is a directory without config.json, so not a Hugging Face model"
            )
        if not any((path / file).is_file() for file in TOKENIZER_FILES):
            raise ModelNotFoundError(
                f"{name!r} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there"
            )
        return Source(str(path), str(path))
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelNotFoundError(f"there is no directory {name!r}")
    cached = _is_cached(base, revision or None)
    if not cached:
        _check_hub(base, revision or "main")
    return Source(base, base, revision or None, local_only=cached)


def _gguf(path: Path) -> Source:
    return Source(str(path), str(path), is_gguf=True)


def _resolve_embedded(name: str, checkpoint: str) -> Source:
    directory = str(embedded_models()[name])
    if not checkpoint:
        return Source(directory, directory)
    checkpoints = embedded_checkpoints(name)
    if checkpoint not in checkpoints:
        if checkpoints:
            known = f"there are: {', '.join(checkpoints)}"
        else:
            known = (
                "none are installed; put a source checkout's "
                f"circuits/embedded/{name}/checkpoints into {_checkpoint_cache(name)}, or make "
                f"them again there: python -m experiments.train --model {name} --out DIR "
                "--checkpoints DIR"
            )
        raise ModelNotFoundError(f"{name!r} has no checkpoint {checkpoint!r}; {known}")
    return Source(str(checkpoints[checkpoint]), directory)


def load_weights(
    name: str,
    device: str | None = None,
    dtype: str = "fp32",
    shared: Path | None = None,
    device_map: str | None = None,
) -> LoadedWeights:
    """Weights on the device, ready for hooks; no gradient is tracked for any parameter.

    In memory of the processor they are those of all processes that name the same folder `shared`,
    or by a `device_map` in a file that is this process's own.
    """
    from transformers.utils import logging as hf_logging

    torch_dtype, where = parse_dtype(dtype), parse_device(device)
    placing = DeviceMap.of(device_map, where)
    source = resolve(name)
    read: Callable[..., Read] = _from_gguf if source.is_gguf else _from_directory
    paging = Paging()
    progress_was_on = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        if placing is not None:
            file = _own_file(read, source, name, torch_dtype)
            paging = Paging([file], placing.memory)
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
    hf_model.to(where)
    hf_model.eval()
    parameters = dict(hf_model.named_parameters())
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
    return LoadedWeights(name, hf_model, hf_tokenizer, provenance, kept, paging)


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
    config = AutoConfig.from_pretrained(source.weights, **options)
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
        # A pickle from outside is never opened.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.weights, use_safetensors=True, **how, **options
        )
    else:
        loaded = filled(config, weights, **how)
    _check_complete(loaded[1], name)
    stored = getattr(config, "dtype", None)
    kept = stored if isinstance(stored, torch.dtype) else None
    return loaded[0], hf_tokenizer, {"revision": getattr(config, "_commit_hash", None)}, kept


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


def _check_directory(path: Path, name: str) -> None:
    """Refuse, with what helps, directories that hold no plain weights."""
    if (path / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{name!r} holds an adapter, which would be left out; merge it into its base model "
            "(`merge_and_unload` of peft) and save that"
        )
    if any(path.glob("*.safetensors")) or not any(path.glob("pytorch_model*.bin")):
        return
    raise ModelNotFoundError(
        f"{name!r} holds its weights as a pickle, which can run code and is never opened; save "
        "them as safetensors (`save_pretrained` of transformers does)"
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


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether all that is needed of a hub name is at hand; half of it is completed from the hub."""
    from huggingface_hub import try_to_load_from_cache

    def at(file: str) -> str | None:
        found = try_to_load_from_cache(name, file, revision=revision)
        return found if isinstance(found, str) else None

    try:
        at("config.json")
    except ValueError:
        raise ModelNotFoundError(
            f"{name!r} is neither an embedded model ({', '.join(embedded_models())}), nor a "
            "directory, nor a possible hub name"
        ) from None
    try:
        index = at("model.safetensors.index.json")
        shards = {"model.safetensors"}
        if index:
            shards = set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values())
        return bool(at("config.json") and any(map(at, TOKENIZER_FILES)) and all(map(at, shards)))
    except (OSError, ValueError, KeyError, AttributeError):  # a damaged index
        return False


def _check_hub(name: str, revision: str) -> None:
    """One quick request, so that an absent or unreachable model costs seconds and not retries."""
    from huggingface_hub import constants, get_token

    ways_out = (
        f"use an embedded model ({', '.join(embedded_models()) or 'none installed'}), give the "
        "path of a Hugging Face directory, or fetch it on a connected machine with "
        f"`hf download {name}`"
    )
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        raise ModelNotFoundError(
            f"model {name!r} is not in the local cache and offline mode is on; {ways_out}"
        )
    url = f"{constants.ENDPOINT}/{name}/resolve/{revision}/config.json"
    headers = {"User-Agent": "knowledge-circuits"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    try:
        request = Request(url, headers=headers, method="HEAD")
        urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except HTTPError as error:
        reason = {
            401: "asks for a login (`hf auth login`, or HF_TOKEN)",
            403: "refuses access",
            404: "has no such model",
        }
        said = reason.get(error.code, f"answered {error.code}")
        raise ModelNotFoundError(f"the hub {said}: {name!r}; {ways_out}") from None
    except (URLError, TimeoutError, OSError, ValueError):
        raise ModelNotFoundError(
            f"model {name!r} is not in the local cache and the hub cannot be reached; {ways_out}"
        ) from None
