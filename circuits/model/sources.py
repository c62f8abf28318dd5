"""From a model's name to the files that hold it, or to one clear message.

A name is looked for in this order: the embedded models that ship with the package, those that the
package index has, a local Hugging Face directory or GGUF file, the hub's local cache, the hub.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from circuits.base.errors import ModelNotFoundError
from circuits.base.places import user_cache
from circuits.model.packaged import PACKAGED, embedded_models, fetched

HUB_TIMEOUT_SECONDS = 4.0
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")  # of a split GGUF file


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
        files = [each for each in sorted(path.glob("*.gguf")) if not _LATER_PART.search(each.name)]
        is_plain = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
        if files and not is_plain:
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


def embedded_checkpoints(name: str) -> dict[str, Path]:
    """Training checkpoints of an embedded model, in order of training.

    They lie beside the model in a source checkout; an installed package has none, and what the
    user put into the cache folder counts as well.
    """
    found: dict[str, Path] = {}
    for folder in (_checkpoint_cache(name), embedded_models()[name] / "checkpoints"):
        found |= {path.parent.name: path.parent for path in folder.glob("*/config.json")}
    return dict(sorted(found.items()))


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


def _checkpoint_cache(name: str) -> Path:
    return user_cache("checkpoints") / name


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
    token = get_token()
    request = Request(url, headers={"User-Agent": "knowledge-circuits"}, method="HEAD")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        build_opener(_LoginStays).open(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except HTTPError as error:
        error.close()
        said = _said(error, name, revision, bool(token))
        raise ModelNotFoundError(f"the hub {said}; {ways_out}") from None
    except (URLError, TimeoutError, OSError, ValueError):
        raise ModelNotFoundError(
            f"model {name!r} is not in the local cache and the hub cannot be reached; {ways_out}"
        ) from None


class _LoginStays(HTTPRedirectHandler):
    """Follows redirects; the login goes along within one server, as the hub's own do."""

    def redirect_request(self, request: Request, *told: Any) -> Request | None:
        onward = super().redirect_request(request, *told)
        login = request.get_header("Authorization")
        asked = urlsplit(request.full_url)  # behind a proxy `host` is the proxy
        if onward and login and urlsplit(onward.full_url)[:2] == asked[:2]:
            onward.add_unredirected_header("Authorization", login)
        return onward


def _said(error: HTTPError, name: str, revision: str, logged_in: bool) -> str:
    """What the hub's refusal of a model's config.json says; it answers 401 for a typo too."""
    if error.headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        return f"does not take your token for {name!r} (`hf auth login`, or HF_TOKEN)"
    if logged_in:
        absent = f"has no model {name!r} that your login may read"
    else:
        absent = f"has no model {name!r}, or only after a login (`hf auth login`, or HF_TOKEN)"
    codes = {
        "RepoNotFound": absent,
        "RevisionNotFound": f"has no revision {revision!r} of {name!r}",
        "EntryNotFound": f"has {name!r} without config.json, so not as a Hugging Face model: merge "
        "an adapter into its base model, and name a GGUF file by its path",
        "GatedRepo": f"gives {name!r} to those only who accept its terms on its page and log in "
        "(`hf auth login`, or HF_TOKEN)",
    }
    if said := codes.get(error.headers.get("X-Error-Code", "")):
        return said
    if error.code in (401, 404):
        return absent
    refused = "refuses access to" if error.code == 403 else f"answered {error.code} for"
    return f"{refused} {name!r}"
